//! Futures polled by hand, with wakers that count.
#![allow(dead_code, reason = "each test program uses a part")]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

/// How often a waker was woken.
#[derive(Default)]
pub(crate) struct Count(AtomicUsize);

impl Count {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

pub(crate) fn waker() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count::default());
    (Arc::clone(&count), Waker::from(count))
}

/// A future, and the waker that it is polled with.
pub(crate) struct Sleeper<F> {
    future: Pin<Box<F>>,
    count: Arc<Count>,
    waker: Waker,
    roused: usize,
}

impl<F: Future> Sleeper<F> {
    pub(crate) fn new(future: F) -> Self {
        let (count, waker) = waker();
        Self { future: Box::pin(future), count, waker, roused: 0 }
    }

    /// One that is asleep.
    pub(crate) fn polled(future: F) -> Self {
        let mut sleeper = Self::new(future);
        assert!(sleeper.poll().is_pending(), "nothing to wait for");
        sleeper
    }

    pub(crate) fn poll(&mut self) -> Poll<F::Output> {
        self.future.as_mut().poll(&mut Context::from_waker(&self.waker))
    }

    pub(crate) fn woken(&self) -> usize {
        self.count.count()
    }

    /// Whether it was woken since this was last asked.
    pub(crate) fn rouse(&mut self) -> bool {
        let woken = self.woken();
        std::mem::replace(&mut self.roused, woken) < woken
    }
}

/// The smallest runtime there is.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

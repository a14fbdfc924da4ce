//! How old the answers of reads may be: the header that says so, and the parameter that limits it.
//!
//! A node of a cluster shows each second that it is fresh: a frame that it made comes back to it. A
//! node that has not shown so for more than two seconds is *stale*. What was acknowledged anywhere
//! in this time may be missing from its answers. A server alone is never stale.

use super::live;
use super::router::route;
use crate::app::App;
use crate::error::ApiError;
use crate::params::max_stale;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Duration;

const STALE: &str = "ringlog-stale";

/// A node is stale if it was fresh longer ago: twice the interval of the frames that show it.
const FRESH: Duration = Duration::from_secs(2);

/// How old the answer may be, where that is known better than at the start of the request: a pull
/// that has waited reads again.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadAt {
    pub(super) stale_for: Duration,
}

/// Refuses reads that want fresher answers than there are, and says of the others how stale they
/// may be.
pub(super) async fn tell_stale(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let limit = max_stale(request.uri().query());
    let of_stream = (route(&request) == Some("live")).then(|| request.headers().clone());
    let refuse = |error: ApiError| match &of_stream {
        Some(headers) => live::refuse(error, headers, app.limits.max_subscribers),
        None => error.into_response(),
    };
    let limit = match limit {
        Ok(limit) => limit.unwrap_or(Duration::MAX),
        Err(error) => return refuse(error),
    };
    // What is read from here on is at most so old.
    let stale_for = app.stale_for();
    if let Err(error) = check(stale_for, limit) {
        return refuse(error);
    }
    let mut response = next.run(request).await;
    let read_at = response.extensions().get().copied().unwrap_or(ReadAt { stale_for });
    if let Err(error) = check(read_at.stale_for, limit) {
        return refuse(error);
    }
    if read_at.stale_for > FRESH {
        let millis = u64::try_from(read_at.stale_for.as_millis()).unwrap_or(u64::MAX);
        response.headers_mut().insert(STALE, millis.into());
    }
    response
}

fn check(stale_for: Duration, limit: Duration) -> Result<(), ApiError> {
    if stale_for <= limit.max(FRESH) {
        return Ok(());
    }
    let (stale, limit) = (stale_for.as_secs_f64(), limit.as_secs_f64());
    Err(ApiError::unavailable(
        "STALE",
        format!("this node may be stale by {stale:.1} seconds, and `max_stale` is {limit}: ask another one"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_shows_itself_fresh_as_often_as_it_should_is_refused_by_no_limit() {
        let of = Duration::from_millis;
        for (stale_for, limit) in [(0, 0), (2000, 0), (2000, 1000), (5000, 5000)] {
            assert!(check(of(stale_for), of(limit)).is_ok(), "{stale_for} {limit}");
        }
        for (stale_for, limit) in [(2001, 0), (5001, 5000)] {
            assert!(check(of(stale_for), of(limit)).is_err(), "{stale_for} {limit}");
        }
        let said = check(of(3456), of(2500)).unwrap_err().json();
        assert!(said.contains("stale by 3.5 seconds, and `max_stale` is 2.5"), "{said}");
    }
}

//! Stream tickets: tokens for the URL of one live stream.
//!
//! A browser's `EventSource` and `WebSocket` cannot send an `Authorization` header, and a URL is no
//! place for a bearer token: it stands in the logs of proxies and in the history of browsers. So a
//! reader exchanges its token for a ticket, which opens one live stream, within seconds, and
//! nothing else.
//!
//! A ticket is good once, also for the stream that it opened. An `EventSource` that has lost its
//! connection asks for the same URL again; were the ticket still good then, it would be a bearer
//! token in a URL for as long as the stream lasts, for every reader of the log that it stands in.
//! The used ticket gets 401 instead, upon which an `EventSource` gives up (`readyState` is
//! `CLOSED`): that is where a page gets another ticket, and goes on from the last id that it has
//! seen. A restart of the server, which knows no ticket of the former process, ends in the same
//! place.

use crate::error::ApiError;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The random bytes of a ticket.
const TICKET_BYTES: usize = 24;

/// The tickets that are issued and not used yet.
pub struct Tickets {
    /// Until when each is good.
    unused: Mutex<HashMap<String, Instant>>,
    most: usize,
    ttl: Duration,
}

impl Tickets {
    pub fn new(most: usize, ttl: Duration) -> Self {
        Self { unused: Mutex::default(), most, ttl }
    }

    /// How long a ticket is good.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// A new ticket, unless there are too many.
    pub fn issue(&self) -> Result<String, ApiError> {
        let mut bytes = [0; TICKET_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| ApiError::internal(&error))?;
        let ticket = URL_SAFE_NO_PAD.encode(bytes);
        let now = Instant::now();
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        if unused.len() >= self.most {
            unused.retain(|_, until| *until > now);
        }
        if unused.len() >= self.most {
            return Err(ApiError::unavailable(
                "TOO_MANY_TICKETS",
                format!(
                    "{} stream tickets are not used yet, the most that are allowed (--max-tickets)",
                    self.most
                ),
            ));
        }
        unused.insert(ticket.clone(), now + self.ttl);
        Ok(ticket)
    }

    /// Uses a ticket up. False if it is not good (any longer).
    pub fn redeem(&self, ticket: &str) -> bool {
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        unused.remove(ticket).is_some_and(|until| until > Instant::now())
    }
}

//! A frame: one message of the stream.
//!
//! The first byte is the number of the format, the rest is postcard's encoding of [`Frame`]. A
//! request is the JSON text that its client sent, byte for byte: each node parses the same text.

use bytes::Bytes;
use ringlog::Incarnation;
use serde::{Deserialize, Serialize};

/// The number of the format. A node that reads another one stops: it cannot know the state after.
pub(crate) const FORMAT: u8 = 1;

/// The requests of a frame have so many bytes together, unless a single one is longer.
pub(crate) const MAX_REQUESTS: usize = 256 << 10;

/// What a frame has besides its requests, at most, but for the lengths of all but one of these: up
/// to five bytes a request, and a request has more than fifty.
pub(crate) const OVERHEAD: usize = 256;

/// What one node asks all nodes to apply: some requests, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Frame<'a> {
    /// The session that sends it.
    pub(crate) session: Session,
    /// Its number in the session: 1, 2, …
    pub(crate) n: u64,
    /// The state that its node had when it took the first of the requests; without any, when the
    /// frame was made.
    pub(crate) claim: Claim,
    /// When it was made, in milliseconds since 1970: the time of its events.
    pub(crate) timestamp_millis: u64,
    /// The bodies of the pushes. A frame without any only tells that its node lives.
    #[serde(borrow)]
    pub(crate) requests: Vec<&'a str>,
    /// The log's incarnation from here on: an operator has [reset](super::machine#reset) it.
    pub(crate) reset: Option<Incarnation>,
}

/// Names the sender of frames: random for each life of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Session(pub(crate) u64);

/// A position, and the hash of all frames up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) position: u64,
    pub(crate) hash: u128,
}

/// Why a message is no frame that this node can apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame has format {0}; this version reads format {FORMAT}: upgrade this node")]
    Format(u8),
    #[error("a message is no frame: {0}")]
    Malformed(String),
}

impl<'a> Frame<'a> {
    /// In the place of a message that is no frame.
    pub(crate) fn none() -> Self {
        let claim = Claim { position: 0, hash: 0 };
        Self { session: Session(0), n: 0, claim, timestamp_millis: 0, requests: Vec::new(), reset: None }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let len: usize = self.requests.iter().map(|request| request.len() + 10).sum();
        let mut bytes = Vec::with_capacity(OVERHEAD + len);
        bytes.push(FORMAT);
        postcard::to_extend(self, bytes)
            .unwrap_or_else(|error| unreachable!("integers and texts are encoded: {error}"))
            .into()
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, FrameError> {
        match bytes.split_first() {
            Some((&FORMAT, frame)) => match postcard::take_from_bytes(frame) {
                Ok((frame, [])) => Ok(frame),
                Ok((_, rest)) => Err(FrameError::Malformed(format!("{} bytes follow it", rest.len()))),
                Err(error) => Err(FrameError::Malformed(error.to_string())),
            },
            Some((&format, _)) => Err(FrameError::Format(format)),
            None => Err(FrameError::Malformed("it is empty".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_frame_comes_back_as_it_was_and_no_beginning_of_it_is_a_frame(
            (session, n, position) in any::<(u64, u64, u64)>(),
            (hash, timestamp_millis) in any::<(u128, u64)>(),
            requests in prop::collection::vec(".{0,40}", 0..5),
            reset in any::<Option<[u8; 16]>>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let requests = requests.iter().map(String::as_str).collect();
            let claim = Claim { position, hash };
            let reset = reset.map(Incarnation::from_bytes);
            let frame = Frame { session: Session(session), n, claim, timestamp_millis, requests, reset };
            let bytes = frame.encode();
            prop_assert_eq!(Frame::decode(&bytes), Ok(frame));
            prop_assert!(Frame::decode(&bytes[..cut.index(bytes.len())]).is_err());
            prop_assert!(Frame::decode(&[&bytes[..], b"x"].concat()).is_err());
        }

        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::decode(&[&[FORMAT], &bytes[..]].concat());
            prop_assume!(bytes.first().is_some_and(|byte| *byte != FORMAT));
            prop_assert_eq!(Frame::decode(&bytes), Err(FrameError::Format(bytes[0])));
        }
    }

    #[test]
    fn the_lengths_of_many_requests_are_no_more_than_five_bytes_each() {
        let request = r#"{"changes":[{"entity":"e","row_id":"r","kind":"insert"}]}"#;
        let requests = vec![request; MAX_REQUESTS / request.len()];
        let (count, len) = (requests.len(), requests.len() * request.len());
        let claim = Claim { position: u64::MAX, hash: u128::MAX };
        let frame = Frame { session: Session(1), n: 1, claim, timestamp_millis: 1, requests, reset: None };
        assert!(frame.encode().len() <= len + OVERHEAD + 5 * count);
    }

    #[test]
    fn a_frame_has_no_more_bytes_than_its_requests_and_the_overhead() {
        let text = "x".repeat(MAX_REQUESTS);
        let claim = Claim { position: u64::MAX, hash: u128::MAX };
        let requests = vec![&*text];
        let reset = Some(Incarnation::from_bytes([u8::MAX; 16]));
        let (session, n, timestamp_millis) = (Session(u64::MAX), u64::MAX, u64::MAX);
        let frame = Frame { session, n, claim, timestamp_millis, requests, reset };
        assert!(frame.encode().len() <= MAX_REQUESTS + OVERHEAD);
    }
}

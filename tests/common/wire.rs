//! What comes over the wire: arbitrary bytes never panic, the seed's types agree on what is a
//! message, and what parses says the same when it is written and read again.

use crate::reserved_key::{can_be_renamed, renamed};
use pylon_sync as seed;
use ringlog::Cursor;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Takes bytes as each thing that a client or another server may send.
pub(crate) fn check(bytes: &[u8]) {
    same_message::<ringlog::PushRequest, seed::PushRequest>(bytes);
    same_message::<ringlog::ClientChange, seed::ClientChange>(bytes);
    same_message::<ringlog::PullResponse, seed::PullResponse>(bytes);
    same_message::<ringlog::ChangeEvent, seed::ChangeEvent>(bytes);
    same_message::<ringlog::ChangeKind, seed::ChangeKind>(bytes);
    same_message::<ringlog::SyncCursor, seed::SyncCursor>(bytes);
    if let Ok(text) = str::from_utf8(bytes) {
        a_token_is_written_as_it_was_read(text);
    }
}

/// Both parse or neither does, and both write the same bytes, but for the reserved key; what ours
/// writes parses to the same again.
fn same_message<Ours: Serialize + DeserializeOwned, Theirs: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let ours = serde_json::from_slice::<Ours>(bytes).inspect(it_comes_back);
    if !can_be_renamed(bytes) {
        return;
    }
    match (ours, serde_json::from_slice::<Theirs>(&renamed(bytes))) {
        (Ok(ours), Ok(theirs)) => assert_eq!(renamed(written(&ours)), renamed(written(&theirs))),
        // Ours may name the field before it says the same.
        (Err(ours), Err(theirs)) => {
            let (ours, theirs) = (ours.to_string(), theirs.to_string());
            assert!(renamed(&ours).ends_with(&renamed(&theirs)), "{ours}; {theirs}");
        }
        (ours, theirs) => panic!("ours parsed: {:?}, the seed's: {:?}", ours.is_ok(), theirs.is_ok()),
    }
}

/// What was written is read as the same again.
fn it_comes_back<T: Serialize + DeserializeOwned>(message: &T) {
    let json = written(message);
    let again = serde_json::from_str::<T>(&json).expect("it was written by us");
    assert_eq!(json, written(&again));
}

fn written(message: &impl Serialize) -> String {
    serde_json::to_string(message).expect("it was parsed from JSON")
}

/// There is one way to write a cursor: what parses is what would be written, as a string and in
/// JSON.
fn a_token_is_written_as_it_was_read(text: &str) {
    let Ok(cursor) = text.parse::<Cursor>() else { return };
    assert_eq!(cursor.to_string(), text);
    let json = serde_json::to_string(&cursor).expect("a string");
    assert_eq!(json, format!("\"{text}\""));
    assert_eq!(serde_json::from_str::<Cursor>(&json).expect("it was written by us"), cursor);
}

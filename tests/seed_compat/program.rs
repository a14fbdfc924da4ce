//! A program as users of pylon-sync 0.2.3 write them, using the whole of its API and nothing else.
//!
//! It is built twice: here on ringlog, which `Cargo.toml` calls `pylon-sync`, and by
//! `tests/seed_compat.rs` on pylon-sync itself. So it is a program of the seed, and ringlog takes
//! its place without a changed line.
#![forbid(unsafe_code)]

use pylon_sync::{
    ChangeEvent, ChangeKind, ChangeLog, ClientChange, PullError, PullResponse, PushRequest, SyncCursor,
};
use std::sync::Arc;

/// A sync server's core: it takes pushes, and answers pulls in JSON.
#[derive(Clone)]
pub struct Server {
    log: Arc<ChangeLog>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server of {} events", self.log.len())
    }
}

impl Server {
    /// A server whose log holds so many events.
    pub fn new(capacity: usize) -> Self {
        Self { log: Arc::new(ChangeLog::with_capacity(capacity)) }
    }

    /// Applies a push and returns the cursor after it. An op id that was seen is not applied again.
    ///
    /// # Errors
    ///
    /// When the request is not JSON.
    pub fn push(&self, request: &str) -> Result<SyncCursor, serde_json::Error> {
        let PushRequest { changes, client_id } = serde_json::from_str(request)?;
        let client = client_id.unwrap_or_else(|| "anon".into());
        let mut last_seq = SyncCursor::beginning().last_seq;
        for ClientChange { entity, row_id, kind, data, op_id } in changes {
            let op_id = op_id.map(|op_id| format!("{client}/{op_id}"));
            if op_id.as_deref().is_some_and(|op_id| self.log.has_seen_op_id(op_id)) {
                continue;
            }
            last_seq = self.log.append(&entity, &row_id, kind, data);
            if let Some(op_id) = op_id {
                self.log.remember_op_id(&op_id);
            }
        }
        Ok(SyncCursor { last_seq })
    }

    /// The answer to a pull: changes, or where to start again.
    pub fn pull(&self, cursor: &SyncCursor, limit: usize) -> String {
        match self.log.pull(cursor, limit) {
            Ok(PullResponse { changes, cursor, has_more }) => {
                let rows: Vec<String> = changes.iter().map(line).collect();
                format!("{} then {} more={has_more}", rows.join(", "), cursor.last_seq)
            }
            // One variant, so one arm: this must go on compiling.
            Err(PullError::ResyncRequired { oldest_seq, cursor }) => {
                format!("resync {} at {oldest_seq}", cursor.last_seq)
            }
        }
    }
}

fn line(event: &ChangeEvent) -> String {
    let sign = match event.kind {
        ChangeKind::Insert => '+',
        ChangeKind::Update => '~',
        ChangeKind::Delete => '-',
    };
    format!("{}{sign}{}/{}", event.seq, event.entity, event.row_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Serialize, de::DeserializeOwned};
    use serde_json::{Value, json};
    use std::fmt::Debug;
    use std::panic::{RefUnwindSafe, UnwindSafe};

    #[test]
    fn signatures_are_the_seeds() {
        let _: fn() -> ChangeLog = ChangeLog::new;
        let _: fn(usize) -> ChangeLog = ChangeLog::with_capacity;
        let _: fn(&ChangeLog, &str, &str, ChangeKind, Option<Value>) -> u64 = ChangeLog::append;
        let _: fn(&ChangeLog, &SyncCursor, usize) -> Result<PullResponse, PullError> = ChangeLog::pull;
        let _: fn(&ChangeLog, &str) -> bool = ChangeLog::has_seen_op_id;
        let _: fn(&ChangeLog, &str) = ChangeLog::remember_op_id;
        let _: fn(&ChangeLog) -> usize = ChangeLog::len;
        let _: fn(&ChangeLog) -> bool = ChangeLog::is_empty;
        let _: fn() -> SyncCursor = SyncCursor::beginning;
    }

    #[test]
    fn traits_are_the_seeds() {
        fn message<T: Debug + Clone + Serialize + DeserializeOwned + Send + Sync + UnwindSafe>() {}
        fn equal<T: Eq>() {}
        fn error<T: Debug + Clone + Send + Sync + UnwindSafe>() {}
        fn shared<T: Send + Sync + UnwindSafe + RefUnwindSafe>() {}
        message::<ChangeEvent>();
        message::<ChangeKind>();
        message::<SyncCursor>();
        message::<PullResponse>();
        message::<PushRequest>();
        message::<ClientChange>();
        equal::<ChangeEvent>();
        equal::<ChangeKind>();
        equal::<SyncCursor>();
        error::<PullError>();
        shared::<ChangeLog>();
    }

    #[test]
    fn a_fresh_log_is_empty() {
        let log = ChangeLog::new();
        assert!(log.is_empty());
        assert_eq!(log.len(), 0);
        let answer = log.pull(&SyncCursor::beginning(), 10).unwrap();
        assert_eq!(
            (answer.changes, answer.cursor, answer.has_more),
            (vec![], SyncCursor { last_seq: 0 }, false)
        );
    }

    #[test]
    fn what_is_appended_is_pulled() {
        let log = ChangeLog::new();
        let data = json!({ "title": "tea", "tags": ["a", null, 2.5] });
        assert_eq!(log.append("Todo", "t1", ChangeKind::Insert, Some(data.clone())), 1);
        assert_eq!(log.append("Todo", "t1", ChangeKind::Delete, None), 2);
        let answer = log.pull(&SyncCursor { last_seq: 0 }, 10).unwrap();
        let [first, second] = &answer.changes[..] else { panic!("{answer:?}") };
        let ChangeEvent { seq, entity, row_id, kind, data: told, timestamp } = first.clone();
        assert_eq!((seq, &*entity, &*row_id, kind, told), (1, "Todo", "t1", ChangeKind::Insert, Some(data)));
        assert!(timestamp.ends_with('Z'));
        assert_eq!((second.seq, &second.kind, &second.data), (2, &ChangeKind::Delete, &None));
    }

    #[test]
    fn null_is_data() {
        let log = ChangeLog::new();
        log.append("Todo", "t1", ChangeKind::Update, Some(Value::Null));
        assert_eq!(log.pull(&SyncCursor::beginning(), 1).unwrap().changes[0].data, Some(Value::Null));
    }

    #[test]
    fn pages_follow_each_other() {
        let server = Server::new(100);
        for row in 1..=5 {
            server.log.append("T", &row.to_string(), ChangeKind::Update, None);
        }
        assert_eq!(server.pull(&SyncCursor::beginning(), 2), "1~T/1, 2~T/2 then 2 more=true");
        assert_eq!(server.pull(&SyncCursor { last_seq: 2 }, 2), "3~T/3, 4~T/4 then 4 more=true");
        assert_eq!(server.pull(&SyncCursor { last_seq: 4 }, 2), "5~T/5 then 5 more=false");
        assert_eq!(server.pull(&SyncCursor { last_seq: 5 }, 2), " then 5 more=false");
        assert_eq!(server.pull(&SyncCursor { last_seq: 3 }, 0), " then 3 more=true");
    }

    #[test]
    fn a_cursor_that_fell_behind_or_came_from_elsewhere_starts_again() {
        let server = Server::new(2);
        for row in 1..=4 {
            server.log.append("T", &row.to_string(), ChangeKind::Insert, None);
        }
        assert_eq!(server.log.len(), 2);
        assert_eq!(server.pull(&SyncCursor { last_seq: 0 }, 9), "resync 0 at 3");
        assert_eq!(server.pull(&SyncCursor { last_seq: 1 }, 9), "resync 1 at 3");
        assert_eq!(server.pull(&SyncCursor { last_seq: 2 }, 9), "3+T/3, 4+T/4 then 4 more=false");
        assert_eq!(server.pull(&SyncCursor { last_seq: 4 }, 9), " then 4 more=false");
        assert_eq!(server.pull(&SyncCursor { last_seq: 5 }, 9), "resync 5 at 5");
    }

    #[test]
    fn an_op_id_is_applied_once() {
        let server = Server::new(100);
        let request = r#"{"changes": [
            {"entity": "T", "row_id": "1", "kind": "insert", "data": {"n": 1}, "op_id": "a"},
            {"entity": "T", "row_id": "1", "kind": "delete"}
        ], "client_id": "c"}"#;
        assert_eq!(server.push(request).unwrap(), SyncCursor { last_seq: 2 });
        assert_eq!(server.push(request).unwrap(), SyncCursor { last_seq: 3 });
        assert!(server.log.has_seen_op_id("c/a"));
        assert!(!server.log.has_seen_op_id("a"));
        assert_eq!(server.pull(&SyncCursor::beginning(), 9), "1+T/1, 2-T/1, 3-T/1 then 3 more=false");
    }

    #[test]
    fn messages_look_the_same_on_the_wire() {
        let event = ChangeEvent {
            seq: 7,
            entity: "Todo".into(),
            row_id: "t1".into(),
            kind: ChangeKind::Update,
            data: None,
            timestamp: "2026-11-22T07:09:00.123Z".into(),
        };
        let answer = PullResponse {
            changes: vec![event.clone()],
            cursor: SyncCursor { last_seq: 7 },
            has_more: false,
        };
        let json = r#"{"changes":[{"seq":7,"entity":"Todo","row_id":"t1","kind":"update","timestamp":"2026-11-22T07:09:00.123Z"}],"cursor":{"last_seq":7},"has_more":false}"#;
        assert_eq!(serde_json::to_string(&answer).unwrap(), json);
        assert_eq!(serde_json::from_str::<PullResponse>(json).unwrap().changes, [event]);

        let change = ClientChange {
            entity: "Todo".into(),
            row_id: "t1".into(),
            kind: ChangeKind::Insert,
            data: Some(json!(1)),
            op_id: Some("o1".into()),
        };
        let request = PushRequest { changes: vec![change], client_id: None };
        let json = r#"{"changes":[{"entity":"Todo","row_id":"t1","kind":"insert","data":1,"op_id":"o1"}]}"#;
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        assert!(serde_json::from_str::<PushRequest>(r#"{"changes":[]}"#).unwrap().client_id.is_none());
    }

    #[test]
    fn a_bad_request_is_an_error() {
        let server = Server::new(10);
        assert!(server.push(r#"{"changes": [{"kind": "Insert"}]}"#).is_err());
        assert!(server.push(r#"{"changes": [{"entity": "T", "row_id": "1", "kind": "upsert"}]}"#).is_err());
        assert_eq!(format!("{server:?}"), "Server of 0 events");
    }

    #[test]
    fn threads_share_it_as_an_arc() {
        // Appenders only: with a puller beside them the seed deadlocks (`tests/threads.rs` has that
        // test).
        let server = Server::new(1_000);
        let append = |server: Server| {
            for _ in 0..200 {
                server.log.append("T", "1", ChangeKind::Insert, None);
            }
        };
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let server = server.clone();
                std::thread::spawn(move || append(server))
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(server.log.len(), 400);
        assert_eq!(server.pull(&SyncCursor { last_seq: 399 }, 9), "400+T/1 then 400 more=false");
    }
}

//! Followers on threads: each keeps a copy of a table by following the log that the writers append
//! to.
//!
//! `cargo run --release --example follow`. Three followers: one from the start, one that comes
//! late, and one that wants todos only. When the writers are done the log is closed, which ends the
//! followers. Each ends with the rows that the writers left, or the program fails.

use ringlog::{Change, ChangeKind, ChangeLog, Events, Filter, Follower, Query};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Row by entity and id, with its data.
type Table = BTreeMap<(String, String), String>;

const WRITERS: u64 = 4;
const CHANGES_EACH: u64 = 50_000;

fn main() {
    let log = Arc::new(ChangeLog::with_capacity((WRITERS * CHANGES_EACH) as usize));
    let all = Filter::entities(["Todo", "User"]);
    let todos = Filter::entity("Todo");

    let early = follow(log.follow(0), &all);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let log = Arc::clone(&log);
            thread::spawn(move || write(&log, writer))
        })
        .collect();
    let some = follow(log.follow(0), &todos);

    // This one comes when a part has been written: the log has it all, so it misses nothing.
    let head = log.blocking_wait_for(10_000, Duration::from_secs(60)).expect("the writers write");
    let late = follow(log.follow(0), &all);
    println!("a late follower starts with the log at {head}");

    let mut expected = Table::new();
    for writer in writers {
        expected.extend(writer.join().expect("the writer ends"));
    }
    // What was appended before is handed out; after that there is nothing to wait for.
    log.close();
    for (name, follower) in [("early", early), ("late", late)] {
        let (table, batches) = follower.join().expect("the follower ends");
        assert_eq!(table, expected, "the {name} follower has what was written");
        println!("the {name} follower has {} rows, from {batches} batches", table.len());
    }
    let (table, batches) = some.join().expect("the follower ends");
    expected.retain(|(entity, _), _| entity == "Todo");
    assert_eq!(table, expected, "the todos, and nothing else");
    println!("the follower of todos has {} rows, from {batches} batches", table.len());
    assert_eq!(log.stats().waiters, 0, "nobody is left waiting");
}

/// Appends changes to rows of its own. Returns the rows that are left.
fn write(log: &ChangeLog, writer: u64) -> Table {
    let mut left = Table::new();
    for number in 0..CHANGES_EACH {
        let entity = if number % 10 == 0 { "Todo" } else { "User" };
        let row_id = format!("{writer}-{}", number % 100);
        let data = format!(r#"{{"version":{number}}}"#);
        let row = (entity.to_owned(), row_id.clone());
        if number % 3 == 0 {
            log.append_change(&Change::delete(entity, &row_id));
            left.remove(&row);
        } else {
            let raw = serde_json::from_str(&data).expect("JSON");
            log.append_change(&Change::update(entity, &row_id).with_raw(raw));
            left.insert(row, data);
        }
    }
    left
}

/// Keeps a table until the log is closed. Returns it, and how many batches that took.
fn follow(mut follower: Follower, filter: &Filter) -> thread::JoinHandle<(Table, u64)> {
    let filter = filter.clone();
    thread::spawn(move || {
        let query: Query<'_> = filter.limit(1_000);
        let (mut table, mut batches) = (Table::new(), 0);
        // The window holds everything here. Elsewhere, a resync says: load the table, then seek.
        while let Some(batch) = follower.blocking_next(query, Duration::MAX).expect("nothing is evicted") {
            batches += 1;
            apply(&batch, &mut table);
        }
        (table, batches)
    })
}

/// Applies events to the table.
fn apply(batch: &Events<'_>, table: &mut Table) {
    for event in batch {
        let row = (event.entity().to_owned(), event.row_id().to_owned());
        match (event.kind(), event.data_json()) {
            (ChangeKind::Delete, _) => drop(table.remove(&row)),
            (_, data) => drop(table.insert(row, data.unwrap_or_default().to_owned())),
        }
    }
}

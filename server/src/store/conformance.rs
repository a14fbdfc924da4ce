//! The suite of tests that every store must pass, on the one on disk.

use super::disk;
use crate::config::Config;
use ringlog_axum::conformance::{Measures, Open, Opened};

fn on_disk() -> Open {
    let folder = tempfile::tempdir().unwrap();
    Box::new(move |measures: &Measures| {
        let config = Config::default()
            .with_data(folder.path())
            .with_store_cache(4)
            .with_capacity(measures.capacity)
            .with_tombstones(measures.tombstones.most)
            .with_tombstone_age(measures.tombstones.age);
        let (store, _reader, log) = disk::open(&config, measures.builder()).unwrap();
        Opened { store: Box::new(store), log }
    })
}

ringlog_axum::conformance_tests!(on_disk, durable);

//! Snapshots in an object store beside the stream: the bucket `RINGLOG_<name>`.
//!
//! An object is there once it is whole: its description is written last. Its hash is checked when
//! it is read. Its name carries the incarnation of the stream: a bucket outlives a stream that is
//! deleted, and positions begin anew in one that is made in its place.

use super::NatsStream;
use crate::cluster::engine::{EngineError, Snapshots};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind, ObjectStoreError};
use async_nats::jetstream::object_store::{Config, Object, ObjectInfo, ObjectStore};
use futures_util::StreamExt;
use std::error::Error as _;
use std::fmt::Display;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// How long the next part of an object, or of the list, may take. The client library waits for ever
/// for the parts of an object that has lost all of them.
const PART_TIMEOUT: Duration = Duration::from_secs(10);

/// So much of an object is read at once.
const BUFFER: usize = 128 << 10;

fn late() -> EngineError {
    failed(&"nothing comes in time")
}

fn failed(error: &dyn Display) -> EngineError {
    EngineError(format!("snapshots: {error}"))
}

/// Whether there is no bucket, rather than none that can be reached.
fn is_missing(error: &ObjectStoreError) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<GetStreamError>());
    source.is_some_and(|source| match source.kind() {
        GetStreamErrorKind::JetStream(error) => error.error_code() == ErrorCode::STREAM_NOT_FOUND,
        _ => false,
    })
}

impl NatsStream {
    /// The bucket; none if there is none yet.
    async fn bucket(&self) -> Result<Option<ObjectStore>, EngineError> {
        match self.api.get_object_store(&self.names.stream).await {
            Ok(bucket) => Ok(Some(bucket)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    /// What the name of a snapshot begins with; its position follows, in digits.
    fn prefix(&self) -> String {
        format!("snapshot-{}-", self.facts.incarnation)
    }

    fn name(&self, position: u64) -> String {
        format!("{}{position:020}", self.prefix())
    }

    /// Says once that the bucket has objects that are not of this stream.
    fn warn_of_others(&self, others: &[ObjectInfo]) {
        if let Some(first) = others.first()
            && !self.is_warned.swap(true, Ordering::Relaxed)
        {
            let (bucket, count, name) = (&self.names.stream, others.len(), &first.name);
            tracing::warn!(
                "the object store {bucket} has {count} objects that are no snapshots of this stream, \
                 `{name}` for one: they may be of a stream that was deleted, and are left alone"
            );
        }
    }
}

impl Snapshots for NatsStream {
    async fn list(&self) -> Result<Vec<u64>, EngineError> {
        let Some(bucket) = self.bucket().await? else { return Ok(Vec::new()) };
        let mut listed = bucket.list().await.map_err(|error| failed(&error))?;
        let (mut positions, mut others, prefix) = (Vec::new(), Vec::new(), self.prefix());
        while let Some(object) = timeout(PART_TIMEOUT, listed.next()).await.map_err(|_| late())? {
            let object = object.map_err(|error| failed(&error))?;
            match object.name.strip_prefix(&prefix).and_then(|position| position.parse().ok()) {
                Some(position) => positions.push(position),
                None => others.push(object),
            }
        }
        self.warn_of_others(&others);
        positions.sort_unstable();
        Ok(positions)
    }

    async fn put(&self, position: u64, file: &Path) -> Result<(), EngineError> {
        let bucket = if let Some(bucket) = self.bucket().await? {
            bucket
        } else {
            let (bucket, num_replicas) = (self.names.stream.clone(), self.replicas);
            let config = Config { bucket, num_replicas, ..Config::default() };
            self.api.create_object_store(config).await.map_err(|error| failed(&error))?
        };
        let mut file = File::open(file).await.map_err(|error| failed(&error))?;
        bucket.put(&*self.name(position), &mut file).await.map_err(|error| failed(&error))?;
        Ok(())
    }

    async fn get(&self, position: u64, file: &Path) -> Result<(), EngineError> {
        let bucket = self.bucket().await?.ok_or_else(|| failed(&"there is no bucket"))?;
        let mut object = bucket.get(&*self.name(position)).await.map_err(|error| failed(&error))?;
        let mut file = File::create(file).await.map_err(|error| failed(&error))?;
        copy(&mut object, &mut file).await?;
        file.sync_all().await.map_err(|error| failed(&error))
    }

    async fn delete(&self, position: u64) -> Result<(), EngineError> {
        let Some(bucket) = self.bucket().await? else { return Ok(()) };
        bucket.delete(&*self.name(position)).await.map_err(|error| failed(&error))
    }
}

async fn copy(object: &mut Object, file: &mut File) -> Result<(), EngineError> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = timeout(PART_TIMEOUT, object.read(&mut buffer)).await.map_err(|_| late())?;
        match read.map_err(|error| failed(&error))? {
            0 => return Ok(()),
            count => file.write_all(&buffer[..count]).await.map_err(|error| failed(&error))?,
        }
    }
}

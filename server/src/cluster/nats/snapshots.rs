//! Snapshots in an object store beside the stream: the bucket `RINGLOG_<name>`.
//!
//! An object is there once it is whole: its description is written last. Its hash is checked when
//! it is read.

use super::NatsStream;
use crate::cluster::engine::{EngineError, Snapshots};
use async_nats::jetstream::context::ObjectStoreErrorKind;
use async_nats::jetstream::object_store::{Config, ObjectStore};
use futures_util::TryStreamExt;
use std::fmt::Display;
use std::path::Path;
use tokio::fs::File;

/// What the name of a snapshot begins with; its position follows, in digits.
const PREFIX: &str = "snapshot-";

fn name(position: u64) -> String {
    format!("{PREFIX}{position:020}")
}

fn failed(error: &dyn Display) -> EngineError {
    EngineError(format!("snapshots: {error}"))
}

impl NatsStream {
    /// The bucket; none if there is none yet.
    async fn bucket(&self) -> Result<Option<ObjectStore>, EngineError> {
        match self.api.get_object_store(&self.names.stream).await {
            Ok(bucket) => Ok(Some(bucket)),
            Err(error) if error.kind() == ObjectStoreErrorKind::GetStore => {
                self.check_missing(error.to_string()).await.map(|()| None)
            }
            Err(error) => Err(failed(&error)),
        }
    }

    /// Tells a bucket that is missing from one that cannot be reached, for this reason.
    async fn check_missing(&self, reason: String) -> Result<(), EngineError> {
        let streams: Vec<String> =
            self.api.stream_names().try_collect().await.map_err(|_| failed(&reason))?;
        if streams.contains(&format!("OBJ_{}", self.names.stream)) { Err(failed(&reason)) } else { Ok(()) }
    }
}

impl Snapshots for NatsStream {
    async fn list(&self) -> Result<Vec<u64>, EngineError> {
        let Some(bucket) = self.bucket().await? else { return Ok(Vec::new()) };
        let objects = bucket.list().await.map_err(|error| failed(&error))?;
        let objects: Vec<_> = objects.try_collect().await.map_err(|error| failed(&error))?;
        let position = |name: &str| name.strip_prefix(PREFIX)?.parse().ok();
        let mut positions: Vec<_> = objects.iter().filter_map(|object| position(&object.name)).collect();
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
        bucket.put(&*name(position), &mut file).await.map_err(|error| failed(&error))?;
        Ok(())
    }

    async fn get(&self, position: u64, file: &Path) -> Result<(), EngineError> {
        let bucket = self.bucket().await?.ok_or_else(|| failed(&"there is no bucket"))?;
        let mut object = bucket.get(&*name(position)).await.map_err(|error| failed(&error))?;
        let mut file = File::create(file).await.map_err(|error| failed(&error))?;
        tokio::io::copy(&mut object, &mut file).await.map_err(|error| failed(&error))?;
        file.sync_all().await.map_err(|error| failed(&error))
    }

    async fn delete(&self, position: u64) -> Result<(), EngineError> {
        let Some(bucket) = self.bucket().await? else { return Ok(()) };
        bucket.delete(&*name(position)).await.map_err(|error| failed(&error))
    }
}

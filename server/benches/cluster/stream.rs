//! The stream of a log, and one like it to which frames are published without nodes.

use crate::common::cluster::Cluster;
use async_nats::jetstream::consumer::{DeliverPolicy, pull::OrderedConfig};
use async_nats::jetstream::stream::{Config, Republish};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The frames that a publisher has outstanding, as a node.
const WINDOW: usize = 8;

/// An empty frame, which only tells that its node lives, is no longer.
const EMPTY: usize = 64;

pub(crate) struct Stream {
    urls: Vec<String>,
    api: Context,
    config: Config,
}

impl Stream {
    pub(crate) async fn of(cluster: &Cluster) -> Self {
        let urls = cluster.nats.urls();
        let api = connect(&urls).await;
        let config = api.get_stream(cluster.stream()).await.unwrap().cached_info().config.clone();
        Self { urls, api, config }
    }

    /// A stream that is kept in the same way, without messages.
    pub(crate) async fn bare(&self) -> Self {
        let name = format!("{}_BARE", self.config.name);
        let republish = |to: Republish| Republish {
            source: format!("{name}.frames"),
            destination: format!("{name}.live"),
            ..to
        };
        let config = Config {
            subjects: vec![format!("{name}.frames")],
            republish: self.config.republish.clone().map(republish),
            metadata: HashMap::new(),
            name,
            ..self.config.clone()
        };
        self.api.create_stream(&config).await.unwrap();
        Self { urls: self.urls.clone(), api: self.api.clone(), config }
    }

    pub(crate) async fn delete(self) {
        self.api.delete_stream(&self.config.name).await.unwrap();
    }

    /// The last position.
    pub(crate) async fn last(&self) -> u64 {
        let stream = self.api.get_stream(&self.config.name).await.unwrap();
        stream.cached_info().state.last_sequence
    }

    /// The frames from a position on that have requests.
    pub(crate) async fn frames(&self, from: u64) -> Vec<Bytes> {
        let last = self.last().await;
        let stream = self.api.get_stream(&self.config.name).await.unwrap();
        let deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: from };
        let consumer = OrderedConfig { deliver_policy, ..OrderedConfig::default() };
        let messages = stream.create_consumer(consumer).await.unwrap().messages().await.unwrap();
        let count = (last + 1 - from) as usize;
        let payloads = messages.take(count).map_ok(|message| message.message.payload);
        let payloads: Vec<_> = payloads.try_collect().await.unwrap();
        payloads.into_iter().filter(|payload| payload.len() > EMPTY).collect()
    }

    /// Publishes frames over so many connections at once. Answers with the time that it takes.
    pub(crate) async fn publish(&self, frames: Vec<Bytes>, connections: usize) -> Duration {
        let mut parts = vec![Vec::new(); connections];
        for (n, frame) in frames.into_iter().enumerate() {
            parts[n % connections].push(frame);
        }
        let mut publishers = Vec::new();
        for part in parts {
            publishers.push((connect(&self.urls).await, part));
        }
        let (before, start) = (self.last().await, Instant::now());
        let publishing: Vec<_> = publishers
            .into_iter()
            .map(|(api, frames)| tokio::spawn(publish(api, self.config.subjects[0].clone(), frames)))
            .collect();
        let mut count = 0;
        for publisher in publishing {
            count += publisher.await.unwrap();
        }
        let took = start.elapsed();
        assert_eq!(self.last().await, before + count, "each is stored once");
        took
    }
}

async fn publish(api: Context, subject: String, frames: Vec<Bytes>) -> u64 {
    let stored = futures_util::stream::iter(frames).map(|frame| async {
        api.publish(subject.clone(), frame).await.unwrap().await.unwrap();
    });
    stored.buffer_unordered(WINDOW).count().await as u64
}

async fn connect(urls: &[String]) -> Context {
    jetstream::new(async_nats::connect(urls).await.unwrap())
}

//! The stream over real NATS servers.

#[expect(clippy::allow_attributes, reason = "each test takes what it needs of the harness")]
#[allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "as other tests")]
#[path = "../../../tests/common/nats.rs"]
mod servers;

use super::super::engine::{Engine, Extent, Message, PublishError};
use super::{Names, NatsOptions, NatsStream, OpenError, READ_BYTES, READ_MESSAGES, StreamFacts};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Republish};
use bytes::Bytes;
use futures_util::StreamExt;
use ringlog::Incarnation;
use servers::NatsCluster;
use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Nothing takes so long, unless it hangs.
const HANG: Duration = Duration::from_secs(60);

/// Three servers that no test breaks. They end with the process.
static SERVERS: LazyLock<Option<NatsCluster>> = LazyLock::new(|| NatsCluster::start(3));

fn options(cluster: &NatsCluster, log: &str) -> NatsOptions {
    NatsOptions {
        urls: cluster.urls(),
        log: log.into(),
        replicas: 3,
        allow_one_replica: false,
        max_bytes: 64 << 20,
        max_frame: 256 << 10,
        credentials: None,
        ca: None,
        create: true,
        monitor: Some(cluster.monitor(0)),
    }
}

fn facts() -> StreamFacts {
    StreamFacts {
        format: 1,
        incarnation: Incarnation::random(),
        op_ids: 1000,
        capacity: 500,
        window_bytes: 1 << 20,
        skipped: BTreeSet::new(),
    }
}

async fn open(options: NatsOptions) -> NatsStream {
    timeout(HANG, NatsStream::open(options, facts())).await.expect("it opens in time").unwrap()
}

/// Why a stream cannot be opened.
async fn refused(options: NatsOptions, facts: StreamFacts) -> OpenError {
    timeout(HANG, NatsStream::open(options, facts)).await.expect("it is refused in time").unwrap_err()
}

/// A frame that is told from all others by its number.
fn frame(n: u64, len: usize) -> Bytes {
    let mut frame = vec![0; len.max(8)];
    frame[..8].copy_from_slice(&n.to_be_bytes());
    frame.into()
}

/// Everything from a position on.
async fn read_all(stream: &NatsStream, from: u64) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    loop {
        let next = messages.last().map_or(from, |last| last.position + 1);
        let more = stream.read(next).await.unwrap();
        if more.is_empty() {
            return messages;
        }
        assert_eq!(more[0].position, next);
        messages.extend(more);
    }
}

fn is_dense(messages: &[Message], from: u64) -> bool {
    messages.iter().zip(from..).all(|(message, position)| message.position == position)
}

/// The first and the last position.
async fn ends(stream: &NatsStream) -> (u64, u64) {
    let Extent { first, last, .. } = stream.extent().await.unwrap();
    (first, last)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_read_and_followed_densely_and_in_order() {
    let Some(cluster) = &*SERVERS else { return };
    let stream = open(options(cluster, "order")).await;
    assert_eq!(ends(&stream).await, (1, 0));
    assert_eq!(stream.read(1).await.unwrap(), []);

    let other = open(options(cluster, "order")).await;
    assert_eq!(other.facts(), stream.facts(), "the second node takes the incarnation of the first");
    let live = other.subscribe().await.unwrap();
    // The subscription is known to all servers before the first message.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let published = futures_util::future::join_all((1..=100).map(|n| stream.publish(frame(n, 8)))).await;
    let expected: Vec<_> = (1..=100).map(|n| Message { position: n, frame: frame(n, 8) }).collect();
    assert_eq!(published, (1..=100).map(Ok).collect::<Vec<_>>(), "in the order of the calls");

    let followed: Vec<_> = timeout(HANG, live.take(100).collect()).await.unwrap();
    assert_eq!(followed, expected);
    // Any replica answers a read, and may lag.
    let mut read = Vec::new();
    while read.len() < 100 {
        read = read_all(&stream, 1).await;
    }
    assert_eq!(read, expected);
    assert_eq!(ends(&stream).await, (1, 100));
    assert_eq!(stream.read(101).await.unwrap(), []);
    assert_eq!(stream.read(1_000_000).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_stream_is_read_in_batches_of_bounded_count_and_bytes() {
    let Some(cluster) = &*SERVERS else { return };
    let stream = open(options(cluster, "batches")).await;
    let large = 512 << 10;
    let count = READ_MESSAGES as u64 + 100;
    let few = READ_BYTES as u64 / large as u64 + 3;
    let small = (1..=count).map(|n| stream.publish(frame(n, 8)));
    let small = futures_util::future::join_all(small).await;
    let is_in_order = small.iter().zip(1..).all(|(position, n)| *position == Ok(n));
    assert!(is_in_order, "in the order of the calls: {small:?}");
    for n in count + 1..=count + few {
        assert_eq!(stream.publish(frame(n, large)).await, Ok(n));
    }
    let total = (count + few) as usize;
    let start = Instant::now();
    while read_all(&stream, 1).await.len() < total {
        assert!(start.elapsed() < HANG);
    }
    let first = stream.read(1).await.unwrap();
    assert_eq!(first.len(), READ_MESSAGES);
    let bytes: usize = stream.read(count + 1).await.unwrap().iter().map(|message| message.frame.len()).sum();
    assert!(bytes >= large && bytes <= READ_BYTES + large, "{bytes}");
    let all = read_all(&stream, 1).await;
    assert!(is_dense(&all, 1));
    assert!(all.iter().all(|message| message.frame[..8] == message.position.to_be_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_removes_what_is_below_and_moves_nothing() {
    let Some(cluster) = &*SERVERS else { return };
    let stream = open(options(cluster, "purge")).await;
    for n in 1..=10 {
        assert_eq!(stream.publish(frame(n, 8)).await, Ok(n));
    }
    for nothing in [0, 1] {
        stream.purge_below(nothing).await.unwrap();
        assert_eq!(ends(&stream).await, (1, 10));
    }
    stream.purge_below(4).await.unwrap();
    assert_eq!(ends(&stream).await, (4, 10));
    let start = Instant::now();
    loop {
        let messages = stream.read(1).await.unwrap();
        if messages.first().is_some_and(|first| first.position == 4) {
            assert!(messages.len() == 7 && is_dense(&messages, 4), "it begins later, as it is");
            break;
        }
        assert!(start.elapsed() < HANG, "a replica may lag, not for ever");
    }

    stream.purge_below(12).await.expect_err("beyond the end, which would move");
    stream.purge_below(11).await.unwrap();
    assert_eq!(ends(&stream).await, (11, 10));
    assert_eq!(stream.publish(frame(11, 8)).await, Ok(11));
    assert_eq!(ends(&stream).await, (11, 11));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_says_so_and_takes_more_after_a_purge() {
    let Some(cluster) = &*SERVERS else { return };
    let stream = open(NatsOptions { max_bytes: 1 << 20, ..options(cluster, "full") }).await;
    let mut last = 0;
    let refusal = loop {
        match stream.publish(frame(last + 1, 100 << 10)).await {
            Ok(position) => last = position,
            Err(refusal) => break refusal,
        }
    };
    assert!(matches!(refusal, PublishError::Full(_)), "{refusal}");
    assert_eq!(ends(&stream).await, (1, last));
    stream.purge_below(last).await.unwrap();
    assert_eq!(stream.publish(frame(last + 1, 100 << 10)).await, Ok(last + 1), "no position was lost");

    let refusal = stream.publish(frame(0, 2 << 20)).await.unwrap_err();
    assert!(matches!(refusal, PublishError::Refused(_)), "more than max_payload: {refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_stream_is_an_error_and_is_not_made() {
    let Some(cluster) = &*SERVERS else { return };
    let without = NatsOptions { create: false, ..options(cluster, "missing") };
    for _ in 0..2 {
        let error = refused(without.clone(), facts()).await;
        assert!(matches!(error, OpenError::Missing(_)), "{error}");
        assert!(error.to_string().contains("--cluster-create"), "{error}");
    }
    let made = open(options(cluster, "missing")).await;
    assert_eq!(open(without).await.facts(), made.facts());
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_make_the_stream_at_once_make_one() {
    let Some(cluster) = &*SERVERS else { return };
    let nodes = (0..4).map(|_| open(options(cluster, "race")));
    let nodes = futures_util::future::join_all(nodes).await;
    assert!(nodes.iter().all(|node| node.facts() == nodes[0].facts()));
    // Not found by one that is about to make it, and made by another meanwhile.
    let late = super::open::config(&options(cluster, "race"), &Names::of("race"), &facts());
    let made = super::open::make(&nodes[0].api, &late).await.unwrap();
    assert!(made.is_err(), "it is looked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_or_an_option_that_does_not_fit_is_refused() {
    let Some(cluster) = &*SERVERS else { return };
    let options = |log: &str| options(cluster, log);
    for name in ["", "a.b", "a b", "*", "ä", &"x".repeat(65)] {
        let error = refused(options(name), facts()).await;
        assert!(matches!(error, OpenError::Name(_)), "{error}");
    }
    let error = refused(NatsOptions { replicas: 1, ..options("r1") }, facts()).await;
    assert!(matches!(error, OpenError::OneReplica(_)), "{error}");
    // The servers allow 1 MiB.
    let max_frame = (1 << 20) - (64 << 10);
    let error = refused(NatsOptions { max_frame: max_frame + 1, ..options("payload") }, facts()).await;
    assert!(matches!(error, OpenError::MaxPayload { found: 1_048_576, needed: 1_048_577 }), "{error}");
    open(NatsOptions { max_frame, ..options("payload") }).await;
    let monitor = Some("https://localhost".into());
    let error = refused(NatsOptions { monitor, ..options("monitor") }, facts()).await;
    assert!(matches!(error, OpenError::Monitor { .. }), "{error}");
    let credentials = Some("no/such/file".into());
    let error = refused(NatsOptions { credentials, ..options("credentials") }, facts()).await;
    assert!(matches!(error, OpenError::Credentials { .. }), "{error}");
    // A monitor that is away keeps no node from starting.
    let monitor = Some("http://127.0.0.1:9".into());
    open(NatsOptions { monitor, ..options("monitor") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_do_not_sync_are_refused_if_their_monitor_is_known() {
    let Some(cluster) = NatsCluster::start_with(1, "", "") else { return };
    let options = NatsOptions { replicas: 1, allow_one_replica: true, ..options(&cluster, "sync") };
    let error = refused(options.clone(), facts()).await;
    assert!(matches!(error, OpenError::Sync(_)), "{error}");
    let stream = open(NatsOptions { monitor: None, ..options.clone() }).await;
    assert_eq!(stream.publish(frame(1, 8)).await, Ok(1), "one server and one replica will do for a test");
    drop(stream);
    let options = NatsOptions { monitor: None, allow_one_replica: false, replicas: 3, ..options };
    let error = refused(options, facts()).await.to_string();
    assert!(error.contains("num_replicas is 1, and must be 2 or more"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_differs_is_refused_by_the_name_of_the_field_with_both_values() {
    let Some(cluster) = &*SERVERS else { return };
    let wanted = facts();
    let options = options(cluster, "differs");
    let stream = open(options.clone()).await;
    for (field, other) in [
        ("ringlog.format is 1, and must be 2", StreamFacts { format: 2, ..wanted.clone() }),
        ("ringlog.op_ids is 1000, and must be 7", StreamFacts { op_ids: 7, ..wanted.clone() }),
        ("ringlog.capacity is 500, and must be 7", StreamFacts { capacity: 7, ..wanted.clone() }),
        ("ringlog.window_bytes is 1048576, and must be 7", StreamFacts { window_bytes: 7, ..wanted.clone() }),
    ] {
        let error = refused(options.clone(), other).await.to_string();
        assert!(error.contains(field) && !error.contains(';'), "{error}");
    }

    let good = super::open::config(&options, &Names::of("differs"), stream.facts());
    let hour = Duration::from_secs(3600);
    let cases: [(&str, Config); 11] = [
        ("discard is \"old\", and must be \"new\"", Config { discard: DiscardPolicy::Old, ..good.clone() }),
        ("max_age is 3600000000000, and must be 0", Config { max_age: hour, ..good.clone() }),
        ("max_msgs is 9, and must be -1", Config { max_messages: 9, ..good.clone() }),
        ("max_bytes is unlimited, and must be 67108864", Config { max_bytes: -1, ..good.clone() }),
        ("max_msg_size is 9, and must be -1", Config { max_message_size: 9, ..good.clone() }),
        ("num_replicas is 1, and must be 2 or more", Config { num_replicas: 1, ..good.clone() }),
        ("allow_direct is unset, and must be true", Config { allow_direct: false, ..good.clone() }),
        ("republish is unset, and must be {", Config { republish: None, ..good.clone() }),
        (
            "\"headers_only\":true",
            Config {
                republish: good.republish.clone().map(|all| Republish { headers_only: true, ..all }),
                ..good.clone()
            },
        ),
        (
            "allow_rollup_hdrs is true, and must be unset",
            Config { allow_rollup: true, deny_delete: false, ..good.clone() },
        ),
        ("ringlog.incarnation is unset", Config { metadata: HashMap::new(), ..good.clone() }),
    ];
    stream.api.delete_stream(&good.name).await.unwrap();
    for (said, config) in cases {
        let made = stream.api.create_stream(config).await.unwrap().cached_info().config.clone();
        let error = refused(options.clone(), wanted.clone()).await;
        assert!(matches!(&error, OpenError::Differs { .. }) && error.to_string().contains(said), "{error}");
        let left = stream.api.get_stream(&good.name).await.unwrap().cached_info().config.clone();
        assert_eq!(left, made, "it is left alone");
        stream.api.delete_stream(&good.name).await.unwrap();
    }
    // What operators may change.
    let resized = Config { max_bytes: 32 << 20, num_replicas: 2, description: None, ..good };
    stream.api.create_stream(resized).await.unwrap();
    open(options).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_message_is_where_its_acknowledgement_says_when_the_leader_is_killed() {
    let Some(cluster) = NatsCluster::start(3) else { return };
    let stream = open(options(&cluster, "kill")).await;
    let mut live = stream.subscribe().await.unwrap();
    let (follow, mut followed) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(message) = live.next().await {
            follow.send(message).unwrap();
        }
    });
    let name = stream.names.stream.clone();
    let cluster = std::sync::Arc::new(cluster);
    let killer = tokio::task::spawn_blocking({
        let cluster = cluster.clone();
        move || {
            std::thread::sleep(Duration::from_millis(500));
            let leader = cluster.stream_leader(&name);
            cluster.kill(leader);
            let after = cluster.stream_leader(&name);
            assert_ne!(after, leader);
            cluster.restart(leader);
        }
    });

    // Eight at a time, and for a while after the new leader is there.
    let mut acknowledged = HashMap::new();
    let (mut n, mut unknown, mut after) = (0, 0, 0);
    // What the old leader had proposed may be acknowledged by the new one: then nothing is unknown.
    while after < 200 {
        let batch: Vec<u64> = (n + 1..=n + 8).collect();
        n += 8;
        let answers = batch.iter().map(|n| stream.publish(frame(*n, 100)));
        let answers = futures_util::future::join_all(answers).await;
        for (n, answer) in batch.into_iter().zip(answers) {
            match answer {
                Ok(position) => {
                    let other = acknowledged.insert(position, n);
                    assert_eq!(other, None, "one position for two messages");
                    after += usize::from(killer.is_finished());
                }
                Err(PublishError::Unknown(_) | PublishError::NotSent(_)) => unknown += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(n < 1_000_000);
    }
    killer.await.unwrap();
    assert!(acknowledged.len() > after, "some before the leader was killed, some after");

    let Extent { first, last, .. } = stream.extent().await.unwrap();
    assert_eq!(first, 1);
    let start = Instant::now();
    let all = loop {
        let all = read_all(&stream, 1).await;
        if all.len() as u64 >= last {
            break all;
        }
        assert!(start.elapsed() < HANG, "a replica may lag, not for ever");
    };
    assert!(is_dense(&all, 1));
    let stored: HashMap<u64, Bytes> =
        all.iter().map(|message| (message.position, message.frame.clone())).collect();
    for (position, n) in &acknowledged {
        assert_eq!(stored.get(position), Some(&frame(*n, 100)), "at {position}");
    }
    assert!(all.len() <= acknowledged.len() + unknown, "what is stored was published once");
    // What came live is as it is stored, and the subscription outlived the server.
    loop {
        let message = timeout(HANG, followed.recv()).await.expect("it goes on").unwrap();
        assert_eq!(stored.get(&message.position), Some(&message.frame));
        if message.position > last - 50 {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_cannot_be_reached_is_waited_for_and_a_lost_one_stores_nothing_later() {
    let Some(cluster) = NatsCluster::start(1) else { return };
    cluster.kill(0);
    let options = NatsOptions { replicas: 1, allow_one_replica: true, ..options(&cluster, "wait") };
    let mut opening = Box::pin(NatsStream::open(options, facts()));
    timeout(Duration::from_millis(1200), &mut opening).await.expect_err("nobody is there");
    cluster.restart(0);
    let stream = timeout(HANG, opening).await.unwrap().unwrap();
    assert_eq!(stream.publish(frame(1, 8)).await, Ok(1));

    cluster.kill(0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let lost = stream.publish(frame(2, 8));
    let (lost, ()) = tokio::join!(lost, async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.restart(0);
    });
    assert!(matches!(&lost, Err(PublishError::NotSent(_))), "{lost:?}");
    let start = Instant::now();
    while !matches!(stream.publish(frame(3, 8)).await, Ok(2)) {
        assert!(start.elapsed() < HANG);
    }
    let all = read_all(&stream, 1).await;
    assert_eq!(all[1].frame, frame(3, 8), "what found the connection lost was never sent");
}

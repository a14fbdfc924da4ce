//! Arbitrary operation sequences on ringlog and on the crate it replaces: the same answers, always.

#[path = "common/ops.rs"]
mod ops;

use ops::{Case, Event, Op, Place, Way};
use proptest::prelude::*;
use ringlog::ChangeKind;
use serde_json::Value;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn ringlog_answers_as_the_seed_does(case in case()) {
        ops::run(&case);
    }
}

fn case() -> impl Strategy<Value = Case> {
    (capacity(), prop::collection::vec(op(), 0..60)).prop_map(|(capacity, ops)| Case { capacity, ops })
}

/// Small ones, those around the edge of a segment, and some that are never filled.
fn capacity() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..=70usize, 2 => 250..=260usize, 1 => 500..=520usize, 1 => 1_000..=10_000usize]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (way(), event()).prop_map(|(way, event)| Op::Append(way, event)),
        2 => prop::collection::vec(event(), 0..12).prop_map(Op::Batch),
        2 => (0..600u16).prop_map(Op::Fill),
        6 => (place(), limit()).prop_map(|(place, limit)| Op::Pull { place, limit }),
        2 => text().prop_map(Op::Remember),
        2 => text().prop_map(Op::HasSeen),
        1 => (0..12_000u16, 0..6_000u16).prop_map(|(first, count)| Op::RememberRun { first, count }),
        3 => (0..18_000u16).prop_map(Op::HasSeenOfRun),
    ]
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![Just(Way::Append), Just(Way::Value), Just(Way::Raw), Just(Way::Data)]
}

fn event() -> impl Strategy<Value = Event> {
    let data = prop::option::weighted(0.8, value());
    (text(), text(), kind(), data).prop_map(|(entity, row_id, kind, data)| Event {
        entity,
        row_id,
        kind,
        data,
    })
}

fn kind() -> impl Strategy<Value = ChangeKind> {
    prop_oneof![Just(ChangeKind::Insert), Just(ChangeKind::Update), Just(ChangeKind::Delete)]
}

/// On and next to every edge of the window, and anywhere.
fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        2 => (-3..=3i8).prop_map(Place::FromOldest),
        2 => (-3..=3i8).prop_map(Place::FromLast),
        1 => any::<i8>().prop_map(Place::FromOldest),
        1 => any::<i8>().prop_map(Place::FromLast),
        1 => (0..3u64).prop_map(Place::At),
        1 => prop_oneof![Just(u64::MAX), any::<u64>()].prop_map(Place::At),
    ]
}

fn limit() -> impl Strategy<Value = usize> {
    prop_oneof![0..4usize, 0..600usize, Just(usize::MAX)]
}

/// Anything Unicode, what JSON has to escape, and lengths around those at which a record no longer
/// fits its slot.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-c]{0,3}",
        2 => any::<String>(),
        1 => "[\"\\\\\u{0}-\u{1f}\u{7f}\u{2028}/<é🦀]{0,12}",
        1 => (0..600usize).prop_map(|length| "x".repeat(length)),
        1 => (0..3_000usize).prop_map(|length| "\n".repeat(length)),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        // Every finite double: those that are none have no place in JSON.
        any::<f64>()
            .prop_filter_map("finite", |float| serde_json::Number::from_f64(float).map(Value::Number)),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number,
        text().prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::btree_map(text(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

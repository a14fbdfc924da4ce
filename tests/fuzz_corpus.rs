//! The fuzz targets on their corpora, without nightly: every input that was ever worth keeping is
//! checked by `cargo test`. The targets themselves (`fuzz/fuzz_targets/`) call the same functions.

#[path = "common/decode.rs"]
mod decode;
#[path = "common/history.rs"]
mod history;
#[path = "common/json_identity.rs"]
mod json_identity;
#[path = "common/op_ids.rs"]
mod op_ids;
#[path = "common/ops.rs"]
mod ops;
#[path = "common/reserved_key.rs"]
mod reserved_key;
#[path = "common/schedule.rs"]
mod schedule;
#[path = "common/wire.rs"]
mod wire;

use proptest::prelude::*;
use std::path::Path;

#[test]
fn ops_vs_seed() {
    replay("ops_vs_seed", |bytes| ops::run(&decode::case(bytes)));
}

#[test]
fn json_identity() {
    replay("json_identity", json_identity::check);
}

#[test]
fn wire() {
    replay("wire", wire::check);
}

#[test]
fn dedup_vs_model() {
    replay("dedup_vs_model", op_ids::check);
}

#[test]
fn threads() {
    replay("threads", schedule::check);
}

fn replay(target: &str, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("a corpus") {
        let path = entry.expect("a file").path();
        println!("{}", path.display());
        check(&std::fs::read(&path).expect("a file"));
        count += 1;
    }
    assert!(count >= 5, "only {count} inputs in {}", folder.display());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_case(bytes in prop::collection::vec(any::<u8>(), 0..800)) {
        ops::run(&decode::case(&bytes));
    }

    #[test]
    fn any_bytes_are_claims(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        op_ids::check(&bytes);
    }

    #[test]
    fn any_text_is_served_as_it_came(entity in ".{0,9}", row_id in ".{0,9}", text in json_text()) {
        json_identity::check(format!("{entity}\n{row_id}\n{text}").as_bytes());
    }
}

/// JSON texts as no serialiser writes them: blanks, numbers in every spelling, needless
/// escapes, keys twice.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?",
        "\"([ -!#-\\[\\]-~é🦀]|\\\\[\"\\\\/bfnrt]|\\\\u[0-9a-fA-F]{4}){0,9}\"",
        "(true|false|null)",
    ];
    let blank = "[ \t\r\n]{0,2}";
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let item = (blank, inner, blank).prop_map(|(before, item, after)| format!("{before}{item}{after}"));
        prop_oneof![
            prop::collection::vec(item.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(("[ab]?", item), 0..4).prop_map(|items| {
                let items: Vec<String> =
                    items.into_iter().map(|(key, item)| format!("\"{key}\":{item}")).collect();
                format!("{{{}}}", items.join(","))
            }),
        ]
    })
}

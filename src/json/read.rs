#![forbid(unsafe_code)]
//! Reading JSON values as they stand.
//!
//! `serde_json` with its feature `raw_value`, which this crate needs, takes an object that begins
//! with the key `$serde_json::private::RawValue` for a message to itself: in its place comes
//! whatever the key's value, a text, is parsed into, or an error. So a client that sends such an
//! object would have another one stored. Here a [`Value`] is made by a visitor that knows no such
//! key.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Whether another crate of the program has switched on `serde_json`'s feature
/// `arbitrary_precision`, which keeps a number as text. Then numbers are such messages too, and
/// only `serde_json`'s own [`Value`] can read them.
///
/// A text has memory to free, and the machine's numbers have none. Sizes do not tell the two apart
/// on every target: on i686 a `Number` of either kind takes 12 bytes.
const ARBITRARY_PRECISION: bool = std::mem::needs_drop::<Number>();

/// The value that a JSON text stands for, if a [`Value`] can hold it.
pub(crate) fn parse(json: &str) -> Option<Value> {
    serde_json::from_str(json).ok().map(|Plain(value)| value)
}

/// A [`Value`] as it stands: what is read where a field of a public type is a [`Value`].
pub(crate) struct Plain(Value);

impl From<Plain> for Value {
    fn from(Plain(value): Plain) -> Self {
        value
    }
}

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        if ARBITRARY_PRECISION {
            return Value::deserialize(input).map(Self);
        }
        input.deserialize_any(Build).map(Self)
    }
}

/// Makes a [`Value`] of what is read.
struct Build;

impl<'de> Visitor<'de> for Build {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    #[inline]
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    #[inline]
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        Plain::deserialize(input).map(|Plain(value)| value)
    }

    #[inline]
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    #[inline]
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    #[inline]
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    #[inline]
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    #[inline]
    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    #[inline]
    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Plain(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(array.into())
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Plain(field))) = fields.next_entry()? {
            object.insert(name, field);
        }
        Ok(object.into())
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod tests {
    use super::*;
    use crate::{Change, ChangeEvent, ChangeKind, ChangeLog, ClientChange, SyncCursor};
    use proptest::prelude::*;
    use serde_json::json;

    /// Any value, with names and texts that need escapes.
    pub(crate) fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[ -~]{0,40}|[a-z\"\\\\\n\u{7f}é🦀]{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec(("[a-z\"]{0,9}", inner), 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// On every target, whatever the size of its numbers.
    #[test]
    fn numbers_are_taken_for_text_only_where_serde_json_keeps_them_as_text() {
        let number: Number = serde_json::from_str("1.00").expect("a number");
        assert_eq!(ARBITRARY_PRECISION, number.to_string() == "1.00");
    }

    #[test]
    fn an_object_with_a_key_of_serde_json_comes_back_as_it_is() {
        const { assert!(!ARBITRARY_PRECISION, "nobody asks for it here") };
        let log = ChangeLog::new();
        let values = [
            json!({"$serde_json::private::RawValue": "[1]"}),
            json!({"$serde_json::private::RawValue": "no JSON"}),
            json!([{"a": {"$serde_json::private::RawValue": 5}}]),
            json!({"$serde_json::private::Number": "1"}),
        ];
        for value in &values {
            let text = serde_json::value::to_raw_value(value).expect("it serialises");
            log.append("Todo", "t1", ChangeKind::Update, Some(value.clone()));
            log.append_change(&Change::update("Todo", "t1").with_raw(&text));
        }
        let response = log.pull(&SyncCursor::beginning(), 100).expect("in the window");
        assert_eq!(response.changes.len(), 2 * values.len());
        for (events, value) in response.changes.chunks(2).zip(&values) {
            assert_eq!(events.iter().map(|event| event.data.as_ref()).collect::<Vec<_>>(), [Some(value); 2]);
        }
        for event in &response.changes {
            let json = serde_json::to_string(event).expect("it serialises");
            assert_eq!(&serde_json::from_str::<ChangeEvent>(&json).expect("it comes back"), event);
            let json =
                format!(r#"{{"entity":"Todo","row_id":"t1","kind":"update","data":{}}}"#, json!(event.data));
            let change: ClientChange = serde_json::from_str(&json).expect("a change");
            assert_eq!(change.data, event.data);
        }
    }

    #[test]
    fn that_key_may_be_spelled_with_escapes() {
        let text = r#"{"\u0024serde_json::\u0070rivate::RawValue":"[1]"}"#;
        assert_eq!(parse(text), Some(json!({"$serde_json::private::RawValue": "[1]"})));
    }

    #[test]
    fn data_of_each_kind_comes_out_of_a_value_as_it_went_in() {
        for data in [json!("a text"), json!(["a", null, true]), json!({"a": {"b": -1}}), json!(0.5)] {
            let change = json!({"entity": "Todo", "row_id": "t1", "kind": "insert", "data": data});
            let change: ClientChange = serde_json::from_value(change).expect("a change");
            assert_eq!(change.data, Some(data));
        }
    }

    #[test]
    fn what_no_value_holds_is_none() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for text in ["1e400", r#""\ud800""#, "[1", "", &deep] {
            assert_eq!(parse(text), None, "{text}");
            assert!(serde_json::from_str::<Value>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn data_may_be_null_or_absent() {
        for data in ["", r#","data":null"#] {
            let json = format!(r#"{{"entity":"Todo","row_id":"t1","kind":"delete"{data}}}"#);
            assert_eq!(serde_json::from_str::<ClientChange>(&json).expect("a change").data, None);
        }
    }

    proptest! {
        #[test]
        fn a_value_is_read_as_serde_json_reads_it(value in value(), duplicate in "[a-z]{1,3}") {
            let text = format!(r#" {{"{duplicate}": 1, "all": {value:#}, "{duplicate}": [{value}]}}"#);
            prop_assert_eq!(parse(&text), serde_json::from_str(&text).ok());
            let Plain(again) = Plain::deserialize(&value).expect("a value is one");
            prop_assert_eq!(again, value);
        }
    }
}

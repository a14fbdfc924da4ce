//! What a client ends up with: the last data of every row that was not deleted.

#![forbid(unsafe_code)]

use ringlog::ChangeKind;
use serde_json::Value;
use std::collections::HashMap;

/// The text parsed into a `Value` and written again. It may differ: `1.50` comes back as `1.5`.
pub(crate) fn through_value(text: &str) -> serde_json::Result<String> {
    Ok(serde_json::from_str::<Value>(text)?.to_string())
}

/// Rows by entity and id, each with the JSON text it last got.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fold {
    entities: HashMap<String, HashMap<String, Option<String>>>,
}

impl Fold {
    /// Applies one change. A delete removes the row; anything else replaces its data.
    pub(crate) fn apply(&mut self, entity: &str, row_id: &str, kind: ChangeKind, data: Option<&str>) {
        if kind == ChangeKind::Delete {
            if let Some(rows) = self.entities.get_mut(entity) {
                rows.remove(row_id);
            }
            return;
        }
        let data = data.map(str::to_owned);
        // Only a row or an entity seen for the first time has its name copied.
        let Some(rows) = self.entities.get_mut(entity) else {
            let rows = HashMap::from([(row_id.to_owned(), data)]);
            self.entities.insert(entity.to_owned(), rows);
            return;
        };
        match rows.get_mut(row_id) {
            Some(row) => *row = data,
            None => drop(rows.insert(row_id.to_owned(), data)),
        }
    }

    /// The number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.entities.values().map(HashMap::len).sum()
    }

    /// Takes over the rows of a part that shares no row with this one.
    pub(crate) fn absorb(&mut self, part: Fold) {
        for (entity, rows) in part.entities {
            self.entities.entry(entity).or_default().extend(rows);
        }
    }

    /// The same rows as a client sees them that is handed owned values.
    pub(crate) fn through_values(&self) -> serde_json::Result<Fold> {
        let mut fold = self.clone();
        for text in fold.entities.values_mut().flat_map(HashMap::values_mut).flatten() {
            *text = through_value(text)?;
        }
        Ok(fold)
    }

    /// Says how `self`, which a reader has, differs from `expected`; `None` if it does not.
    pub(crate) fn difference(&self, expected: &Fold) -> Option<String> {
        let row = |fold: &Fold, entity: &str, row_id: &str| {
            fold.entities.get(entity).and_then(|rows| rows.get(row_id)).cloned()
        };
        let show = |data: Option<String>| data.unwrap_or_else(|| "no data".into());
        for (entity, row_id, data) in expected.iter() {
            match row(self, entity, row_id) {
                None => return Some(format!("{entity}/{row_id} is missing")),
                Some(seen) if seen.as_deref() != data => {
                    let expected = show(data.map(str::to_owned));
                    return Some(format!("{entity}/{row_id} is {}, should be {expected}", show(seen)));
                }
                Some(_) => {}
            }
        }
        let extra = self.iter().find(|(entity, row_id, _)| row(expected, entity, row_id).is_none());
        extra.map(|(entity, row_id, _)| format!("{entity}/{row_id} should not be there"))
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &str, Option<&str>)> {
        self.entities.iter().flat_map(|(entity, rows)| {
            rows.iter().map(move |(row_id, data)| (entity.as_str(), row_id.as_str(), data.as_deref()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ChangeKind::{Delete, Insert, Update};

    fn fold(changes: &[(&str, &str, ChangeKind, Option<&str>)]) -> Fold {
        let mut fold = Fold::default();
        for &(entity, row_id, kind, data) in changes {
            fold.apply(entity, row_id, kind, data);
        }
        fold
    }

    #[test]
    fn the_last_change_of_a_row_wins_and_a_delete_removes() {
        let seen = fold(&[
            ("A", "1", Insert, Some("1")),
            ("B", "1", Insert, Some("2")),
            ("A", "1", Update, Some("3")),
            ("A", "2", Update, None),
            ("A", "3", Insert, Some("4")),
            ("A", "3", Delete, Some("5")),
            ("C", "9", Delete, None),
        ]);
        assert_eq!(seen.rows(), 3);
        let expected =
            fold(&[("A", "2", Insert, None), ("B", "1", Insert, Some("2")), ("A", "1", Insert, Some("3"))]);
        assert_eq!(seen.difference(&expected), None);
    }

    #[test]
    fn every_kind_of_difference_is_named() {
        let expected = fold(&[("A", "1", Insert, Some("1"))]);
        let missing = fold(&[("B", "1", Insert, Some("1"))]);
        assert_eq!(missing.difference(&expected).as_deref(), Some("A/1 is missing"));
        let stale = fold(&[("A", "1", Insert, None)]);
        assert_eq!(stale.difference(&expected).as_deref(), Some("A/1 is no data, should be 1"));
        let extra = fold(&[("A", "1", Insert, Some("1")), ("A", "2", Insert, None)]);
        assert_eq!(extra.difference(&expected).as_deref(), Some("A/2 should not be there"));
        assert_eq!(fold(&[("X", "1", Insert, None), ("X", "1", Delete, None)]).difference(&fold(&[])), None);
    }

    #[test]
    fn parts_add_up() {
        let mut whole = fold(&[("A", "1", Insert, Some("1"))]);
        whole.absorb(fold(&[("A", "2", Insert, Some("2")), ("B", "1", Insert, None)]));
        let expected =
            fold(&[("A", "1", Insert, Some("1")), ("A", "2", Insert, Some("2")), ("B", "1", Insert, None)]);
        assert_eq!(whole.difference(&expected), None);
    }

    #[test]
    fn through_values_writes_as_serde_json_does() {
        let texts = fold(&[("A", "1", Insert, Some(r#"{ "b": 1.50, "a": 1e2 }"#)), ("A", "2", Insert, None)]);
        let expected = fold(&[("A", "1", Insert, Some(r#"{"a":100.0,"b":1.5}"#)), ("A", "2", Insert, None)]);
        assert_eq!(texts.through_values().expect("good JSON").difference(&expected), None);
    }
}

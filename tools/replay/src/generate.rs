//! Push requests made up here, when none are given: the same ones every time for the same seed.
//!
//! What matters to a log is imitated: a few hot rows get most of the changes (row popularity
//! follows Zipf's law), most requests hold one or two changes and few hold hundreds, most data is
//! some hundred bytes and some is several kilobytes, and rows are inserted before they are updated
//! or deleted.

use crate::Result;
use crate::input::Input;
use ringlog::{ChangeKind, ClientChange, PushRequest};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Rows that may exist at one time.
const ROWS: usize = 5_000;
/// The most changes in one request.
const MAX_CHANGES: u64 = 300;
/// The entities, each with how many of 100 rows belong to it and the usual length of its text.
const ENTITIES: [(&str, usize, usize); 4] =
    [("Presence", 10, 8), ("Task", 50, 60), ("Message", 35, 200), ("Document", 5, 3_000)];
/// Words for texts; some need escaping in JSON, some more than one byte a letter.
const WORDS: [&str; 12] = [
    "the",
    "change",
    "log",
    "keeps",
    "every",
    "\"quoted\"",
    "naïve",
    "row",
    "in",
    "order",
    "日本語",
    "back\\slash",
];

/// Makes `count` push requests from `seed`.
///
/// # Errors
/// If data cannot be written as JSON.
pub fn requests(count: u64, seed: u64) -> Result<Input> {
    let mut generator = Generator::new(seed);
    let mut input = Input::new(format!("generated, seed {seed}"));
    for number in 0..count {
        input.add(generator.request(number))?;
    }
    Ok(input)
}

struct Generator {
    random: SplitMix64,
    /// Row popularity: the weights of the rows up to and including each, summed.
    weights: Vec<f64>,
    live: HashSet<usize>,
}

impl Generator {
    fn new(seed: u64) -> Self {
        let mut sum = 0.0;
        let weight = |rank: u32| {
            sum += 1.0 / f64::from(rank);
            sum
        };
        let weights = (1u32..).take(ROWS).map(weight).collect();
        Self { random: SplitMix64(seed), weights, live: HashSet::new() }
    }

    fn request(&mut self, number: u64) -> PushRequest {
        // One over a uniform number: half of the requests hold one change, 1 in 100 a hundred or
        // more.
        let length = (1.0 / (1.0 - self.random.fraction())) as u64;
        let change = |index| self.change(format!("{number:x}:{index}"));
        let changes = (0..length.min(MAX_CHANGES)).map(change).collect();
        PushRequest { client_id: Some(format!("c_{:04x}", self.random.below(500))), changes }
    }

    fn change(&mut self, op_id: String) -> ClientChange {
        let row = self.row();
        let kind = match (self.live.contains(&row), self.random.below(100)) {
            (false, _) => ChangeKind::Insert,
            (true, 0..8) => ChangeKind::Delete,
            (true, _) => ChangeKind::Update,
        };
        let (entity, length) = entity(row);
        let data = match kind {
            ChangeKind::Delete => {
                self.live.remove(&row);
                None
            }
            ChangeKind::Insert | ChangeKind::Update => {
                self.live.insert(row);
                Some(self.data(length))
            }
        };
        let row_id = format!(
            "{:032x}",
            u128::from(row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
        );
        ClientChange { entity: entity.to_owned(), row_id, kind, data, op_id: Some(op_id) }
    }

    /// Picks a row, hot ones more often.
    fn row(&mut self) -> usize {
        let total = self.weights.last().copied().unwrap_or_default();
        let point = self.random.fraction() * total;
        self.weights.partition_point(|&sum| sum <= point).min(ROWS - 1)
    }

    fn data(&mut self, length: usize) -> Value {
        let mut text = String::with_capacity(2 * length);
        let length = length / 2 + self.random.below(length as u64) as usize;
        while text.len() < length {
            text.push_str(WORDS[self.random.below(WORDS.len() as u64) as usize]);
            text.push(' ');
        }
        let done = self.random.below(2) == 1;
        json!({ "text": text, "done": done, "rank": self.random.fraction(), "edits": self.random.below(1_000) })
    }
}

/// The entity of a row and the length of its text. Hot rows are spread over all entities.
fn entity(row: usize) -> (&'static str, usize) {
    let mut share = row * 37 % 100;
    for (name, rows, length) in ENTITIES {
        if share < rows {
            return (name, length);
        }
        share -= rows;
    }
    unreachable!("the shares add up to 100")
}

/// Steele, Lea and Flood's generator: small, and the same numbers on every machine and in every
/// version, which libraries of random numbers do not promise.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, not including, `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A number from 0 up to, not including, 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn texts(seed: u64) -> Vec<String> {
        let input = requests(300, seed).expect("data that can be written");
        input.ops().map(|op| format!("{}/{} {:?} {:?}", op.entity, op.row_id, op.kind, op.text())).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_requests() {
        assert_eq!(texts(1), texts(1));
        assert_ne!(texts(1), texts(2));
    }

    #[test]
    fn the_generator_is_splitmix64() {
        // The first outputs for seed 1234567, as published with the reference implementation.
        let mut random = SplitMix64(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn rows_are_inserted_before_they_are_updated_or_deleted() {
        let input = requests(2_000, 1).expect("data that can be written");
        let mut live = HashSet::new();
        for op in input.ops() {
            let row = (&op.entity, &op.row_id);
            match op.kind {
                ChangeKind::Insert => assert!(live.insert(row), "{row:?} inserted twice"),
                ChangeKind::Update => assert!(live.contains(&row), "{row:?} updated before it is there"),
                ChangeKind::Delete => assert!(live.remove(&row), "{row:?} deleted before it is there"),
            }
        }
        assert!(!live.is_empty());
    }

    #[test]
    fn rows_are_hot_and_cold_and_sizes_are_mixed() {
        let input = requests(5_000, 1).expect("data that can be written");
        let mut changes: HashMap<_, u64> = HashMap::new();
        input.ops().for_each(|op| *changes.entry((&op.entity, &op.row_id)).or_default() += 1);
        let mut counts: Vec<u64> = changes.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let (all, hot): (u64, u64) = (counts.iter().sum(), counts.iter().take(50).sum());
        assert!(hot * 3 > all, "the 50 hottest of {} rows: {hot} of {all} changes", counts.len());

        let lengths: Vec<usize> = input.requests.iter().map(Vec::len).collect();
        let single = lengths.iter().filter(|&&length| length == 1).count();
        assert!(
            single * 3 > lengths.len() && single * 3 < lengths.len() * 2,
            "{single} of {}",
            lengths.len()
        );
        assert!(lengths.iter().any(|&length| length > 100));

        let sizes = || input.ops().filter_map(|op| op.text()).map(str::len);
        assert!(sizes().any(|size| size < 100) && sizes().any(|size| size > 4_000));
    }
}

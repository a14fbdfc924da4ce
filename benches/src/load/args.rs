//! What one can ask for.

use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Loads a log with writers and readers, and measures throughput and latencies.
#[derive(Debug, Clone, Parser)]
#[command(name = "load", after_help = AFTER_HELP)]
pub struct Args {
    /// The load itself.
    #[command(flatten)]
    pub load: Load,
    /// Runs the peers on the same load as well, in turns, and prints ratios.
    #[arg(long, conflicts_with = "peers")]
    pub compare: bool,
    /// Runs these instead of ringlog alone; the first is what the others are compared with.
    #[arg(long, value_delimiter = ',', value_name = "PEERS")]
    pub peers: Vec<PeerName>,
    /// How many turns each contender has, one after the other. 3 when there are several, else 1.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub turns: Option<u32>,
    /// One JSON object instead of tables.
    #[arg(long)]
    pub json: bool,
    /// Runs a series of loads, and writes one HTML page and its figures as SVG to this folder.
    #[arg(long, value_name = "DIR", conflicts_with = "json")]
    pub report: Option<PathBuf>,
    /// Runs one contender in this process.
    #[arg(long, hide = true)]
    pub child: Option<String>,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    pub bench: bool,
}

const AFTER_HELP: &str = "\
Without --rate, writers append without pause (closed loop). With it they are due at fixed moments, and latencies are
counted from these (open loop). Each contender runs in a process of its own; one that does not end in time is
reported as hung.

  cargo bench --bench load -- --writers 2 --followers 1 --compare
  cargo bench --bench load -- --writers 4 --rate 200000 --duration 10s
  cargo bench --bench load -- --input pushes.ndjson.gz --batch 16 --pullers 2
  cargo bench --bench load -- --report report";

/// A load.
#[derive(Debug, Clone, Serialize, Deserialize, Parser)]
pub struct Load {
    /// Threads that append.
    #[arg(long, default_value_t = 2, value_parser = count(1))]
    pub writers: u64,
    /// Readers that pull without pause.
    #[arg(long, default_value_t = 0, value_parser = count(0))]
    pub pullers: u64,
    /// Readers that sleep until there is something.
    #[arg(long, default_value_t = 0, value_parser = count(0))]
    pub followers: u64,
    /// Readers that pause for 20 ms after each read, and get lapped if the load is heavy.
    #[arg(long, default_value_t = 0, value_parser = count(0))]
    pub slow: u64,
    /// Events in one call.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub batch: u64,
    /// The length of each event's JSON. Without it, lengths are mixed as they are in practice.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(16..=1_000_000))]
    pub payload: Option<u64>,
    /// Events that the log keeps.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub window: u64,
    /// The bytes of ringlog's slots. What does not fit is allocated. The log's own choice if not
    /// given.
    #[arg(long, value_name = "BYTES")]
    pub slot: Option<usize>,
    /// How long each turn lasts: `500ms`, `10s`.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub duration: Duration,
    /// Events a second by all writers together. Without it, as many as they can.
    #[arg(long, value_parser = rate)]
    pub rate: Option<f64>,
    /// A further writer that is suspended again and again wherever it stands.
    #[arg(long)]
    pub suspend: bool,
    /// Push requests to be replayed, one JSON object a line, plain or gzipped. Without it, events
    /// are made up.
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// How many push requests are made up, of five events in the mean. Writers go round.
    #[arg(skip = 5_000_u64)]
    pub requests: u64,
}

fn count(least: u64) -> clap::builder::RangedU64ValueParser {
    clap::builder::RangedU64ValueParser::new().range(least..=1_000)
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(1)..=Duration::from_secs(3600);
    if allowed.contains(&duration) { Ok(duration) } else { Err("from 1ms to 1h".into()) }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (1.0..=1e9).contains(&rate) => Ok(rate),
        Ok(_) => Err("from 1 to 1000000000 events a second".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// The contenders that can be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PeerName {
    /// This crate.
    Ringlog,
    /// `Mutex<VecDeque<Arc<Event>>>`, with a Condvar for sleeping readers.
    Mutex,
    /// tokio's channel. Its window is the next power of two.
    Broadcast,
    /// pylon-sync behind one lock. A sleeping reader looks every millisecond: it cannot be waited
    /// for.
    Pylon,
    /// pylon-sync as it is. With writers and readers at a time, it hangs.
    PylonBare,
}

impl PeerName {
    /// As it is given.
    pub fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
    }
}

impl Args {
    /// The contenders, ringlog or the one to compare with first.
    pub fn contenders(&self) -> Vec<PeerName> {
        if !self.peers.is_empty() {
            return self.peers.clone();
        }
        let all = PeerName::value_variants();
        if self.compare { all.to_vec() } else { vec![PeerName::Ringlog] }
    }

    /// How often each runs.
    pub fn turns(&self) -> u32 {
        self.turns.unwrap_or(if self.contenders().len() > 1 { 3 } else { 1 })
    }
}

impl Load {
    /// In a few words.
    pub fn summary(&self) -> String {
        let pace = self.rate.map_or("closed loop".into(), |rate| format!("open loop at {rate} events/s"));
        let sizes = self.payload.map_or("mixed sizes".into(), |bytes| format!("{bytes} B of JSON"));
        let input =
            self.input.as_ref().map_or(String::new(), |path| format!(", replaying {}", path.display()));
        let suspended = if self.suspend { " + 1 suspended" } else { "" };
        format!(
            "{} writers{suspended}, readers: {} pulling + {} following + {} slow, batches of {}{input}, {sizes}, \
             window {}, {pace}",
            self.writers, self.pullers, self.followers, self.slow, self.batch, self.window
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Args, String> {
        Args::try_parse_from(words.split(' ')).map_err(|error| error.to_string())
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        for (words, named) in [
            ("load --writers 0", "--writers"),
            ("load --batch 0", "--batch"),
            ("load --payload 3", "--payload"),
            ("load --window 0", "--window"),
            ("load --duration 0s", "--duration"),
            ("load --duration soon", "--duration"),
            ("load --rate 0", "--rate"),
            ("load --rate NaN", "--rate"),
            ("load --peers nobody", "--peers"),
        ] {
            let error = parse(words).expect_err(words);
            assert!(error.contains(named), "{words}: {error}");
        }
    }

    #[test]
    fn an_option_that_another_would_make_idle_is_refused_with_both_names() {
        for (words, named) in [
            ("load --compare --peers mutex", ["--compare", "--peers"]),
            ("load --report DIR --json", ["--report", "--json"]),
        ] {
            let error = parse(words).expect_err(words);
            assert!(named.iter().all(|name| error.contains(name)), "{words}: {error}");
        }
    }

    #[test]
    fn ringlog_runs_alone_unless_it_is_compared() {
        let contenders = |words: &str| parse(words).map(|args| (args.contenders(), args.turns()));
        assert_eq!(contenders("load"), Ok((vec![PeerName::Ringlog], 1)));
        assert_eq!(contenders("load --compare").map(|(all, turns)| (all.len(), turns)), Ok((5, 3)));
        assert_eq!(contenders("load --peers mutex --turns 2"), Ok((vec![PeerName::Mutex], 2)));
    }
}

//! Op ids beside the programs that one would write without this crate.
//!
//! `cargo bench --bench op_ids` (a minute). Each line is claims and completions of new ids by so
//! many threads: how many a second, the processor time of one, and percentiles of the time of one.
//! The contenders take turns; figures are medians of the turns. The workload and the contenders are
//! those of `ringlog_bench::op_ids`. Each turn ends with a check that every id was taken.
#![forbid(unsafe_code)]

use parking_lot::Mutex;
use ringlog::ChangeLog;
use ringlog_bench::machine::{self, processor_nanos};
use ringlog_bench::op_ids::{Claims, OpIds, Sharded, Trial};
use ringlog_bench::timing::in_turns;

const THREADS: [usize; 4] = [1, 2, 4, 8];

const TURNS: usize = 15;

/// Claims in a turn: long enough that each thread has many time slices.
const IDS: u64 = 400_000;

/// One turn: millions of operations a second, nanoseconds of processor time an operation, then p50,
/// p99 and p99.9 of the time of one, in nanoseconds.
type Turn = [f64; 5];

fn main() {
    println!("{}\n", machine::summary());
    println!("| threads | contender | M claims/s | CPU ns | p50 ns | p99 ns | p99.9 ns |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let contenders: [(&str, Box<dyn OpIds>); 3] = [
        ("ringlog", Box::new(ChangeLog::new())),
        ("64 shards, each locked", Box::new(Sharded::default())),
        ("one lock", Box::new(Mutex::new(<Claims>::default()))),
    ];
    let mut trials = contenders.map(|(name, contender)| (name, Trial::new(contender)));
    for threads in THREADS {
        let all = in_turns(TURNS, &mut trials, |(_, trial)| measure(trial, threads));
        for ((name, _), turns) in trials.iter().zip(all) {
            let [millions, processor, p50, p99, p999] = median(&turns);
            println!(
                "| {threads} | {name} | {millions:.2} | {processor:.0} | {p50:.0} | {p99:.0} | {p999:.0} |"
            );
        }
    }
}

fn measure(trial: &Trial, threads: usize) -> Turn {
    let before = processor_nanos();
    let time = trial.claim(threads, IDS);
    let processor = (processor_nanos() - before) as f64 / IDS as f64;
    let times = trial.claim_times(threads, IDS / 4);
    let at = |percentile| times.value_at_percentile(percentile) as f64;
    [IDS as f64 / time.as_secs_f64() / 1e6, processor, at(50.0), at(99.0), at(99.9)]
}

/// Of each figure by itself.
fn median(turns: &[Turn]) -> Turn {
    std::array::from_fn(|figure| {
        let mut values: Vec<f64> = turns.iter().map(|turn| turn[figure]).collect();
        values.sort_unstable_by(f64::total_cmp);
        values[values.len() / 2]
    })
}

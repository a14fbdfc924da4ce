//! Contenders in turns.

use crate::contender::Run;
use crate::timing::in_turns;
use std::time::Duration;

/// How long a run is, and how many turns there are.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// About so long is each run of each contender.
    pub run: Duration,
    /// So often all have their turn.
    pub turns: usize,
}

impl Effort {
    /// For so many threads: with more of them than cores, a run must be many time slices long.
    pub fn for_threads(threads: usize) -> Self {
        let run = Duration::from_millis(match threads {
            1 => 8,
            2 => 16,
            _ => 50,
        });
        Self { run, turns: if threads > 2 { 15 } else { 30 } }
    }
}

/// Contenders, and which of them are compared.
pub struct Contest {
    /// How long they run.
    pub effort: Effort,
    /// Their names and runs.
    pub contestants: Vec<(&'static str, Run)>,
    /// What is compared.
    pub comparisons: Vec<Comparison>,
}

/// The ratio of the times of two contenders, which are named.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// What is measured.
    pub what: String,
    /// Whose time is divided.
    pub ours: &'static str,
    /// By whose time it is divided.
    pub theirs: &'static str,
    /// What the ratio must not exceed; nothing for those that only inform.
    pub limit: Option<f64>,
}

impl Contest {
    /// One contender, to be compared with others.
    pub(super) fn new(effort: Effort, ours: (&'static str, Run)) -> Self {
        Self { effort, contestants: vec![ours], comparisons: Vec::new() }
    }

    /// Another, with which the first is compared.
    pub(super) fn against(mut self, what: &str, theirs: &'static str, run: Run, limit: Option<f64>) -> Self {
        let ours = self.contestants[0].0;
        self.contestants.push((theirs, run));
        self.comparisons.push(Comparison { what: what.into(), ours, theirs, limit });
        self
    }

    /// Runs all in turns.
    ///
    /// First each finds out how many operations make a run of the wanted length, which also warms
    /// it up.
    pub fn run(self) -> Figures {
        let Effort { run: wanted, turns } = self.effort;
        let (names, runs): (Vec<_>, Vec<_>) = self.contestants.into_iter().unzip();
        let with_count = |mut run: Run| (calibrate(wanted, &mut run), run);
        let mut runs: Vec<(u64, Run)> = runs.into_iter().map(with_count).collect();
        let nanos = in_turns(turns, &mut runs, |(count, run)| run(*count).as_nanos() as f64 / *count as f64);
        Figures { names, nanos }
    }
}

/// How many operations take about so long. Each number of them is tried twice: one of the tries may
/// have been disturbed.
fn calibrate(wanted: Duration, run: &mut Run) -> u64 {
    let mut count = 16;
    loop {
        let time = run(count).min(run(count));
        if time >= wanted / 4 {
            let count = count as f64 * wanted.as_secs_f64() / time.as_secs_f64();
            return count.clamp(16.0, 1e9) as u64;
        }
        count *= 2;
    }
}

/// Nanoseconds an operation: a row a contender, a column a turn.
pub struct Figures {
    /// The contenders.
    pub names: Vec<&'static str>,
    /// For each, its figures turn by turn.
    pub nanos: Vec<Vec<f64>>,
}

impl Figures {
    /// The median time of a contender, in nanoseconds.
    pub fn nanos(&self, name: &str) -> f64 {
        quantile(self.of(name).to_vec(), 0.5)
    }

    /// The quartiles of the ratios of two contenders' times, turn by turn.
    pub fn ratio(&self, ours: &str, theirs: &str) -> [f64; 3] {
        let ratios: Vec<f64> =
            self.of(ours).iter().zip(self.of(theirs)).map(|(ours, theirs)| ours / theirs).collect();
        [0.25, 0.5, 0.75].map(|part| quantile(ratios.clone(), part))
    }

    fn of(&self, name: &str) -> &[f64] {
        let place = self.names.iter().position(|known| *known == name);
        &self.nanos[place.unwrap_or_else(|| panic!("no contender {name}"))]
    }
}

/// The value below which this part of the values lies.
fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let place = part * (values.len() - 1) as f64;
    let (low, high) = (values[place.floor() as usize], values[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[test]
    fn quantiles_are_between_the_values() {
        assert!((quantile(vec![3.0, 1.0, 2.0], 0.5) - 2.0).abs() < 1e-9);
        assert!((quantile(vec![1.0, 2.0], 0.5) - 1.5).abs() < 1e-9);
        assert!((quantile(vec![5.0], 0.25) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn a_disturbed_turn_does_not_move_the_ratio() {
        let runs = Rc::new(Cell::new(0));
        let of = |nanos: u64| -> Run {
            let runs = Rc::clone(&runs);
            Box::new(move |count| {
                runs.set(runs.get() + 1);
                // Every ninth run is disturbed.
                Duration::from_nanos(count * nanos * if runs.get() % 9 == 0 { 50 } else { 1 })
            })
        };
        let effort = Effort { run: Duration::from_micros(100), turns: 21 };
        let figures = Contest::new(effort, ("half", of(50))).against("", "whole", of(100), None).run();
        assert!((figures.ratio("half", "whole")[1] - 0.5).abs() < 1e-6);
        assert!((figures.nanos("whole") - 100.0).abs() < 1e-6);
    }
}

//! Contenders in turns.

use std::time::Duration;

/// A name, and a run of so many operations that returns how long they took.
pub type Contestant<'a> = (&'static str, &'a dyn Fn(u64) -> Duration);

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

/// Nanoseconds an operation: a row a contender, a column a turn.
#[derive(Debug)]
pub struct Figures {
    names: Vec<&'static str>,
    nanos: Vec<Vec<f64>>,
}

/// Runs all contenders in turns.
///
/// First each finds out how many operations make a run of the wanted length, which also warms it
/// up. Each turn begins with another contender.
pub fn alternate(effort: Effort, contestants: &[Contestant<'_>]) -> Figures {
    let counts: Vec<u64> = contestants.iter().map(|(_, run)| calibrate(effort.run, run)).collect();
    let mut nanos = vec![Vec::with_capacity(effort.turns); contestants.len()];
    for turn in 0..effort.turns {
        for place in 0..contestants.len() {
            let place = (turn + place) % contestants.len();
            let time = contestants[place].1(counts[place]);
            nanos[place].push(time.as_nanos() as f64 / counts[place] as f64);
        }
    }
    Figures::new(contestants.iter().map(|(name, _)| *name).collect(), nanos)
}

/// How many operations take about so long. Each number of them is tried twice: one of the tries may
/// have been disturbed.
fn calibrate(wanted: Duration, run: impl Fn(u64) -> Duration) -> u64 {
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

impl Figures {
    /// For each contender, its figures turn by turn.
    pub fn new(names: Vec<&'static str>, nanos: Vec<Vec<f64>>) -> Self {
        assert_eq!(names.len(), nanos.len());
        Self { names, nanos }
    }

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

    #[test]
    fn quantiles_are_between_the_values() {
        assert!((quantile(vec![3.0, 1.0, 2.0], 0.5) - 2.0).abs() < 1e-9);
        assert!((quantile(vec![1.0, 2.0], 0.5) - 1.5).abs() < 1e-9);
        assert!((quantile(vec![5.0], 0.25) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn a_disturbed_turn_does_not_move_the_ratio() {
        let runs = Cell::new(0);
        let of = |nanos: u64| {
            let runs = &runs;
            move |count: u64| {
                runs.set(runs.get() + 1);
                // Every ninth run is disturbed.
                Duration::from_nanos(count * nanos * if runs.get() % 9 == 0 { 50 } else { 1 })
            }
        };
        let (half, whole) = (of(50), of(100));
        let effort = Effort { run: Duration::from_micros(100), turns: 21 };
        let figures = alternate(effort, &[("half", &half), ("whole", &whole)]);
        assert!((figures.ratio("half", "whole")[1] - 0.5).abs() < 1e-6);
        assert!((figures.nanos("whole") - 100.0).abs() < 1e-6);
    }
}

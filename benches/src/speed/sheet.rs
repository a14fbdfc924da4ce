//! What was measured, and how it is printed.

use super::{Comparison, Contest, Figures};
use crate::machine;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One comparison.
#[derive(Debug, Clone, Serialize)]
struct Line {
    /// The row's name, as a filter takes it.
    row: &'static str,
    /// What is measured.
    measure: String,
    /// What ringlog's figure is.
    ours: f64,
    /// The unit of that.
    unit: &'static str,
    /// What it is compared with.
    baseline: String,
    /// The figure of that.
    theirs: f64,
    /// The first over the second: the median of the turns, if there were turns.
    ratio: f64,
    /// The quartiles of the turns' ratios.
    spread: Option<[f64; 2]>,
    /// What the ratio must not exceed; nothing for lines that only inform.
    limit: Option<f64>,
}

impl Line {
    /// Whether the target is met; true if there is none.
    fn met(&self) -> bool {
        self.limit.is_none_or(|limit| self.ratio <= limit)
    }
}

/// All lines, printed as a table in Markdown as they come, or as JSON in the end.
#[derive(Debug, Default)]
pub struct Sheet {
    /// The name of the row to which the lines belong that come now.
    pub row: &'static str,
    /// The program `memory`, which counts allocations.
    pub(super) memory: Option<PathBuf>,
    json: bool,
    lines: Vec<Line>,
    unmeasured: Vec<&'static str>,
}

impl Sheet {
    /// Prints what stands above the lines.
    pub fn new(json: bool, memory: Option<PathBuf>) -> Self {
        if !json {
            println!("{}\n", machine::summary());
            print(["measure", "ringlog", "against", "ratio", "target"].map(String::from));
            print(["---"; 5].map(String::from));
        }
        Self { memory, json, ..Self::default() }
    }

    /// Says that the row cannot be measured here.
    pub(super) fn unmeasured(&mut self, why: &str) {
        self.unmeasured.push(self.row);
        if !self.json {
            print([self.row, "", "", "", &format!("not measured: {why}")].map(String::from));
        }
    }

    /// The lines of a contest.
    pub fn contest(&mut self, contest: Contest) {
        let comparisons = contest.comparisons.clone();
        let figures = contest.run();
        for Comparison { what, ours, theirs, limit } in comparisons {
            self.turns(&what, &figures, [ours, theirs], limit);
        }
    }

    /// A line from turns.
    pub(super) fn turns(
        &mut self,
        measure: &str,
        figures: &Figures,
        [ours, theirs]: [&str; 2],
        limit: Option<f64>,
    ) {
        let [low, ratio, high] = figures.ratio(ours, theirs);
        let baseline = (theirs, figures.nanos(theirs));
        let line = self.line(measure, "ns", figures.nanos(ours), baseline, limit);
        self.add(Line { ratio, spread: Some([low, high]), ..line });
    }

    /// A line from two figures.
    pub(super) fn figures(
        &mut self,
        measure: &str,
        unit: &'static str,
        ours: f64,
        baseline: (&str, f64),
        limit: Option<f64>,
    ) {
        self.add(self.line(measure, unit, ours, baseline, limit));
    }

    fn line(
        &self,
        measure: &str,
        unit: &'static str,
        ours: f64,
        (baseline, theirs): (&str, f64),
        limit: Option<f64>,
    ) -> Line {
        let (measure, baseline, ratio) = (measure.into(), baseline.into(), ours / theirs);
        Line { row: self.row, measure, ours, unit, baseline, theirs, ratio, spread: None, limit }
    }

    fn add(&mut self, line: Line) {
        if !self.json {
            let verdict = if line.met() { "met" } else { "**missed**" };
            print([
                line.measure.clone(),
                amount(line.ours, line.unit),
                format!("{}, {}", line.baseline, amount(line.theirs, line.unit)),
                short(line.ratio),
                line.limit.map_or(String::new(), |limit| format!("≤ {}, {verdict}", short(limit))),
            ]);
        }
        self.lines.push(line);
    }

    /// Prints the end. Whether every target was met, and every row measured.
    pub fn end(self) -> bool {
        let targets = self.lines.iter().filter(|line| line.limit.is_some()).count();
        let met = self.lines.iter().filter(|line| line.limit.is_some() && line.met()).count();
        if self.json {
            let machine = BTreeMap::from(machine::machine());
            let all = json!({
                "machine": machine, "lines": self.lines, "unmeasured": self.unmeasured,
                "met": met, "targets": targets,
            });
            println!("{all:#}");
        } else {
            println!("\n{met} of {targets} targets met");
        }
        met == targets && self.unmeasured.is_empty()
    }
}

/// One line of the table, in columns that can be read as they are too.
fn print([measure, ours, against, ratio, target]: [String; 5]) {
    println!("| {measure:<50} | {ours:>12} | {against:<30} | {ratio:>6} | {target:<17} |");
}

/// A figure with its unit, nanoseconds as the unit that suits them.
pub(crate) fn amount(figure: f64, unit: &str) -> String {
    match (unit, figure) {
        ("ns", 1e9..) => format!("{} s", short(figure / 1e9)),
        ("ns", 1e6..) => format!("{} ms", short(figure / 1e6)),
        ("ns", 1e3..) => format!("{} µs", short(figure / 1e3)),
        _ => format!("{} {unit}", short(figure)),
    }
}

/// Three digits.
fn short(figure: f64) -> String {
    match figure.abs() {
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        0.1.. => format!("{figure:.2}"),
        0.01.. => format!("{figure:.3}"),
        _ => format!("{figure:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_their_unit() {
        let shown = [0.5, 12.34, 999.0, 1_234.0, 5_600_000.0, 2e9].map(|nanos| amount(nanos, "ns"));
        assert_eq!(shown, ["0.50 ns", "12.3 ns", "999 ns", "1.23 µs", "5.60 ms", "2.00 s"]);
        assert_eq!(amount(0.0039, ""), "0.0039 ");
    }
}

//! What was measured, and how it is printed.

use super::Figures;
use crate::machine::Machine;
use serde::Serialize;

/// One comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// The row's name, as a filter takes it.
    pub row: &'static str,
    /// What is measured.
    pub measure: String,
    /// What ringlog's figure is.
    pub ours: f64,
    /// The unit of that.
    pub unit: &'static str,
    /// What it is compared with.
    pub baseline: String,
    /// The figure of that.
    pub theirs: f64,
    /// The first over the second: the median of the turns, if there were turns.
    pub ratio: f64,
    /// The quartiles of the turns' ratios.
    pub spread: Option<[f64; 2]>,
    /// What the ratio must not exceed; nothing for lines that only inform.
    pub limit: Option<f64>,
}

impl Line {
    /// Whether the target is met; true if there is none.
    pub fn met(&self) -> bool {
        self.limit.is_none_or(|limit| self.ratio <= limit)
    }
}

/// How a sheet is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Line by line, as they come.
    Text,
    /// The same as a table to be put into a document.
    Markdown,
    /// One object in the end.
    Json,
}

/// All lines, printed as they come.
#[derive(Debug)]
pub struct Sheet {
    row: &'static str,
    lines: Vec<Line>,
    format: Format,
    unmeasured: Vec<&'static str>,
}

impl Sheet {
    /// An empty one.
    pub fn new(format: Format) -> Self {
        Self { row: "", lines: Vec::new(), format, unmeasured: Vec::new() }
    }

    /// Prints what stands above the lines.
    pub fn head(&self, machine: &Machine) {
        match self.format {
            Format::Text => println!(
                "{}\n\n{:<17}{:<46}{:>10}   {:<40}{:>7}",
                machine.summary(),
                "row",
                "measure",
                "ringlog",
                "target",
                "measured"
            ),
            Format::Markdown => {
                println!("{}\n", machine.summary());
                println!("| measure | ringlog | against | ratio | target |\n| --- | --- | --- | --- | --- |");
            }
            Format::Json => {}
        }
    }

    /// The lines that follow belong to this row.
    pub fn begin(&mut self, row: &'static str) {
        self.row = row;
    }

    /// Says that the row cannot be measured here.
    pub fn unmeasured(&mut self, why: &str) {
        self.unmeasured.push(self.row);
        if self.format != Format::Json {
            println!("{:<17}not measured: {why}", self.row);
        }
    }

    /// A line from turns.
    pub fn turns(
        &mut self,
        measure: &str,
        figures: &Figures,
        [ours, theirs]: [&'static str; 2],
        limit: Option<f64>,
    ) {
        let [low, ratio, high] = figures.ratio(ours, theirs);
        self.add(Line {
            row: self.row,
            measure: measure.into(),
            ours: figures.nanos(ours),
            unit: "ns",
            baseline: theirs.into(),
            theirs: figures.nanos(theirs),
            ratio,
            spread: Some([low, high]),
            limit,
        });
    }

    /// A line from two figures.
    pub fn figures(
        &mut self,
        measure: &str,
        unit: &'static str,
        ours: f64,
        (baseline, theirs): (&str, f64),
        limit: Option<f64>,
    ) {
        let (measure, baseline) = (measure.into(), baseline.into());
        let ratio = ours / theirs;
        self.add(Line { row: self.row, measure, ours, unit, baseline, theirs, ratio, spread: None, limit });
    }

    fn add(&mut self, line: Line) {
        match self.format {
            Format::Text => text(&line),
            Format::Markdown => markdown(&line),
            Format::Json => {}
        }
        self.lines.push(line);
    }

    /// Prints the end. Whether every target was met, and every row measured.
    pub fn end(self, machine: &Machine) -> bool {
        let targets = self.lines.iter().filter(|line| line.limit.is_some()).count();
        let met = self.lines.iter().filter(|line| line.limit.is_some() && line.met()).count();
        if self.format == Format::Json {
            let all = serde_json::json!({
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

fn markdown(line: &Line) {
    let target = line.limit.map_or(String::new(), |limit| {
        format!("≤ {}, {}", short(limit), if line.met() { "met" } else { "**missed**" })
    });
    println!(
        "| {} | {} | {}, {} | {} | {target} |",
        code(&line.measure),
        amount(line.ours, line.unit),
        code(&line.baseline),
        amount(line.theirs, line.unit),
        short(line.ratio),
    );
}

/// Words that are code, set as such.
fn code(text: &str) -> String {
    let word = |word: &str| {
        let bare = word.trim_end_matches(',');
        let is_code = bare.contains(['_', '<']) || bare.contains('(') && !bare.starts_with('(');
        if is_code { format!("`{bare}`{}", &word[bare.len()..]) } else { word.to_owned() }
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn text(line: &Line) {
    let baseline = format!("{} ({})", line.baseline, amount(line.theirs, line.unit));
    let target = match line.limit {
        Some(limit) => format!("≤ {} × {baseline}", short(limit)),
        None => format!("  {baseline}"),
    };
    let verdict = match line.limit {
        Some(_) if line.met() => "met",
        Some(_) => "MISSED",
        None => "",
    };
    println!(
        "{:<17}{:<46}{:>10}   {target:<40}{:>7} {verdict}",
        line.row,
        line.measure,
        amount(line.ours, line.unit),
        short(line.ratio),
    );
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

    #[test]
    fn code_is_set_as_code() {
        assert_eq!(code("append(Some(Value)), 1 writer"), "`append(Some(Value))`, 1 writer");
        assert_eq!(code("read of any 100 (memory, not cache)"), "read of any 100 (memory, not cache)");
        assert_eq!(code("Mutex<HashSet>"), "`Mutex<HashSet>`");
    }
}

//! The page: everything in one file.

use super::chart::{MIN_WIDTH, Theme};
use super::figures::Figure;
use super::sweep::Series;
use crate::Result;
use crate::load::{Ended, Outcome, PERCENTILES, Times};
use crate::machine::Machine;
use crate::speed::amount;
use std::fmt::Write as _;

const STYLE: &str = "
:root { color-scheme: light dark; --ground: #fff; --ink: #202730; --soft: #5b6672; --line: #e3e7ec; }
@media (prefers-color-scheme: dark) { :root { --ground: #161a20; --ink: #dde3ea; --soft: #97a3b0; --line: #2c333d; } }
body { font: 16px/1.5 system-ui, sans-serif; background: var(--ground); color: var(--ink); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem; }
p, figcaption { color: var(--soft); margin: .3rem 0 .8rem; } figure { margin: 0; } svg { width: 100%; height: auto; }
.wide, .light, .dark { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } dl { display: grid; grid-template-columns: max-content 1fr;
  gap: .2rem 1rem; } dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.dark { display: none; }
@media (prefers-color-scheme: dark) { .light { display: none; } .dark { display: block; } }
";

/// The whole page.
pub(super) fn html(series: &Series, figures: &[Figure], machine: &Machine) -> Result<String> {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>ringlog under load</title>\n<style>{STYLE}svg {{ min-width: {MIN_WIDTH}px; }}\n</style>\n<h1>ringlog under load</h1>\n"
    );
    setting(&mut page, series, machine)?;
    table(&mut page, series)?;
    for Figure { title, text, chart, .. } in figures {
        writeln!(page, "<figure>\n<h2>{title}</h2>\n<figcaption>{}</figcaption>", escaped(text))?;
        for (class, theme) in [("light", Theme::Light), ("dark", Theme::Dark)] {
            writeln!(page, "<div class=\"{class}\">{}</div>", chart.svg(theme)?)?;
        }
        page.push_str("</figure>\n");
    }
    page.push_str("</html>\n");
    Ok(page)
}

fn setting(page: &mut String, series: &Series, machine: &Machine) -> Result<()> {
    let memory = machine.memory.map_or("unknown".into(), |bytes| format!("{} GiB", bytes >> 30));
    let turns = format!(
        "{} of {} for each contender, in turn; each run in a process of its own",
        if series.turns == 1 { "1 turn".into() } else { format!("{} turns", series.turns) },
        humantime::format_duration(series.load.duration)
    );
    let rows = [
        ("machine", format!("{} cores of {}, {memory}", machine.cores, machine.processor)),
        ("system", machine.system.clone()),
        ("toolchain", format!("{}, {} allocator", machine.toolchain, machine.allocator)),
        ("commit", machine.commit.clone()),
        ("command", machine.command.clone()),
        ("load", series.load.summary()),
        ("runs", turns),
    ];
    page.push_str("<dl>\n");
    for (name, value) in rows {
        writeln!(page, "<dt>{name}</dt><dd>{}</dd>", escaped(&value))?;
    }
    page.push_str("</dl>\n");
    Ok(())
}

/// The load as it was given, in figures.
fn table(page: &mut String, series: &Series) -> Result<()> {
    page.push_str(
        "<h2>The load, in figures</h2>\n<div class=\"wide\"><table>\n<tr><th></th><th>events/s</th>",
    );
    page.push_str("<th>processor an event</th>");
    for (name, _) in PERCENTILES {
        write!(page, "<th>{name}</th>")?;
    }
    page.push_str("<th>max</th></tr>\n");
    for (name, ended) in &series.whole {
        let name = name.as_str();
        match ended {
            Ended::Done(outcome) => {
                row(page, &format!("{name}, append"), outcome, &outcome.append)?;
                row(page, &format!("{name}, delivery"), outcome, &outcome.delivery)?;
            }
            Ended::Hung(seconds) => {
                writeln!(
                    page,
                    "<tr><td>{name}</td><td colspan=\"8\">hung: killed after {seconds:.0} s</td></tr>"
                )?;
            }
            Ended::Failed(why) => {
                writeln!(page, "<tr><td>{name}</td><td colspan=\"8\">failed: {}</td></tr>", escaped(why))?;
            }
        }
    }
    page.push_str("</table></div>\n");
    Ok(())
}

fn row(page: &mut String, name: &str, outcome: &Outcome, times: &Times) -> Result<()> {
    let rate = indicatif::HumanCount(outcome.rate() as u64);
    let processor = amount(outcome.processor_nanos(), "ns");
    write!(page, "<tr><td>{name}</td><td>{rate}</td><td>{processor}</td>")?;
    for (_, nanos) in times.percentiles() {
        write!(page, "<td>{}</td>", amount(nanos as f64, "ns"))?;
    }
    page.push_str("</tr>\n");
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

//! The page: everything in one file.

use super::chart::{Chart, MIN_WIDTH};
use super::sweep::Series;
use crate::Result;
use crate::load::{Table, tables, trouble};
use crate::machine::machine;
use std::fmt::Write as _;

const STYLE: &str = "
:root { color-scheme: light dark; --ground: #fff; --ink: #202730; --soft: #5b6672; --line: #e3e7ec; }
@media (prefers-color-scheme: dark) { :root { --ground: #161a20; --ink: #dde3ea; --soft: #97a3b0; --line: #2c333d; } }
body { font: 16px/1.5 system-ui, sans-serif; background: var(--ground); color: var(--ink); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem; }
p, figcaption { color: var(--soft); margin: .3rem 0 .8rem; } figure { margin: 0; } svg { width: 100%; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; margin: 0 0 1rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } dl { display: grid; grid-template-columns: max-content 1fr;
  gap: .2rem 1rem; } dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
";

/// The whole page.
pub(super) fn html(series: &Series, charts: &[Chart]) -> Result<String> {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>ringlog under load</title>\n<style>{STYLE}svg {{ min-width: {MIN_WIDTH}px; }}\n</style>\n\
         <h1>ringlog under load</h1>\n<dl>\n"
    );
    let turns = format!(
        "{} of {} for each contender, in turn; each run in a process of its own",
        if series.turns == 1 { "1 turn".into() } else { format!("{} turns", series.turns) },
        humantime::format_duration(series.load.duration)
    );
    for (name, value) in machine().into_iter().chain([("load", series.load.summary()), ("runs", turns)]) {
        writeln!(page, "<dt>{name}</dt><dd>{}</dd>", escaped(&value))?;
    }
    page.push_str("</dl>\n<h2>The load, in figures</h2>\n");
    for table in tables(&series.whole) {
        html_table(&mut page, &table)?;
    }
    for (name, ended) in &series.whole {
        if let Some(why) = trouble(ended) {
            writeln!(page, "<p>{} {}</p>", name.name(), escaped(&why))?;
        }
    }
    for chart in charts {
        let (title, text, svg) = (chart.title, escaped(&chart.text), chart.svg()?);
        writeln!(page, "<figure>\n<h2>{title}</h2>\n<figcaption>{text}</figcaption>")?;
        writeln!(page, "<div class=\"wide\">{svg}</div>\n</figure>")?;
    }
    page.push_str("</html>\n");
    Ok(page)
}

fn html_table(page: &mut String, Table { head, rows }: &Table) -> Result<()> {
    writeln!(page, "<div class=\"wide\"><table>\n<tr><th>{}</th></tr>", head.join("</th><th>"))?;
    for row in rows {
        writeln!(page, "<tr><td>{}</td></tr>", row.join("</td><td>"))?;
    }
    page.push_str("</table></div>\n");
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

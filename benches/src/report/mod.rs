//! One page that shows how ringlog and its peers bear a load, and the figures in it as files of
//! their own.
//!
//! The load on the command line is run as it is, and then varied in one thing at a time: the number
//! of writers, the offered rate, the window. Each figure is drawn for light and for dark
//! surroundings.

mod chart;
mod figures;
mod page;
mod sweep;

use crate::Result;
use crate::load::Args;
use crate::machine::Machine;
use chart::Theme;
use std::fs;
use std::path::Path;

/// Runs the series, and writes `index.html` and the figures.
pub fn write(folder: &Path, args: &Args, machine: &Machine) -> Result<()> {
    let io = |error| format!("--report {}: {error}", folder.display());
    // Before the series, which takes minutes: a folder that cannot be made is told at once.
    fs::create_dir_all(folder).map_err(io)?;
    let series = sweep::run(args)?;
    let figures = figures::all(&series);
    for figure in &figures {
        for (theme, suffix) in [(Theme::Light, ""), (Theme::Dark, "-dark")] {
            let file = folder.join(format!("{}{suffix}.svg", figure.name));
            fs::write(file, figure.chart.svg(theme)?).map_err(io)?;
        }
    }
    let page = folder.join("index.html");
    fs::write(&page, page::html(&series, &figures, machine)?).map_err(io)?;
    println!("{}", page.display());
    Ok(())
}

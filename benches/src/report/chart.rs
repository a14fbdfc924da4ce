//! A chart of lines, as SVG.

use crate::Result;
use crate::load::args::PeerName;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;
use std::ops::Range;

/// What stands around the chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Theme {
    Light,
    Dark,
}

impl Theme {
    fn ground(self) -> RGBColor {
        self.pick(0x00ff_ffff, 0x0016_1a20)
    }

    fn ink(self) -> RGBColor {
        self.pick(0x0020_2730, 0x00dd_e3ea)
    }

    fn grid(self) -> RGBColor {
        self.pick(0x00e3_e7ec, 0x002c_333d)
    }

    /// Each contender's own; they differ without red and green as well.
    fn colour(self, peer: PeerName) -> RGBColor {
        match peer {
            PeerName::Ringlog => self.pick(0x0000_62b8, 0x0056_b4ff),
            PeerName::Mutex => self.pick(0x00c4_5a00, 0x00ff_a04d),
            PeerName::Broadcast => self.pick(0x0000_8a68, 0x0038_d3a5),
            PeerName::Pylon | PeerName::PylonBare => self.pick(0x00a6_3d8f, 0x00f0_8fd6),
        }
    }

    fn line(self, peer: PeerName) -> ShapeStyle {
        self.colour(peer).stroke_width(if peer == PeerName::Ringlog { 3 } else { 2 })
    }

    fn pick(self, light: u32, dark: u32) -> RGBColor {
        let [_, red, green, blue] = if self == Self::Light { light } else { dark }.to_be_bytes();
        RGBColor(red, green, blue)
    }
}

/// Where a value stands on an axis, and what is written there.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub(super) label: &'static str,
    /// Places and what is written at them, in order.
    pub(super) ticks: Vec<(f64, String)>,
}

/// Places are those of the axes: the chart's maker takes logarithms.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<(PeerName, Vec<(f64, f64)>)>,
    /// Whether each point was measured on its own, and is to be seen as one.
    pub(super) points: bool,
}

const SIZE: (u32, u32) = (860, 460);
/// The least width at which the page shows a chart, in pixels: a narrower window scrolls. The
/// labels shrink with it.
pub(super) const MIN_WIDTH: u32 = 660;
/// The height of the letters.
const FONT_SIZE: u32 = 16;
const _: () = assert!(FONT_SIZE * MIN_WIDTH >= 12 * SIZE.0, "labels of 12 pixels can be read");
/// The height of the strip for the legend.
const LEGEND: u32 = 32;
const FONT: &str = "system-ui, sans-serif";

impl Chart {
    /// The chart as a file of its own.
    pub(super) fn svg(&self, theme: Theme) -> Result<String> {
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            root.fill(&theme.ground())?;
            let (strip, plot) = root.split_vertically(LEGEND);
            self.legend(&strip, theme)?;
            self.draw(&plot, theme)?;
            root.present()?;
        }
        // It should take the width that it is given.
        let fixed = format!("width=\"{}\" height=\"{}\" viewBox", SIZE.0, SIZE.1);
        Ok(svg.replacen(&fixed, "viewBox", 1))
    }

    fn draw(&self, root: &DrawingArea<SVGBackend<'_>, Shift>, theme: Theme) -> Result<()> {
        let font = (FONT, FONT_SIZE).into_font();
        let ink = font.color(&theme.ink());
        let mut chart = ChartBuilder::on(root)
            .margin(14)
            .margin_right(42)
            .x_label_area_size(52)
            .y_label_area_size(84)
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        chart
            .configure_mesh()
            .bold_line_style(theme.grid())
            .light_line_style(TRANSPARENT)
            .axis_style(theme.ink())
            .label_style(ink.clone())
            .axis_desc_style(ink.clone())
            .x_desc(self.x.label)
            .y_desc(self.y.label)
            .x_labels(self.x.ticks.len())
            .y_labels(self.y.ticks.len())
            .draw()?;
        for (peer, points) in &self.lines {
            chart.draw_series(LineSeries::new(points.iter().copied(), theme.line(*peer)))?;
            if self.points {
                let dot = |&place: &(f64, f64)| Circle::new(place, 4, theme.colour(*peer).filled());
                chart.draw_series(points.iter().map(dot))?;
            }
        }
        Ok(())
    }

    /// Above the chart, where no line can be under it.
    fn legend(&self, strip: &DrawingArea<SVGBackend<'_>, Shift>, theme: Theme) -> Result<()> {
        let text = (FONT, FONT_SIZE).into_font().color(&theme.ink());
        for (place, (peer, _)) in (0..).zip(&self.lines) {
            let (left, middle) = (98 + 130 * place, 22);
            let sample = PathElement::new([(left, middle), (left + 22, middle)], theme.line(*peer));
            strip.draw(&sample)?;
            strip.draw(&Text::new(peer.as_str(), (left + 30, middle - 6), text.clone()))?;
        }
        Ok(())
    }
}

/// Ticks where they were asked for, and nowhere else.
impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (low, high): (i32, i32)) -> i32 {
        let Range { start, end } = self.range();
        low + (f64::from(high - low) * (place - start) / (end - start)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.iter().map(|(place, _)| *place).collect()
    }

    fn range(&self) -> Range<f64> {
        let place = |tick: Option<&(f64, String)>| tick.map(|(place, _)| *place);
        place(self.ticks.first()).unwrap_or(0.0)..place(self.ticks.last()).unwrap_or(1.0)
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(place: &f64) -> String {
        place.to_string()
    }

    fn format_ext(&self, place: &f64) -> String {
        let near = |tick: &&(f64, String)| (tick.0 - place).abs() < 1e-9;
        self.ticks.iter().find(near).map(|(_, text)| text.clone()).unwrap_or_default()
    }
}

//! A chart of lines, as SVG.

use super::count;
use crate::Result;
use crate::load::args::PeerName;
use crate::speed::amount;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

/// What is drawn.
pub(super) struct Chart {
    /// The file's name.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// What is said of it.
    pub(super) text: String,
    /// What stands at the logarithmic axis below, and at a place on it.
    pub(super) x: (&'static str, fn(f64) -> String),
    /// What stands at the axis on the left. It is logarithmic for times, and from zero for others.
    pub(super) y: &'static str,
    pub(super) times: bool,
    /// The points of each contender.
    pub(super) lines: Vec<(PeerName, Vec<(f64, f64)>)>,
}

const SIZE: (u32, u32) = (860, 460);
/// The least width at which the page shows a chart, in pixels: a narrower window scrolls. The
/// labels shrink with it.
pub(super) const MIN_WIDTH: u32 = 660;
/// The height of the letters.
const FONT_SIZE: u32 = 16;
const _: () = assert!(FONT_SIZE * MIN_WIDTH >= 12 * SIZE.0, "labels of 12 pixels can be read");

/// In dark surroundings light and dark change places, and colours stay.
const STYLE: &str =
    "><style>@media (prefers-color-scheme: dark) { svg { filter: invert(.9) hue-rotate(180deg) } }</style>";

/// Each contender's own; they differ without red and green as well.
fn line(peer: PeerName) -> ShapeStyle {
    let (colour, width) = match peer {
        PeerName::Ringlog => (RGBColor(0x00, 0x62, 0xb8), 3),
        PeerName::Mutex => (RGBColor(0xc4, 0x5a, 0x00), 2),
        PeerName::Broadcast => (RGBColor(0x00, 0x8a, 0x68), 2),
        PeerName::Pylon | PeerName::PylonBare => (RGBColor(0xa6, 0x3d, 0x8f), 2),
    };
    colour.stroke_width(width)
}

impl Chart {
    /// The chart as a file of its own, which takes the width that it is given.
    pub(super) fn svg(&self) -> Result<String> {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let bounds = |of: fn(&(f64, f64)) -> f64| {
            let values = || points().map(of);
            (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max))
        };
        let ((left, right), (bottom, top)) = (bounds(|point| point.0), bounds(|point| point.1));
        let mut svg = String::new();
        if right <= left {
            return Ok(svg);
        }
        let x = (left..right).log_scale();
        // There is room above the lines for the legend.
        if self.times {
            let decades = 10_f64.powf(bottom.log10().floor())..10_f64.powf(top.log10().ceil() + 1.0);
            self.draw(&mut svg, x, decades.log_scale(), &|nanos| amount(*nanos, "ns"))?;
        } else {
            self.draw(&mut svg, x, 0.0..top * 1.3, &|value| count(*value))?;
        }
        let fixed = format!("width=\"{}\" height=\"{}\" viewBox", SIZE.0, SIZE.1);
        Ok(svg.replacen(&fixed, "viewBox", 1).replacen('>', STYLE, 1))
    }

    fn draw<X, Y>(&self, svg: &mut String, x: X, y: Y, label: &dyn Fn(&f64) -> String) -> Result<()>
    where
        X: AsRangedCoord<Value = f64, CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>>,
        Y: AsRangedCoord<Value = f64, CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>>,
    {
        let font = ("system-ui, sans-serif", FONT_SIZE);
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(14)
            .margin_right(42)
            .x_label_area_size(52)
            .y_label_area_size(84)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .bold_line_style(BLACK.mix(0.12))
            .light_line_style(TRANSPARENT)
            .label_style(font)
            .x_desc(self.x.0)
            .y_desc(self.y)
            .x_label_formatter(&|place| (self.x.1)(*place))
            .y_label_formatter(label)
            .draw()?;
        for (peer, points) in &self.lines {
            let style = line(*peer);
            // A curve has many points, which are not to be seen.
            let size = if points.len() < 20 { 4 } else { 0 };
            let series = LineSeries::new(points.iter().copied(), style.filled()).point_size(size);
            let sample = move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style);
            chart.draw_series(series)?.label(peer.name()).legend(sample);
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(font)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        root.present()?;
        Ok(())
    }
}

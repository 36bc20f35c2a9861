//! The picture: cold start and latency of a change against the size of the cluster, as SVG.

use std::fmt::Write as _;

use crate::report::Measured;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 280.0;
/// The space around a diagram, for its labels.
const MARGIN: f64 = 48.0;
/// The numbers of Services at the left and the right edge.
const SERVICES: (f64, f64) = (500.0, 100_000.0);

/// One line of a diagram.
struct Line {
    name: &'static str,
    colour: &'static str,
    /// Number of Services, and the value.
    points: Vec<(f64, f64)>,
}

/// Draws both diagrams side by side.
pub(crate) fn draw(measured: &Measured) -> String {
    let line = |name, colour, what: &'static str, figures: &[&str]| Line {
        name,
        colour,
        points: measured
            .sizes(what)
            .into_iter()
            .filter_map(|size| {
                let value: Option<f64> = figures.iter().map(|figure| measured.get(what, size, figure)).sum();
                Some((f64::from(size.services), value?))
            })
            .collect(),
    };
    let cold = [
        line("kube-ipvs", "#1565c0", "manifests", &["cold_seconds"]),
        line("of it reading", "#90a4ae", "manifests", &["reading_seconds"]),
        line("the kernel alone", "#2e7d32", "floor", &["cold_seconds"]),
    ];
    let change = [
        line("kube-ipvs, median", "#1565c0", "live", &["change_milliseconds"]),
        line("99th percentile", "#90a4ae", "live", &["change_p99_milliseconds"]),
        line("the kernel alone", "#2e7d32", "floor", &["change_milliseconds"]),
    ];
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        2.0 * WIDTH
    );
    diagram(&mut svg, 0.0, "cold start (s) by number of Services", (0.01, 100.0), &cold);
    diagram(&mut svg, WIDTH, "one change (ms) by number of Services", (0.01, 100.0), &change);
    svg.push_str("</svg>\n");
    svg
}

/// Draws one diagram, with two logarithmic axes.
fn diagram(svg: &mut String, left: f64, title: &str, values: (f64, f64), lines: &[Line]) {
    let place = |value: f64, (from, to): (f64, f64)| (value / from).log10() / (to / from).log10();
    let x = |services: f64| left + MARGIN + place(services, SERVICES) * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN - place(value, values) * (HEIGHT - 2.0 * MARGIN);
    let mut write = |text: String| writeln!(svg, "{text}").expect("writing to a String cannot fail");
    write(format!("<text x=\"{}\" y=\"20\" font-size=\"13\">{title}</text>", left + MARGIN));
    for services in [1_000.0, 10_000.0, 50_000.0] {
        let (x, bottom) = (x(services), HEIGHT - MARGIN);
        write(format!("<path d=\"M{x:.1} {MARGIN}V{bottom}\" stroke=\"#eceff1\"/>"));
        write(format!("<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{services}</text>", bottom + 16.0));
    }
    let mut value = values.0;
    while value <= values.1 * 1.01 {
        let (y, from, to) = (y(value), left + MARGIN, left + WIDTH - MARGIN);
        write(format!("<path d=\"M{from} {y:.1}H{to}\" stroke=\"#eceff1\"/>"));
        write(format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>", from - 6.0, y + 4.0));
        value *= 10.0;
    }
    for (index, line) in (0_u8..).zip(lines) {
        let points: Vec<String> = line
            .points
            .iter()
            .map(|&(services, value)| format!("{:.1},{:.1}", x(services), y(value)))
            .collect();
        write(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            points.join(" "),
            line.colour
        ));
        let at = HEIGHT - 10.0;
        let from = left + MARGIN + 120.0 * f64::from(index);
        write(format!("<text x=\"{from}\" y=\"{at}\" fill=\"{}\">{}</text>", line.colour, line.name));
    }
}

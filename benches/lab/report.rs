//! Turns figures into the rows of the table, with targets and verdicts.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::json;

use crate::figures::Figures;
use crate::input::Size;

/// All results, by kind of measurement and size.
#[derive(Debug, Default)]
pub(crate) struct Measured(BTreeMap<(&'static str, Size), Figures>);

impl Measured {
    pub(crate) fn put(&mut self, what: &'static str, size: Size, figures: Figures) {
        self.0.insert((what, size), figures);
    }

    /// Takes out what was put, to put it again with more.
    pub(crate) fn take(&mut self, what: &'static str, size: Size) -> Option<Figures> {
        self.0.remove(&(what, size))
    }

    pub(crate) fn get(&self, what: &'static str, size: Size, figure: &str) -> Option<f64> {
        self.0.get(&(what, size))?.get(figure).copied()
    }

    /// The sizes of this measurement, smallest first.
    pub(crate) fn sizes(&self, what: &'static str) -> Vec<Size> {
        self.0.keys().filter(|(known, _)| *known == what).map(|(_, size)| *size).collect()
    }

    /// A figure at every size at which it was measured.
    fn each(&self, what: &'static str, figure: &str) -> Vec<(Size, f64)> {
        let sizes = self.sizes(what).into_iter();
        sizes.filter_map(|size| Some((size, self.get(what, size, figure)?))).collect()
    }
}

/// The upper limit of a figure.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// A limit for our figure.
    Figure(f64),
    /// A limit for the ratio of our figure to the floor.
    Ratio(f64),
    /// No limit: another proxy's figure, to compare ours with.
    None,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was measured, with its unit.
    name: String,
    ours: f64,
    /// What it is compared with: in most rows the minimum that the kernel needs.
    floor: Option<f64>,
    ratio: Option<f64>,
    target: String,
    ok: bool,
}

impl Row {
    fn new(name: String, ours: f64, floor: Option<f64>, target: Target) -> Self {
        let ratio = floor.map(|floor| ours / floor);
        let (ok, target) = match target {
            Target::Figure(limit) => (ours <= limit, format!("<= {limit}")),
            Target::None => (true, String::new()),
            Target::Ratio(limit) => (ratio.is_some_and(|ratio| ratio <= limit), format!("ratio <= {limit}")),
        };
        Self { name, ours, floor, ratio, target, ok }
    }
}

/// The table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Rows {
    rows: Vec<Row>,
    /// What is missing, and why.
    missing: Vec<String>,
}

impl Rows {
    pub(crate) fn of(measured: &Measured, missing: Vec<String>) -> Self {
        let mut rows = Vec::new();
        cold_starts(measured, &mut rows);
        changes(measured, &mut rows);
        standing(measured, &mut rows);
        peer(measured, &mut rows);
        Self { rows, missing }
    }

    /// Whether every target is met.
    pub(crate) fn ok(&self) -> bool {
        self.rows.iter().all(|row| row.ok)
    }

    pub(crate) fn json(&self) -> String {
        format!("{:#}\n", json!(self))
    }
}

fn cold_starts(measured: &Measured, rows: &mut Vec<Row>) {
    for (what, input, source) in [
        ("manifests", "reading_seconds", "manifests"),
        ("live", "fetch_seconds", "an API server"),
        ("machinery", "fetch_seconds", "the API machinery"),
    ] {
        let mut own = Vec::new();
        for (size, ours) in measured.each(what, "cold_seconds") {
            let Some(writing) = measured.get("floor", size, "cold_seconds") else { continue };
            let floor = writing + measured.get(what, size, input).unwrap_or_default();
            let name = format!("{size}: cold start from {source} (s)");
            rows.push(Row::new(name, ours, Some(floor), Target::Ratio(1.5)));
            // The program's own part of it: the kernel's part grows with the square of the addresses.
            own.push((size, (ours - floor) * 1e6 / f64::from(size.objects())));
        }
        if let [(small, least), .., (large, most)] = own[..] {
            let name = format!("own part of that, {large} beside {small} (µs/object)");
            rows.push(Row::new(name, most, Some(least), Target::Ratio(1.3)));
        }
    }
    for (size, ours) in measured.each("manifests", "cold_seconds") {
        if size.services != 10_000 {
            continue;
        }
        // The original target: 4 times the floor, with the time for reading the manifests taken off.
        let reading = measured.get("manifests", size, "reading_seconds").unwrap_or_default();
        let floor = measured.get("floor", size, "cold_seconds");
        let name = format!("{size}: cold start without reading (s)");
        rows.push(Row::new(name, ours - reading, floor, Target::Ratio(4.0)));
    }
    for (size, ours) in measured.each("live", "first_milliseconds") {
        let name = format!("{size}: default/kubernetes works after the lists (ms)");
        // Most of this time goes into taking in the complete lists first, so the target depends on the size.
        let target = if size.services > 10_000 { Target::None } else { Target::Figure(200.0) };
        rows.push(Row::new(name, ours, None, target));
    }
}

fn changes(measured: &Measured, rows: &mut Vec<Row>) {
    for (what, figure, how, limit) in [
        ("live", "change_milliseconds", "one change, median", 1.0),
        ("live", "change_p99_milliseconds", "one change, 99th percentile", 5.0),
        ("machinery", "change_milliseconds", "one change through the API machinery, median", 5.0),
        ("manifests", "change_milliseconds", "one change of a manifest, median", 5.0),
    ] {
        let all = measured.each(what, figure);
        for &(size, ours) in &all {
            let floor = measured.get("floor", size, "change_milliseconds");
            rows.push(Row::new(format!("{size}: {how} (ms)"), ours, floor, Target::Figure(limit)));
        }
        if let ([(small, least), .., (large, most)], false) = (&all[..], figure.contains("p99")) {
            let limit = if what == "live" { 1.2 } else { 1.5 };
            let name = format!("{how}, {large} beside {small} (ms)");
            rows.push(Row::new(name, *most, Some(*least), Target::Ratio(limit)));
        }
    }
    for (figure, what, target) in [
        ("service_milliseconds", "a Service with ten endpoints appears (ms)", Target::Figure(2.0)),
        ("large_milliseconds", "one of 1,000 endpoints in a slice changes (ms)", Target::Figure(2.0)),
        ("burst_milliseconds", "1,000 slices change at once (ms)", Target::Ratio(1.5)),
        (
            "crowded_milliseconds",
            "a Service appears while 2,000 others get new endpoints (ms)",
            Target::Figure(10.0),
        ),
    ] {
        for (size, ours) in measured.each("live", figure) {
            let floor = match figure {
                "large_milliseconds" => measured.get("floor", size, "change_milliseconds"),
                _ => measured.get("floor", size, figure),
            };
            rows.push(Row::new(format!("{size}: {what}"), ours, floor, target));
        }
    }
    for (size, ours) in measured.each("live", "burst_milliseconds") {
        let writing = measured.get("floor", size, "burst_milliseconds");
        let receiving = measured.get("live", size, "receiving_milliseconds");
        let floor = writing.zip(receiving).map(|(writing, receiving)| writing + receiving);
        let name = format!("{size}: 1,000 slices change at once, beside receiving and writing (ms)");
        rows.push(Row::new(name, ours, floor, Target::Ratio(1.5)));
    }
    for (figure, what, limit) in [
        ("rolling_processor_percent", "100 changes a second, processor (%)", 5.0),
        ("rolling_latest_milliseconds", "100 changes a second, the latest (ms)", 50.0),
    ] {
        for (size, ours) in measured.each("live", figure) {
            rows.push(Row::new(format!("{size}: {what}"), ours, None, Target::Figure(limit)));
        }
    }
}

fn standing(measured: &Measured, rows: &mut Vec<Row>) {
    for (size, ours) in measured.each("live", "idle_processor_percent") {
        rows.push(Row::new(format!("{size}: idle, processor (%)"), ours, None, Target::Figure(0.1)));
    }
    for (size, steady) in measured.each("live", "steady_mebibytes") {
        let limit = if size.services > 10_000 { 120.0 } else { 60.0 };
        rows.push(Row::new(format!("{size}: memory (MiB)"), steady, None, Target::Figure(limit)));
        if let Some(peak) = measured.get("live", size, "peak_mebibytes") {
            let name = format!("{size}: most memory ever, beside that (MiB)");
            rows.push(Row::new(name, peak, Some(steady), Target::Ratio(1.5)));
        }
    }
    for (size, ours) in measured.each("live", "restart_seconds") {
        let reading = measured.get("floor", size, "dump_seconds");
        let fetching = measured.get("live", size, "fetch_seconds");
        let floor = reading.zip(fetching).map(|(reading, fetching)| reading + fetching);
        rows.push(Row::new(
            format!("{size}: restart with all in place (s)"),
            ours,
            floor,
            Target::Ratio(2.0),
        ));
        let writes = measured.get("live", size, "restart_writes").unwrap_or(f64::NAN);
        rows.push(Row::new(format!("{size}: writes of a restart"), writes, None, Target::Figure(0.0)));
    }
    for (size, after) in measured.each("churn", "after_mebibytes") {
        let before = measured.get("churn", size, "before_mebibytes");
        let name = format!("{size}: memory after 100,000 Services came and went (MiB)");
        rows.push(Row::new(name, after, before, Target::Ratio(1.1)));
    }
}

/// The proxy that `PEER` names, compared with ours.
fn peer(measured: &Measured, rows: &mut Vec<Row>) {
    for (figure, what) in [
        ("cold_seconds", "cold start from the API machinery (s)"),
        ("change_milliseconds", "one change through the API machinery, median (ms)"),
        ("steady_mebibytes", "memory (MiB)"),
    ] {
        for (size, theirs) in measured.each("peer", figure) {
            let ours = measured.get("machinery", size, figure);
            rows.push(Row::new(format!("{size}: the peer, beside ours: {what}"), theirs, ours, Target::None));
        }
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.3}"));
        writeln!(f, "{:<66} {:>9} {:>9} {:>7}  target", "", "ours", "floor", "ratio")?;
        for Row { name, ours, floor, ratio, target, ok } in &self.rows {
            let verdict = if *ok { "✓" } else { "✗" };
            let [ours, floor, ratio] = [number(Some(*ours)), number(*floor), number(*ratio)];
            writeln!(f, "{name:<66} {ours:>9} {floor:>9} {ratio:>7}  {verdict} {target}")?;
        }
        self.missing.iter().try_for_each(|missing| writeln!(f, "not measured: {missing}"))
    }
}

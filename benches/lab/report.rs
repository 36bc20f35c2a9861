//! Figures → table and JSON.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::input::Size;

/// The cold start of the largest cluster, without reading, may take so many times its floor. In smaller ones what a
/// start costs at any size (loading the program, looking at the kernel) outweighs the writing.
const COLD_RATIO: f64 = 4.0;
/// One change may take so many milliseconds.
const CHANGE_MILLISECONDS: f64 = 5.0;
/// One change in the largest cluster may take so many times that in the smallest.
const CHANGE_RATIO: f64 = 1.5;

/// What [`crate::floor`] measures.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Floor {
    pub(crate) cold_seconds: f64,
    pub(crate) change_milliseconds: f64,
}

/// What [`crate::ours`] measures.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ours {
    pub(crate) cold_seconds: f64,
    pub(crate) reading_seconds: f64,
    pub(crate) change_milliseconds: f64,
}

macro_rules! as_json {
    ($($figures:ty),*) => { $(
        impl fmt::Display for $figures {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&json!(self).to_string())
            }
        }
    )* };
}
as_json!(Floor, Ours);

/// The figures of one size.
pub(crate) struct Measured {
    size: Size,
    floor: Floor,
    ours: Ours,
}

impl Measured {
    /// The median of several rounds, figure by figure.
    pub(crate) fn median(size: Size, rounds: &[(Floor, Ours)]) -> Self {
        let median = |figure: fn(&(Floor, Ours)) -> f64| {
            let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures[figures.len() / 2]
        };
        Self {
            size,
            floor: Floor {
                cold_seconds: median(|round| round.0.cold_seconds),
                change_milliseconds: median(|round| round.0.change_milliseconds),
            },
            ours: Ours {
                cold_seconds: median(|round| round.1.cold_seconds),
                reading_seconds: median(|round| round.1.reading_seconds),
                change_milliseconds: median(|round| round.1.change_milliseconds),
            },
        }
    }
}

/// One line of the table. Where there is no target, there is nothing to miss.
#[derive(Clone, Debug, Serialize)]
struct Row {
    name: String,
    ours: f64,
    floor: Option<f64>,
    ratio: Option<f64>,
    target: Option<String>,
    ok: bool,
}

/// The table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Rows {
    rows: Vec<Row>,
}

impl Rows {
    pub(crate) fn of(measured: &[Measured]) -> Self {
        let mut rows = Vec::new();
        for (index, Measured { size, floor, ours }) in measured.iter().enumerate() {
            let largest = index + 1 == measured.len();
            let ratio = (ours.cold_seconds - ours.reading_seconds) / floor.cold_seconds;
            rows.push(Row {
                name: format!("{size}: cold start (s)"),
                ours: ours.cold_seconds,
                floor: Some(floor.cold_seconds),
                ratio: Some(ours.cold_seconds / floor.cold_seconds),
                target: None,
                ok: true,
            });
            rows.push(Row {
                name: format!("{size}: of it reading the manifests (s)"),
                ours: ours.reading_seconds,
                floor: None,
                ratio: None,
                target: None,
                ok: true,
            });
            rows.push(Row {
                name: format!("{size}: cold start without reading (s)"),
                ours: ours.cold_seconds - ours.reading_seconds,
                floor: Some(floor.cold_seconds),
                ratio: Some(ratio),
                target: largest.then(|| format!("ratio <= {COLD_RATIO}")),
                ok: !largest || ratio <= COLD_RATIO,
            });
            rows.push(Row {
                name: format!("{size}: one change (ms)"),
                ours: ours.change_milliseconds,
                floor: Some(floor.change_milliseconds),
                ratio: Some(ours.change_milliseconds / floor.change_milliseconds),
                target: Some(format!("ours < {CHANGE_MILLISECONDS}")),
                ok: ours.change_milliseconds < CHANGE_MILLISECONDS,
            });
        }
        if let [smallest, .., largest] = measured {
            let (small, large) = (smallest.ours.change_milliseconds, largest.ours.change_milliseconds);
            rows.push(Row {
                name: format!("one change (ms), {} beside {}", largest.size, smallest.size),
                ours: large,
                floor: Some(small),
                ratio: Some(large / small),
                target: Some(format!("ratio <= {CHANGE_RATIO}")),
                ok: large <= CHANGE_RATIO * small,
            });
        }
        Self { rows }
    }

    /// Whether every target is met.
    pub(crate) fn ok(&self) -> bool {
        self.rows.iter().all(|row| row.ok)
    }

    pub(crate) fn json(&self) -> String {
        format!("{:#}\n", json!(self))
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.3}"));
        writeln!(f, "{:<46} {:>9} {:>9} {:>7}  target", "", "ours", "floor", "ratio")?;
        for Row { name, ours, floor, ratio, target, ok } in &self.rows {
            let target = target
                .as_ref()
                .map_or_else(String::new, |target| format!("{} {target}", if *ok { "✓" } else { "✗" }));
            writeln!(
                f,
                "{name:<46} {:>9} {:>9} {:>7}  {target}",
                number(Some(*ours)),
                number(*floor),
                number(*ratio)
            )?;
        }
        Ok(())
    }
}

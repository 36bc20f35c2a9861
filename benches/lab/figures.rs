//! The results of one boot of the lab: named numbers, passed on as one line of JSON.

use std::collections::BTreeMap;
use std::time::Duration;

/// Figures by name; each name ends with the unit.
pub(crate) type Figures = BTreeMap<String, f64>;

/// Of several rounds, the smallest value of each figure: whatever else the machine does only adds to it. Of counts,
/// which should be zero, the largest.
pub(crate) fn least(rounds: Vec<Figures>) -> Figures {
    let mut least = Figures::new();
    for (name, figure) in rounds.into_iter().flatten() {
        let is_count = name.ends_with("_writes");
        let known = least.entry(name).or_insert(figure);
        *known = if is_count { known.max(figure) } else { known.min(figure) };
    }
    least
}

/// The median, in milliseconds.
pub(crate) fn median_milliseconds(times: Vec<Duration>) -> f64 {
    percentile_milliseconds(times, 50)
}

/// The time that this percentage of all times does not exceed, in milliseconds.
pub(crate) fn percentile_milliseconds(mut times: Vec<Duration>, percent: usize) -> f64 {
    times.sort_unstable();
    let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

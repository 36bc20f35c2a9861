//! What is measured in one boot of the lab: numbers with names, passed on as one line of JSON.

use std::collections::BTreeMap;
use std::time::Duration;

/// Figures by name; the name ends with the unit.
pub(crate) type Figures = BTreeMap<String, f64>;

/// Of several rounds, the least of each figure: whatever else the machine does only adds to it. Of what is counted, and should be
/// none, the most.
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

/// The time that so many of a hundred do not exceed, in milliseconds.
pub(crate) fn percentile_milliseconds(mut times: Vec<Duration>, percent: usize) -> f64 {
    times.sort_unstable();
    let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

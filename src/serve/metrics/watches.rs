//! What the watches of the API server count, read at each scrape.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use super::make::VALID;

/// The numbers of one watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchNumbers {
    /// Objects received.
    pub events: u64,
    /// Of these, those that are none of this proxy's business.
    pub ignored: u64,
    /// Of these, those that are invalid, as a whole or in part.
    pub refused: u64,
    /// Objects that are invalid at the moment, as a whole or in part.
    pub refused_now: u64,
    /// Complete sets after the first one.
    pub relists: u64,
    /// Requests and streams that failed.
    pub errors: u64,
    /// Whether nothing is wrong at the moment.
    pub healthy: bool,
}

/// Reads the numbers of one watch.
pub type Read = Box<dyn Fn() -> WatchNumbers + Send + Sync>;

/// Reads the numbers of all watches.
pub struct Watches {
    readers: Vec<(String, Read)>,
    /// Only for their descriptions: the values are made anew at each scrape, since two may run at once.
    counters: Vec<IntCounterVec>,
    gauges: Vec<IntGaugeVec>,
}

type Number = fn(&WatchNumbers) -> u64;

const COUNTERS: [(&str, &str, Number); 5] = [
    (
        "kube_ipvs_watch_events_total",
        "Objects received from the API server, in lists and as changes",
        |numbers| numbers.events,
    ),
    ("kube_ipvs_watch_ignored_total", "Objects received that this proxy does not serve", |numbers| {
        numbers.ignored
    }),
    ("kube_ipvs_watch_refused_total", "Objects received that are invalid as a whole or in part", |numbers| {
        numbers.refused
    }),
    ("kube_ipvs_watch_relists_total", "Complete sets of objects received after the first one", |numbers| {
        numbers.relists
    }),
    ("kube_ipvs_watch_errors_total", "Requests to the API server, and watches, that failed", |numbers| {
        numbers.errors
    }),
];

const GAUGES: [(&str, &str, Number); 2] = [
    ("kube_ipvs_watch_healthy", "Whether the last request for these objects succeeded: 1 or 0", |numbers| {
        numbers.healthy.into()
    }),
    (
        "kube_ipvs_watch_refused_objects",
        "Objects that are invalid at the moment, as a whole or in part",
        |numbers| numbers.refused_now,
    ),
];

impl Watches {
    /// The collector of these watches: for each, what is watched (the label `resource`), and how to read its numbers.
    pub fn new(readers: Vec<(String, Read)>) -> Self {
        Self { readers, counters: counters(), gauges: gauges() }
    }
}

fn counters() -> Vec<IntCounterVec> {
    let counter = |&(name, help, _): &(&str, &str, Number)| {
        IntCounterVec::new(Opts::new(name, help), &["resource"]).expect(VALID)
    };
    COUNTERS.iter().map(counter).collect()
}

fn gauges() -> Vec<IntGaugeVec> {
    let gauge = |&(name, help, _): &(&str, &str, Number)| {
        IntGaugeVec::new(Opts::new(name, help), &["resource"]).expect(VALID)
    };
    GAUGES.iter().map(gauge).collect()
}

impl Collector for Watches {
    fn desc(&self) -> Vec<&Desc> {
        let counters = self.counters.iter().flat_map(Collector::desc);
        counters.chain(self.gauges.iter().flat_map(Collector::desc)).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (counters, gauges) = (counters(), gauges());
        for (resource, read) in &self.readers {
            let numbers = read();
            for ((_, _, number), counter) in COUNTERS.iter().zip(&counters) {
                counter.with_label_values(&[resource]).inc_by(number(&numbers));
            }
            for ((_, _, number), gauge) in GAUGES.iter().zip(&gauges) {
                gauge.with_label_values(&[resource]).set(super::gauge(number(&numbers)));
            }
        }
        counters
            .iter()
            .flat_map(Collector::collect)
            .chain(gauges.iter().flat_map(Collector::collect))
            .collect()
    }
}

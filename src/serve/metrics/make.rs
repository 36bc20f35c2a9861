//! Makes metrics and registers them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::cluster::types::Family;

/// A metric for each IP family: the label `ip_family`. Both exist from the start, so that zero can be told from
/// unknown.
#[derive(Clone)]
pub struct PerFamily<T> {
    v4: T,
    v6: T,
}

impl<T> PerFamily<T> {
    fn new(mut make: impl FnMut(Family) -> T) -> Self {
        Self { v4: make(Family::V4), v6: make(Family::V6) }
    }

    /// The one of this family.
    pub fn of(&self, family: Family) -> &T {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// Gauges of one name for each IP family; those that mean nothing here can be left out.
pub struct GaugePerFamily {
    vec: GaugeVec,
    gauges: PerFamily<Gauge>,
}

impl GaugePerFamily {
    /// The one of this family.
    pub fn of(&self, family: Family) -> &Gauge {
        self.gauges.of(family)
    }

    /// Leaves the gauge of this family out of the page from now on.
    pub fn leave_out(&self, family: Family) {
        // An error only says that it is not there.
        let _ = self.vec.remove_label_values(&[family.to_string()]);
    }
}

pub(super) const VALID: &str = "the names of metrics and labels are valid";

/// Makes metrics and registers them.
#[derive(Default)]
pub(super) struct Maker {
    pub(super) registry: Registry,
    /// How many metrics have each stability level in their help text, as Kubernetes components put it.
    levels: RefCell<BTreeMap<String, u64>>,
}

impl Maker {
    /// How many metrics there are of each stability level by now.
    pub(super) fn levels(&self) -> BTreeMap<String, u64> {
        self.levels.borrow().clone()
    }

    pub(super) fn register(&self, metric: impl Collector + 'static) {
        for description in metric.desc() {
            if let Some((level, _)) = description.help.strip_prefix('[').and_then(|help| help.split_once(']'))
            {
                *self.levels.borrow_mut().entry(level.to_owned()).or_default() += 1;
            }
        }
        self.registry.register(Box::new(metric)).expect("no two metrics have one name");
    }

    fn registered<M: Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect(VALID);
        self.register(metric.clone());
        metric
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.registered(IntGauge::new(name, help))
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.registered(IntCounter::new(name, help))
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        self.registered(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.registered(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.registered(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
        labels: &[&str],
    ) -> HistogramVec {
        self.registered(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels))
    }

    pub(super) fn gauge_per_family(&self, name: &str, help: &str) -> GaugePerFamily {
        let vec = self.registered(GaugeVec::new(Opts::new(name, help), &[FAMILY]));
        let gauges = PerFamily::new(|family| vec.with_label_values(&[family.to_string()]));
        GaugePerFamily { vec, gauges }
    }

    pub(super) fn counter_per_family(&self, name: &str, help: &str) -> PerFamily<IntCounter> {
        let counters = self.counters(name, help, &[FAMILY]);
        PerFamily::new(|family| counters.with_label_values(&[family.to_string()]))
    }

    pub(super) fn histogram_per_family(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
    ) -> PerFamily<Histogram> {
        let histograms = self.histograms(name, help, buckets, &[FAMILY]);
        PerFamily::new(|family| histograms.with_label_values(&[family.to_string()]))
    }
}

const FAMILY: &str = "ip_family";

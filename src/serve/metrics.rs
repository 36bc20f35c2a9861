//! The metrics: kube-proxy's, under its names, and our own.
//!
//! A metric is added in its group (a field, its construction). The tests then demand that it is on their golden page
//! and in the table in `deploy/monitoring/metrics.md`.

mod build;
pub mod client;
pub mod kube_proxy;
mod make;
pub mod own;
mod process;
pub mod watches;

use prometheus::core::Collector;
use prometheus::{IntGaugeVec, Registry, TextEncoder};

use self::client::Client;
use self::kube_proxy::KubeProxy;
use self::make::{Maker, VALID};
use self::own::Own;
use self::process::ProcessCollector;

/// A count as the value of a gauge.
pub fn gauge(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// All metrics of the program. Shared by `Arc`; every operation is a few atomic instructions, except those that look
/// up a label.
pub struct Metrics {
    registry: Registry,
    /// kube-proxy's.
    pub kube_proxy: KubeProxy,
    /// Our own.
    pub own: Own,
    /// Those of the API server's client.
    pub client: Client,
    features: IntGaugeVec,
}

impl Metrics {
    /// All of them, at zero. Writes will be counted by these kinds and verdicts.
    pub fn new(write_kinds: &[&str], verdicts: &[&str]) -> Self {
        let make = Maker::default();
        let own = Own::new(&make, write_kinds, verdicts);
        let (kube_proxy, client) = (KubeProxy::new(&make), Client::new(&make));
        build::describe(&make);
        let features = build::features(&make);
        make.register(ProcessCollector::new().expect(VALID));
        build::count(&make);
        Self { registry: make.registry, kube_proxy, own, client, features }
    }

    /// Sets whether a generally available feature is on, by the name of its gate.
    pub fn tell_feature(&self, gate: &str, is_on: bool) {
        self.features.with_label_values(&[gate, ""]).set(is_on.into());
    }

    /// Adds metrics that are counted elsewhere and read at each scrape.
    ///
    /// # Panics
    /// If there are metrics of these names already.
    pub fn add(&self, collector: impl Collector + 'static) {
        self.registry.register(Box::new(collector)).expect("no two metrics have one name");
    }

    /// All metrics in Prometheus' text format 0.0.4.
    pub fn text(&self) -> String {
        text(&self.registry)
    }
}

/// What is registered in Prometheus' text format 0.0.4.
pub(super) fn text(registry: &Registry) -> String {
    let gathered = registry.gather();
    TextEncoder::new().encode_to_string(&gathered).expect("what is gathered has names and numbers")
}

#[cfg(test)]
mod tests;

//! `/metrics/slis`: the results of health checks, as every Kubernetes component has them. The one check here is
//! kube-proxy's: that the program answers.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::serve::metrics;

/// The results.
pub(super) struct Slis {
    registry: Registry,
    last: IntGaugeVec,
    all: IntCounterVec,
}

const VALID: &str = "the names of metrics and labels are valid, and differ";

impl Slis {
    pub(super) fn new() -> Self {
        let last = Opts::new(
            "kubernetes_healthcheck",
            "[STABLE] This metric records the result of a single healthcheck.",
        );
        let all = Opts::new(
            "kubernetes_healthchecks_total",
            "[STABLE] This metric records the results of all healthcheck.",
        );
        let slis = Self {
            registry: Registry::new(),
            last: IntGaugeVec::new(last, &["name", "type"]).expect(VALID),
            all: IntCounterVec::new(all, &["name", "status", "type"]).expect(VALID),
        };
        slis.registry.register(Box::new(slis.last.clone())).expect(VALID);
        slis.registry.register(Box::new(slis.all.clone())).expect(VALID);
        slis
    }

    /// A request came and was answered.
    pub(super) fn pinged(&self) {
        self.last.with_label_values(&["ping", "healthz"]).set(1);
        self.all.with_label_values(&["ping", "success", "healthz"]).inc();
    }

    /// Forgets all results.
    pub(super) fn reset(&self) {
        self.last.reset();
        self.all.reset();
    }

    /// In Prometheus' text format 0.0.4.
    pub(super) fn text(&self) -> String {
        metrics::text(&self.registry)
    }
}

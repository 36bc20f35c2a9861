//! The metrics: kube-proxy's, under its names (contract 9), and our own (`kube_ipvs_*`).
//!
//! A metric is added in three places that stand together: a field, its construction, and the golden text of the
//! tests. Families are labels with two values, so both exist from the start.

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::process::ProcessCollector;
use crate::cluster::types::Family;

/// All metrics of the program. Shared by `Arc`; every operation is a few atomic instructions, except those that look
/// up a label.
pub struct Metrics {
    registry: Registry,
    /// From taking the changes to the last verdict of the kernel.
    pub sync_duration_seconds: PerFamily<Histogram>,
    /// When something was last to be written, in seconds since 1970.
    pub sync_last_queued_timestamp_seconds: PerFamily<Gauge>,
    /// When all was last written, in seconds since 1970.
    pub sync_last_timestamp_seconds: PerFamily<Gauge>,
    /// From the change of a pod or Service, as the control plane dates it, to the kernel.
    pub network_programming_duration_seconds: PerFamily<Histogram>,
    /// Changes of EndpointSlices that are not written yet.
    pub endpoint_changes_pending: IntGauge,
    /// Changes of EndpointSlices.
    pub endpoint_changes_total: IntCounter,
    /// Services with changes that are not written yet.
    pub service_changes_pending: IntGauge,
    /// Changes of Services.
    pub service_changes_total: IntCounter,
    /// Answers of /healthz, by code.
    pub(super) healthz_total: IntCounterVec,
    /// Answers of /livez, by code.
    pub(super) livez_total: IntCounterVec,
    writes_total: IntCounterVec,
    drift_total: IntCounterVec,
    objects: IntGaugeVec,
    /// Virtual servers of others, which are left alone.
    pub foreign_virtual_servers: IntGauge,
    /// Real servers of weight 0 whose connections are waited for.
    pub draining_real_servers: IntGauge,
    /// Objects that the kernel refuses at the moment.
    pub refused_objects: IntGauge,
    /// How long the kernel took for a plan.
    pub apply_duration_seconds: Histogram,
}

/// One thing for each IP family.
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

/// What became of a write: the label `verdict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel did it.
    Done,
    /// The kernel said no.
    Refused,
    /// The verdict was lost.
    Unknown,
    /// It was not sent, because another write before it failed.
    Skipped,
}

impl Verdict {
    const ALL: [Self; 4] = [Self::Done, Self::Refused, Self::Unknown, Self::Skipped];

    fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Skipped => "skipped",
        }
    }
}

/// What there can be many of: the label `kind` of `kube_ipvs_objects`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// Services of the cluster that this program serves.
    Service,
    /// EndpointSlices of the cluster.
    EndpointSlice,
    /// Virtual servers that are ours.
    VirtualServer,
    /// Real servers in virtual servers that are ours.
    RealServer,
    /// Addresses on the device.
    Address,
    /// Elements of the sets in our nftables tables.
    Element,
}

impl ObjectKind {
    const ALL: [Self; 6] = [
        Self::Service,
        Self::EndpointSlice,
        Self::VirtualServer,
        Self::RealServer,
        Self::Address,
        Self::Element,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::EndpointSlice => "endpoint_slice",
            Self::VirtualServer => "virtual_server",
            Self::RealServer => "real_server",
            Self::Address => "address",
            Self::Element => "element",
        }
    }
}

/// The kinds of writes, as plans name them. They exist from the start, so that zero can be told from unknown.
const WRITE_KINDS: [&str; 16] = [
    "set_sysctl",
    "add_device",
    "set_timeouts",
    "install_rules",
    "delete_element",
    "add_element",
    "add_virtual_server",
    "edit_virtual_server",
    "add_real_server",
    "edit_real_server",
    "delete_real_server",
    "add_address",
    "edit_address",
    "add_route",
    "delete_address",
    "delete_virtual_server",
];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All of them, at zero.
    pub fn new() -> Self {
        let make = Maker { registry: Registry::new() };
        let per_family_gauge = |name, help| {
            let gauges = make.gauges(name, help);
            PerFamily::new(|family| gauges.with_label_values(&[family.to_string()]))
        };
        let per_family_histogram = |name, help, buckets| {
            let histograms = make.histograms(name, help, buckets);
            PerFamily::new(|family| histograms.with_label_values(&[family.to_string()]))
        };
        let metrics = Self {
            sync_duration_seconds: per_family_histogram(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds",
                sync_buckets(),
            ),
            sync_last_queued_timestamp_seconds: per_family_gauge(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "The last time a sync of proxy rules was queued",
            ),
            sync_last_timestamp_seconds: per_family_gauge(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "The last time proxy rules were successfully synced",
            ),
            network_programming_duration_seconds: per_family_histogram(
                "kubeproxy_network_programming_duration_seconds",
                "In Cluster Network Programming Latency in seconds",
                programming_buckets(),
            ),
            endpoint_changes_pending: make.int_gauge(
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "Pending proxy rules Endpoint changes",
            ),
            endpoint_changes_total: make.int_counter(
                "kubeproxy_sync_proxy_rules_endpoint_changes_total",
                "Cumulative proxy rules Endpoint changes",
            ),
            service_changes_pending: make.int_gauge(
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                "Pending proxy rules Service changes",
            ),
            service_changes_total: make.int_counter(
                "kubeproxy_sync_proxy_rules_service_changes_total",
                "Cumulative proxy rules Service changes",
            ),
            healthz_total: make.int_counters(
                "kubeproxy_proxy_healthz_total",
                "Cumulative proxy healthz HTTP status",
                &["code"],
            ),
            livez_total: make.int_counters(
                "kubeproxy_proxy_livez_total",
                "Cumulative proxy livez HTTP status",
                &["code"],
            ),
            writes_total: make.int_counters(
                "kube_ipvs_writes_total",
                "Writes to the kernel, by what became of them",
                &["kind", "verdict"],
            ),
            drift_total: make.int_counters(
                "kube_ipvs_drift_total",
                "Differences between the kernel and what was last written to it, found by reading it back",
                &["kind"],
            ),
            objects: make.int_gauges("kube_ipvs_objects", "How many there are", &["kind"]),
            foreign_virtual_servers: make.int_gauge(
                "kube_ipvs_foreign_virtual_servers",
                "Virtual servers of others, which are left alone",
            ),
            draining_real_servers: make.int_gauge(
                "kube_ipvs_draining_real_servers",
                "Real servers of weight 0 whose connections are waited for",
            ),
            refused_objects: make
                .int_gauge("kube_ipvs_refused_objects", "Objects that the kernel refuses at the moment"),
            apply_duration_seconds: make.histogram(
                "kube_ipvs_apply_duration_seconds",
                "How long the kernel took to carry out a plan",
                apply_buckets(),
            ),
            registry: make.registry,
        };
        metrics.start_at_zero();
        metrics.describe_process_and_build();
        metrics
    }

    /// Counts a write; `kind` is what its step calls itself.
    pub fn count_write(&self, kind: &str, verdict: Verdict) {
        self.writes_total.with_label_values(&[kind, verdict.label()]).inc();
    }

    /// Counts something that was not as it was last written; `kind` is the one of the write that repairs it.
    pub fn count_drift(&self, kind: &str) {
        self.drift_total.with_label_values(&[kind]).inc();
    }

    /// Says how many there are.
    pub fn set_objects(&self, kind: ObjectKind, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.objects.with_label_values(&[kind.label()]).set(count);
    }

    /// All metrics in Prometheus' text format 0.0.4.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        if let Err(error) = encoded {
            tracing::error!(err = &error as &dyn std::error::Error, "Failed to encode the metrics");
        }
        String::from_utf8(text).expect("names, labels and numbers are UTF-8")
    }

    /// Series whose labels are known exist from the start.
    fn start_at_zero(&self) {
        for verdict in Verdict::ALL {
            for kind in WRITE_KINDS {
                self.writes_total.with_label_values(&[kind, verdict.label()]);
            }
        }
        for kind in WRITE_KINDS {
            self.drift_total.with_label_values(&[kind]);
        }
        for kind in ObjectKind::ALL {
            self.objects.with_label_values(&[kind.label()]);
        }
        for counters in [&self.healthz_total, &self.livez_total] {
            for code in ["200", "503"] {
                counters.with_label_values(&[code]);
            }
        }
    }

    fn describe_process_and_build(&self) {
        let make = Maker { registry: self.registry.clone() };
        let build = make.int_gauges(
            "kubernetes_build_info",
            "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, \
             build date, Go version, and compiler from which Kubernetes was built, and platform on which it is \
             running.",
            &[
                "major",
                "minor",
                "git_version",
                "git_commit",
                "git_tree_state",
                "build_date",
                "go_version",
                "compiler",
                "platform",
            ],
        );
        let platform = format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH);
        let version = concat!("v", env!("CARGO_PKG_VERSION"));
        let (major, minor) = (env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"));
        build.with_label_values(&[major, minor, version, "", "", "", "", "rustc", &platform]).set(1);
        make.register(ProcessCollector::new().expect(VALID));
    }
}

const VALID: &str = "the names of metrics and labels are valid";

/// 1 ms to 16 s, doubling.
fn sync_buckets() -> Vec<f64> {
    prometheus::exponential_buckets(0.001, 2.0, 15).expect("positive and growing")
}

/// 100 µs to 1.6 s, doubling: a change of one Service takes less than the least of the sync buckets.
fn apply_buckets() -> Vec<f64> {
    prometheus::exponential_buckets(0.0001, 2.0, 15).expect("positive and growing")
}

/// 0.25, 0.5, each second to 59, every 5 to 115, every 30 to 300.
fn programming_buckets() -> Vec<f64> {
    let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30)).map(f64::from);
    [0.25, 0.5].into_iter().chain(seconds).collect()
}

/// Makes metrics and registers them.
struct Maker {
    registry: Registry,
}

impl Maker {
    fn register(&self, metric: impl Collector + 'static) {
        self.registry.register(Box::new(metric)).expect("no two metrics have one name");
    }

    fn registered<M: Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect(VALID);
        self.register(metric.clone());
        metric
    }

    fn int_gauge(&self, name: &str, help: &str) -> IntGauge {
        self.registered(IntGauge::new(name, help))
    }

    fn int_counter(&self, name: &str, help: &str) -> IntCounter {
        self.registered(IntCounter::new(name, help))
    }

    fn int_gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.registered(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn int_counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.registered(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        self.registered(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
    }

    /// By IP family.
    fn gauges(&self, name: &str, help: &str) -> GaugeVec {
        self.registered(GaugeVec::new(Opts::new(name, help), &["ip_family"]))
    }

    /// By IP family.
    fn histograms(&self, name: &str, help: &str, buckets: Vec<f64>) -> HistogramVec {
        self.registered(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), &["ip_family"]))
    }
}

#[cfg(test)]
mod tests;

//! kube-proxy's metrics, as its ipvs mode has them (contract 9). Dashboards and alerts go by names, labels and buckets,
//! and people by the help texts, stability level included.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::gauge;
use super::make::{GaugePerFamily, Maker, PerFamily};
use crate::cluster::types::Family;

/// kube-proxy's metrics.
pub struct KubeProxy {
    /// From taking the changes to the last verdict of the kernel, whatever it is.
    pub sync_duration_seconds: PerFamily<Histogram>,
    /// When something was last to be written, in seconds since 1970.
    pub sync_last_queued_timestamp_seconds: GaugePerFamily,
    /// When everything was last written, or last found intact with nothing waiting, in seconds since 1970.
    pub sync_last_timestamp_seconds: GaugePerFamily,
    /// From the change of a pod or Service, as the control plane dates it, to the kernel.
    pub network_programming_duration_seconds: PerFamily<Histogram>,
    /// Changes of EndpointSlices that are not written yet.
    pub endpoint_changes_pending: IntGauge,
    /// Changes of EndpointSlices.
    pub endpoint_changes_total: IntCounter,
    /// Services with changes that are not written yet.
    pub service_changes_pending: IntGauge,
    /// Changes of Services, once for each family that is served.
    pub service_changes_total: IntCounter,
    no_local_endpoints: IntGaugeVec,
    /// Writes to the packet filter that the kernel refused. There is no `iptables-restore` here, but an alert on this
    /// means the same.
    pub filter_failures_total: PerFamily<IntCounter>,
    /// How long a cleanup of UDP entries took.
    pub conntrack_sync_duration_seconds: PerFamily<Histogram>,
    /// Entries of connection tracking that were deleted.
    pub conntrack_deleted_entries_total: PerFamily<IntCounter>,
    /// Answers of /healthz, by code.
    pub(in crate::serve) healthz_total: IntCounterVec,
    /// Answers of /livez, by code.
    pub(in crate::serve) livez_total: IntCounterVec,
}

/// Which of a Service's traffic policies: the label `traffic_policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TrafficPolicy {
    /// `internalTrafficPolicy`.
    Internal,
    /// `externalTrafficPolicy`.
    External,
}

impl TrafficPolicy {
    /// Both.
    const ALL: [Self; 2] = [Self::Internal, Self::External];

    fn label(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
        }
    }
}

impl KubeProxy {
    pub(super) fn new(make: &Maker) -> Self {
        let metrics = Self {
            sync_duration_seconds: make.histogram_per_family(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "[ALPHA] SyncProxyRules latency in seconds",
                sync_buckets(),
            ),
            sync_last_queued_timestamp_seconds: make.gauge_per_family(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "[ALPHA] The last time a sync of proxy rules was queued",
            ),
            sync_last_timestamp_seconds: make.gauge_per_family(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "[ALPHA] The last time proxy rules were successfully synced",
            ),
            network_programming_duration_seconds: make.histogram_per_family(
                "kubeproxy_network_programming_duration_seconds",
                "[ALPHA] In Cluster Network Programming Latency in seconds",
                programming_buckets(),
            ),
            endpoint_changes_pending: make.gauge(
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "[ALPHA] Pending proxy rules Endpoint changes",
            ),
            endpoint_changes_total: make.counter(
                "kubeproxy_sync_proxy_rules_endpoint_changes_total",
                "[ALPHA] Cumulative proxy rules Endpoint changes",
            ),
            service_changes_pending: make.gauge(
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                "[ALPHA] Pending proxy rules Service changes",
            ),
            service_changes_total: make.counter(
                "kubeproxy_sync_proxy_rules_service_changes_total",
                "[ALPHA] Cumulative proxy rules Service changes",
            ),
            no_local_endpoints: make.gauges(
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                "[ALPHA] Number of services with a Local traffic policy and no endpoints",
                &["ip_family", "traffic_policy"],
            ),
            filter_failures_total: make.counter_per_family(
                "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
                "[ALPHA] Cumulative proxy iptables restore failures",
            ),
            conntrack_sync_duration_seconds: make.histogram_per_family(
                "kubeproxy_conntrack_reconciler_sync_duration_seconds",
                "[ALPHA] ReconcileConntrackFlowsLatency latency in seconds",
                sync_buckets(),
            ),
            conntrack_deleted_entries_total: make.counter_per_family(
                "kubeproxy_conntrack_reconciler_deleted_entries_total",
                "[ALPHA] Cumulative conntrack flows deleted by conntrack reconciler",
            ),
            healthz_total: make.counters(
                "kubeproxy_proxy_healthz_total",
                "[ALPHA] Cumulative proxy healthz HTTP status",
                &["code"],
            ),
            livez_total: make.counters(
                "kubeproxy_proxy_livez_total",
                "[ALPHA] Cumulative proxy livez HTTP status",
                &["code"],
            ),
        };
        for counters in [&metrics.healthz_total, &metrics.livez_total] {
            for code in ["200", "503"] {
                counters.with_label_values(&[code]);
            }
        }
        for family in Family::ALL {
            for policy in TrafficPolicy::ALL {
                metrics.set_no_local_endpoints(family, policy, 0);
            }
        }
        metrics
    }

    /// Sets how many Services have a `Local` policy and endpoints, but none on this node.
    pub fn set_no_local_endpoints(&self, family: Family, policy: TrafficPolicy, count: usize) {
        let labels = [&*family.to_string(), policy.label()];
        self.no_local_endpoints.with_label_values(&labels).set(gauge(count));
    }
}

/// 1 ms to 16 s, doubling.
pub(super) fn sync_buckets() -> Vec<f64> {
    prometheus::exponential_buckets(0.001, 2.0, 15).expect("positive and growing")
}

/// 0, 0.25, 0.5, each second to 59, every 5 to 115, every 30 to 300.
pub(super) fn programming_buckets() -> Vec<f64> {
    let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30)).map(f64::from);
    [0.0, 0.25, 0.5].into_iter().chain(seconds).collect()
}

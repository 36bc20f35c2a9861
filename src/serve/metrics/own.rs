//! Our own metrics, `kube_ipvs_*`: what this program does that kube-proxy has no numbers for. All label sets are
//! bounded, and exist from the start, so that zero can be told from unknown.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::gauge;
use super::make::Maker;

/// Our own metrics.
pub struct Own {
    writes_total: IntCounterVec,
    drift_total: IntCounterVec,
    objects: IntGaugeVec,
    /// Virtual servers of others, which are left alone.
    pub foreign_virtual_servers: IntGauge,
    /// Real servers of weight 0 that wait for their connections to end.
    pub draining_real_servers: IntGauge,
    drains_ended_total: IntCounterVec,
    address_conflicts: IntGaugeVec,
    /// Objects that the kernel refuses at the moment.
    pub refused_objects: IntGauge,
    /// What kube-proxy left that could not be removed or replaced at the last attempt; 1 more if it came back.
    pub takeover_failures: IntGauge,
    /// When the audit last finished reading everything back, in seconds since 1970; 0: not yet.
    pub audit_round_timestamp_seconds: IntGauge,
    /// How often the kernel could not be read, or was found not to answer.
    pub read_failures_total: IntCounter,
    /// From looking at a change to handing a plan to the kernel, without the time before, while the loop waits for the
    /// kernel.
    pub queue_duration_seconds: Histogram,
    /// How long the kernel took for a plan.
    pub apply_duration_seconds: Histogram,
}

/// The kinds of objects that are counted: the label `kind` of `kube_ipvs_objects`.
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

/// What an audit compares with what was last written: the label `kind` of `kube_ipvs_drift_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DriftKind {
    /// The device that carries the service addresses.
    Device,
    /// A kernel parameter.
    Sysctl,
    /// The timeouts of IPVS.
    Timeouts,
    /// The fixed rules of our nftables tables.
    Rules,
    /// An element of a set in our nftables tables.
    Element,
    /// A virtual server, with its real servers.
    VirtualServer,
    /// An address on the device, with its route.
    Address,
}

impl DriftKind {
    const ALL: [Self; 7] = [
        Self::Device,
        Self::Sysctl,
        Self::Timeouts,
        Self::Rules,
        Self::Element,
        Self::VirtualServer,
        Self::Address,
    ];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Sysctl => "sysctl",
            Self::Timeouts => "timeouts",
            Self::Rules => "rules",
            Self::Element => "element",
            Self::VirtualServer => "virtual_server",
            Self::Address => "address",
        }
    }
}

/// Why a real server no longer drains: the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainEnd {
    /// Its connections have ended.
    Idle,
    /// Its deadline has passed.
    Deadline,
    /// Its endpoint is back, or its virtual server gone.
    Overtaken,
}

impl DrainEnd {
    const ALL: [Self; 3] = [Self::Idle, Self::Deadline, Self::Overtaken];

    fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Deadline => "deadline",
            Self::Overtaken => "overtaken",
        }
    }
}

/// Who else has an address of a Service: the label `kind` of `kube_ipvs_address_conflicts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressConflict {
    /// Another Service, which has the same protocol and port there and comes first.
    Conflict,
    /// The node, another node, or another device: the address is not put on our device.
    Shared,
}

impl AddressConflict {
    const ALL: [Self; 2] = [Self::Conflict, Self::Shared];

    fn label(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Shared => "shared",
        }
    }
}

impl Own {
    /// Writes are counted by these kinds and verdicts: all exist from the start, so that zero can be told from unknown.
    pub(super) fn new(make: &Maker, write_kinds: &[&str], verdicts: &[&str]) -> Self {
        let metrics = Self {
            writes_total: make.counters(
                "kube_ipvs_writes_total",
                "Writes to the kernel, by kind and verdict",
                &["kind", "verdict"],
            ),
            drift_total: make.counters(
                "kube_ipvs_drift_total",
                "Differences between the kernel and what was last written to it, found by reading it back",
                &["kind"],
            ),
            objects: make.gauges(
                "kube_ipvs_objects",
                "How many objects of a kind are known in the cluster, or ours in the kernel",
                &["kind"],
            ),
            foreign_virtual_servers: make.gauge(
                "kube_ipvs_foreign_virtual_servers",
                "Virtual servers of others, which are left alone",
            ),
            draining_real_servers: make.gauge(
                "kube_ipvs_draining_real_servers",
                "Real servers of weight 0 that wait for their connections to end",
            ),
            drains_ended_total: make.counters(
                "kube_ipvs_drains_ended_total",
                "Real servers that stopped draining, by reason",
                &["reason"],
            ),
            address_conflicts: make.gauges(
                "kube_ipvs_address_conflicts",
                "Virtual servers that another Service already has, and service addresses that a node or another device has",
                &["kind"],
            ),
            refused_objects: make.gauge(
                "kube_ipvs_refused_objects",
                "Objects that the kernel refuses at the moment; they are retried",
            ),
            takeover_failures: make.gauge(
                "kube_ipvs_takeover_failures",
                "Items of kube-proxy that could not be removed or replaced at the last attempt; a kube-proxy that was started again counts as 1",
            ),
            audit_round_timestamp_seconds: make.gauge(
                "kube_ipvs_audit_round_timestamp_seconds",
                "When the audit last finished reading back everything that was written; 0 before the first time",
            ),
            read_failures_total: make.counter(
                "kube_ipvs_read_failures_total",
                "Failed reads of the state of the kernel; while the kernel does not answer at all, each check that finds this counts too",
            ),
            queue_duration_seconds: make.histogram(
                "kube_ipvs_queue_duration_seconds",
                "How long the oldest change in a plan waited until it was handed to the kernel, from when this program was free to look at it",
                apply_buckets(),
            ),
            apply_duration_seconds: make.histogram(
                "kube_ipvs_apply_duration_seconds",
                "How long the kernel took to carry out a plan",
                apply_buckets(),
            ),
        };
        for kind in write_kinds {
            for verdict in verdicts {
                metrics.writes_total.with_label_values(&[kind, verdict]);
            }
        }
        for kind in DriftKind::ALL {
            metrics.drift_total.with_label_values(&[kind.label()]);
        }
        for kind in ObjectKind::ALL {
            metrics.objects.with_label_values(&[kind.label()]);
        }
        for kind in AddressConflict::ALL {
            metrics.address_conflicts.with_label_values(&[kind.label()]);
        }
        for reason in DrainEnd::ALL {
            metrics.drains_ended_total.with_label_values(&[reason.label()]);
        }
        metrics
    }

    /// Counts writes: `kind` is the name of their step, `verdict` what became of them.
    pub fn count_writes(&self, kind: &str, verdict: &str, count: u64) {
        self.writes_total.with_label_values(&[kind, verdict]).inc_by(count);
    }

    /// Counts objects that were not as they were last written.
    pub fn count_drift(&self, kind: DriftKind, count: u64) {
        self.drift_total.with_label_values(&[kind.label()]).inc_by(count);
    }

    /// Counts real servers that no longer drain.
    pub fn count_drain_ends(&self, reason: DrainEnd, count: u64) {
        self.drains_ended_total.with_label_values(&[reason.label()]).inc_by(count);
    }

    /// Sets how many there are, counted at each Service that is concerned.
    pub fn set_address_conflicts(&self, kind: AddressConflict, count: usize) {
        self.address_conflicts.with_label_values(&[kind.label()]).set(gauge(count));
    }

    /// Sets how many there are.
    pub fn set_objects(&self, kind: ObjectKind, count: usize) {
        self.objects.with_label_values(&[kind.label()]).set(gauge(count));
    }
}

/// 100 µs to 1.6 s, doubling: a change of one Service takes less than kube-proxy's smallest bucket.
fn apply_buckets() -> Vec<f64> {
    prometheus::exponential_buckets(0.0001, 2.0, 15).expect("positive and growing")
}

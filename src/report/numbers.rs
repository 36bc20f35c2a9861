//! The part of the loop's notes that becomes metrics.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cluster::types::Family;
use crate::diff::StepKind;
use crate::kernel::Purged;
use crate::reconcile::core::Reconciler;
use crate::reconcile::drain::Ended;
use crate::reconcile::note::{Verdict, WriteCounts};
use crate::reconcile::progress::Changes;
use crate::reconcile::schedule::Failure;
use crate::serve::metrics::own::{AddressConflict, DrainEnd, DriftKind, ObjectKind};
use crate::serve::metrics::{Metrics, gauge};
use crate::state::{Key, RealServerKey, VirtualServerKey};

/// The metrics of this program, with every kind of write and verdict that it may count.
pub(crate) fn metrics() -> Metrics {
    Metrics::new(&StepKind::ALL.map(StepKind::as_str), &Verdict::ALL.map(Verdict::as_str))
}

/// Turns totals of the loop into increments of counters.
pub(super) struct Numbers {
    metrics: Arc<Metrics>,
    /// How many families are served.
    families: u64,
    /// The totals as of the last [`Numbers::take`].
    changes: Changes,
    /// The totals as of the last [`Numbers::take`].
    ended: Ended,
}

impl Numbers {
    /// Numbers of a node that serves this many families.
    pub(super) fn new(metrics: Arc<Metrics>, families: usize) -> Self {
        Self { metrics, families: families as u64, changes: Changes::default(), ended: Ended::default() }
    }

    /// Counts what a plan did.
    pub(super) fn wrote(&self, counts: &WriteCounts, filter_refused: &BTreeSet<Family>, took: Duration) {
        let Metrics { own, kube_proxy, .. } = &*self.metrics;
        own.apply_duration_seconds.observe(took.as_secs_f64());
        for (kind, verdict, count) in counts.iter() {
            own.count_writes(kind.as_str(), verdict.as_str(), count);
        }
        for family in filter_refused {
            kube_proxy.filter_failures_total.of(*family).inc();
        }
    }

    /// Notes when the audit had read everything back.
    pub(super) fn audited(&self, now: SystemTime) {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.metrics.own.audit_round_timestamp_seconds.set(gauge(seconds));
    }

    /// Counts what a purge of connection tracking did.
    pub(super) fn purged(&self, family: Family, purged: &Purged) {
        let kube_proxy = &self.metrics.kube_proxy;
        kube_proxy.conntrack_sync_duration_seconds.of(family).observe(purged.took.as_secs_f64());
        kube_proxy.conntrack_deleted_entries_total.of(family).inc_by(purged.deleted);
    }

    /// Takes over the loop's counts.
    pub(super) fn take(&mut self, reconciler: &Reconciler) {
        let Metrics { own, kube_proxy, .. } = &*self.metrics;
        let (old, new) = (self.changes, reconciler.changes());
        // kube-proxy has a proxier for each family, and each proxier counts all changes of Services. A slice belongs to
        // one family. Of the pending counts, only the one that was set last is seen.
        kube_proxy.service_changes_total.inc_by((new.services - old.services) * self.families);
        kube_proxy.endpoint_changes_total.inc_by(new.slices - old.slices);
        kube_proxy.service_changes_pending.set(gauge(new.services_pending));
        kube_proxy.endpoint_changes_pending.set(gauge(new.slices_pending));
        self.changes = new;

        let (old, new) = (self.ended, reconciler.drained());
        own.count_drain_ends(DrainEnd::Idle, new.idle - old.idle);
        own.count_drain_ends(DrainEnd::Deadline, new.deadline - old.deadline);
        own.count_drain_ends(DrainEnd::Overtaken, new.overtaken - old.overtaken);
        tell_drained(new, new.idle - old.idle, new.deadline - old.deadline);
        self.ended = new;

        let (cluster, actual) = (reconciler.cluster(), reconciler.actual());
        for (kind, count) in [
            (ObjectKind::Service, cluster.service_count()),
            (ObjectKind::EndpointSlice, cluster.slice_count()),
            (ObjectKind::VirtualServer, actual.virtual_servers.len()),
            (ObjectKind::RealServer, reconciler.real_servers()),
            (ObjectKind::Address, actual.addresses.len()),
            (ObjectKind::Element, actual.elements.len()),
        ] {
            own.set_objects(kind, count);
        }
        let (conflicts, shared) = reconciler.desired().contested();
        own.set_address_conflicts(AddressConflict::Conflict, conflicts);
        own.set_address_conflicts(AddressConflict::Shared, shared);
        own.draining_real_servers.set(gauge(reconciler.draining()));
        // We do without most kernel parameters that may not be written.
        let is_done_without =
            |(key, failure): &(&Key, &Failure)| matches!(key, Key::Sysctl(_)) && failure.is_single;
        // A key that waits for another one, or for its first retry, was not refused.
        let is_counted = |failure: &(&Key, &Failure)| failure.1.is_refusal() && !is_done_without(failure);
        own.refused_objects.set(gauge(reconciler.failures().iter().filter(is_counted).count()));
    }
}

/// Logs real servers that have drained, the latest first, in kube-proxy's words and with its names of them. One line
/// for all: where a node has died there are thousands at once.
fn tell_drained(ended: Ended, idle: u64, deadline: u64) {
    let count = usize::try_from(idle + deadline).unwrap_or(usize::MAX);
    if count == 0 {
        return;
    }
    let name = |(server, real): (VirtualServerKey, RealServerKey)| {
        let [from, to] = [(server.address, server.port), (real.address, real.port)].map(SocketAddr::from);
        format!("{from}/{}/{to}", server.protocol)
    };
    let named: Vec<_> = ended.last.into_iter().flatten().take(count).map(name).collect();
    let mut servers = named.join(", ");
    if count > named.len() {
        servers = format!("{servers} and {} more", count - named.len());
    }
    tracing::info!(
        realServer = servers,
        idle,
        deadline,
        "Removed real server from graceful delete real server list"
    );
}

/// The label `kind` of drift.
pub(super) fn kind(key: &Key) -> DriftKind {
    match key {
        Key::Device => DriftKind::Device,
        Key::Sysctl(_) => DriftKind::Sysctl,
        Key::Timeouts => DriftKind::Timeouts,
        Key::Rules(_) => DriftKind::Rules,
        Key::Element(_) => DriftKind::Element,
        Key::VirtualServer(_) => DriftKind::VirtualServer,
        Key::Address(_) => DriftKind::Address,
    }
}

//! Turns what the loop notes into log lines, metrics, health and Events.

mod conflict_events;
pub(crate) mod contested;
pub(crate) mod kubernetes_events;
mod listener;
pub(crate) mod numbers;
pub(crate) mod services;
mod steps;
mod troubles;
mod unread;

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::allocator;
use crate::api::events::Events;
use crate::cluster::types::Family;
use crate::cluster::{Cluster, Touched};
use crate::diff::StepKind;
use crate::kernel::Purged;
use crate::reconcile::core::Reconciler;
use crate::reconcile::note::{Note, Verdict, WriteCounts};
use crate::reconcile::schedule::Failure;
use crate::serve::metrics::own::DriftKind;
use crate::serve::metrics::{Metrics, gauge};
use crate::serve::{Failures, FamilyStatus, Moment, Status};
use crate::state::{Key, Sysctl, VirtualServerKey};
use crate::telemetry::Said;
use crate::vlog;
use contested::Contested;
use numbers::Numbers;
use services::Services;
use troubles::Troubles;
use unread::Unread;

/// How many things of one kind a log line names; the rest are only counted.
const NAMED: usize = 5;

/// After how many writes free memory is given back at the next look for the foundations. What fewer of them leave free
/// is soon used again, and waits for the end of the audit's round.
const MANY_WRITES: u64 = 1000;

/// Passes the loop's notes on to the log, metrics, health and Events.
pub(crate) struct Reporter {
    metrics: Arc<Metrics>,
    status: watch::Sender<Status>,
    /// When this program started. A change that was triggered earlier says nothing about how long it took.
    started: SystemTime,
    /// Writes done since the start; the log line of the first sync shows how many that one took.
    written: u64,
    /// How many writes were done when free memory was last given back.
    written_at_give_back: u64,
    numbers: Numbers,
    /// Whether load balancers must avoid a node without a Node object: where the facts come from an API server.
    needs_node: bool,
    services: Services,
    events: Events,
    node_name: Arc<str>,
    /// The failures to purge connection tracking that were already logged.
    said: Said,
    unread: Unread,
}

impl Reporter {
    /// Makes a reporter of these families.
    ///
    /// `events` takes the Events about contested addresses, which node `node_name` writes. Health knows the families
    /// from the start, but none of them waits for the kernel before the facts are complete, however long those take: a
    /// restart would not bring them sooner.
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        status: watch::Sender<Status>,
        families: &BTreeSet<Family>,
        needs_node: bool,
        services: Services,
        events: Events,
        node_name: Arc<str>,
    ) -> Self {
        vlog!(2, "Not syncing ipvs rules until Services and Endpoints have been received from master");
        let now = Moment::now();
        status.send_modify(|status| {
            for family in families {
                status.families.insert(*family, FamilyStatus::default());
                metrics.kube_proxy.sync_last_queued_timestamp_seconds.of(*family).set(seconds(now.wall));
            }
        });
        for family in Family::ALL.iter().filter(|family| !families.contains(family)) {
            metrics.kube_proxy.sync_last_queued_timestamp_seconds.leave_out(*family);
            metrics.kube_proxy.sync_last_timestamp_seconds.leave_out(*family);
        }
        let numbers = Numbers::new(Arc::clone(&metrics), families.len());
        let unread = Unread::new(Arc::clone(&metrics), status.clone());
        Self {
            metrics,
            status,
            started: now.wall,
            written: 0,
            written_at_give_back: 0,
            numbers,
            needs_node,
            services,
            events,
            node_name,
            said: Said::default(),
            unread,
        }
    }

    /// Passes on what the notes say, as of `now`.
    pub(crate) fn tell(&mut self, reconciler: &Reconciler, notes: Vec<Note>, now: Instant) {
        let mut drifted = Vec::new();
        let (mut troubles, mut contested) = (Troubles::default(), Contested::default());
        // Whether all foundations could be looked for.
        let mut is_seen = false;
        // The clock is read at most once: the notes of several families mostly come at the same time.
        let moment = LazyCell::new(|| Moment { instant: now, wall: SystemTime::now() });
        for note in notes {
            match note {
                Note::Drift(key) => drifted.push(key),
                Note::Refused { key, kind, real_server, text } => {
                    troubles.refused(reconciler, key, kind, real_server, text);
                }
                Note::Recovered(key) => troubles.recovered.push(key),
                Note::Conflict(conflict) => contested.conflicts.push(conflict),
                Note::Shared { shared, owner } => contested.shared.push((shared, owner)),
                Note::Adopted { virtual_servers, addresses } => {
                    self.unread.all_read();
                    tracing::info!(virtual_servers, addresses, "Adopting what is in the kernel");
                }
                Note::Queued(family) => self.queued(family, *moment),
                Note::QueuedMore(family) => self.queued_more(family, now),
                Note::Synced { family, triggered_nanoseconds } => {
                    self.synced(family, &triggered_nanoseconds, now);
                }
                Note::FirstSync => self.first_sync(reconciler),
                Note::HandedOver { waited } => {
                    self.metrics.own.queue_duration_seconds.observe(waited.as_secs_f64());
                }
                Note::Wrote { counts, families, filter_refused, took } => {
                    self.wrote(&counts, families, &filter_refused, took, now);
                }
                Note::Foreign(servers) => self.foreign(&servers),
                Note::Unreadable(reading, error) => self.unread.failed(reading, &error, now),
                Note::Read(reading) => self.unread.read(reading),
                Note::SysctlChanged { sysctl, before, after } => {
                    tell_sysctl(sysctl, before.as_deref(), &after);
                }
                Note::LookedFor(unreadable) => {
                    is_seen |= unreadable.is_empty();
                    self.unread.looked_for(&unreadable, *moment);
                    // A round of the audit takes minutes in a large cluster.
                    if self.written - self.written_at_give_back >= MANY_WRITES {
                        self.give_memory_back();
                    }
                }
                Note::Purged(family, purged) => self.purged(family, &purged, now),
                Note::AuditRound => {
                    // This also ends failures of readings that nothing asks for any more, such as those of connections
                    // to real servers that are gone.
                    self.unread.all_read();
                    self.numbers.audited(SystemTime::now());
                    self.give_memory_back();
                }
                Note::Looked(touched) => self.looked(reconciler, &touched),
                // Whether the node is eligible is published with everything else, below.
                Note::NodeChanged => self.services.look_at_node(reconciler.cluster()),
            }
        }
        // After the queued notes: a family with a queued change must not get a last sync as late as that change.
        if is_seen {
            self.still_synced(*moment);
        }
        self.tell_drift(&drifted);
        troubles.tell();
        for event in conflict_events::of(&contested, reconciler.cluster(), &self.node_name) {
            self.events.tell(event);
        }
        contested.tell();
        self.numbers.take(reconciler);
        self.publish(reconciler);
        self.unread.publish();
    }

    /// Something of a family is to be written.
    fn queued(&self, family: Family, now: Moment) {
        self.metrics.kube_proxy.sync_last_queued_timestamp_seconds.of(family).set(seconds(now.wall));
        self.status.send_modify(|status| status.families.entry(family).or_default().queued(now));
    }

    fn queued_more(&self, family: Family, now: Instant) {
        let queued = self.unsynced_since(family).map_or_else(Moment::now, |since| since.soon_after(now));
        let gauge = &self.metrics.kube_proxy.sync_last_queued_timestamp_seconds;
        gauge.of(family).set(seconds(queued.wall));
    }

    /// Since when something of a family has been waiting to be written.
    fn unsynced_since(&self, family: Family) -> Option<Moment> {
        self.status.borrow().families.get(&family)?.unsynced_since
    }

    fn first_sync(&mut self, reconciler: &Reconciler) {
        let failures = reconciler.failures().len();
        // Before the log line: whoever reads it may ask for the status at once.
        self.status.send_modify(|status| status.synced_once = true);
        tracing::info!(writes = self.written, failures, "First sync complete");
        self.give_memory_back();
    }

    /// Gives free memory back to the system: what the start needed, after the first sync; and later what is left of
    /// much that came and went.
    fn give_memory_back(&mut self) {
        self.written_at_give_back = self.written;
        let started = Instant::now();
        allocator::give_back();
        vlog!(4, took = ?started.elapsed(), "Gave free memory back");
    }

    /// A plan was carried out: counts and logs what it did.
    fn wrote(
        &mut self,
        counts: &WriteCounts,
        families: BTreeSet<Family>,
        filter_refused: &BTreeSet<Family>,
        took: Duration,
        now: Instant,
    ) {
        for family in families {
            self.metrics.kube_proxy.sync_duration_seconds.of(family).observe(took.as_secs_f64());
            vlog!(4, %family, elapsed = format!("{took:?}"), "syncProxyRules complete");
        }
        self.numbers.wrote(counts, filter_refused, took);
        let done = counts.iter().filter(|(_, verdict, _)| *verdict == Verdict::Done);
        let done = done.map(|(.., count)| count).sum::<u64>();
        self.written += done;
        self.status.send_if_modified(|status| done > 0 && status.wrote(now));
        let summary = counts
            .iter()
            .map(|(kind, verdict, count)| match verdict {
                Verdict::Done => format!("{kind}={count}"),
                other => format!("{kind}={count}({})", other.as_str()),
            })
            .collect::<Vec<_>>();
        vlog!(2, steps = summary.join(" "), "Wrote to the kernel");
        let count = counts.of(StepKind::DeleteAddress, Verdict::Done);
        if count > 0 {
            vlog!(2, interface = "kube-ipvs0", count, "Removing addresses");
        }
    }

    /// Counts and logs the virtual servers that are not ours.
    fn foreign(&self, servers: &BTreeSet<VirtualServerKey>) {
        self.metrics.own.foreign_virtual_servers.set(gauge(servers.len()));
        if !servers.is_empty() {
            let (count, servers) = (servers.len(), named(servers.iter()));
            tracing::info!(count, servers, "Leaving others' virtual servers alone");
        }
    }

    fn purged(&mut self, family: Family, purged: &Purged, now: Instant) {
        self.numbers.purged(family, purged);
        let Purged { deleted, took, failure } = purged;
        if let Some(err) = failure
            && self.said.is_news(&format!("{family}: {err}"), now)
        {
            tracing::error!(%family, err, "Cannot purge stale entries of connection tracking");
        }
        vlog!(2, %family, deleted, took = format!("{took:?}"), "Purged connection tracking");
    }

    fn looked(&mut self, reconciler: &Reconciler, touched: &Touched) {
        for service in touched {
            vlog!(4, %service, "Looked at a Service");
        }
        self.services.look(reconciler.cluster(), touched);
    }

    /// Renews the time of the last sync of each family that is written, with nothing waiting since.
    ///
    /// Called after all foundations could be looked for: a missing device or table is queued by then, so its family is
    /// left out. kube-proxy syncs again in each `syncPeriod`, changes or not, and alerts go by the age of this time.
    fn still_synced(&self, now: Moment) {
        let is_synced =
            |family: &FamilyStatus| family.last_synced.is_some() && family.unsynced_since.is_none();
        for (family, _) in self.status.borrow().families.iter().filter(|(_, status)| is_synced(status)) {
            self.metrics.kube_proxy.sync_last_timestamp_seconds.of(*family).set(seconds(now.wall));
        }
    }

    fn synced(&self, family: Family, triggered_nanoseconds: &[i64], now: Instant) {
        let metrics = &self.metrics.kube_proxy;
        let now = self.unsynced_since(family).map_or_else(Moment::now, |since| since.soon_after(now));
        metrics.sync_last_timestamp_seconds.of(family).set(seconds(now.wall));
        for &triggered in triggered_nanoseconds {
            let triggered = UNIX_EPOCH + Duration::from_nanos(u64::try_from(triggered).unwrap_or(0));
            if triggered >= self.started
                && let Ok(latency) = now.wall.duration_since(triggered)
            {
                metrics.network_programming_duration_seconds.of(family).observe(latency.as_secs_f64());
            }
        }
        self.status.send_modify(|status| status.families.entry(family).or_default().synced(now));
    }

    /// One line for all drift found at once: a flushed table is one event, not ten thousand.
    fn tell_drift(&self, drifted: &[Key]) {
        let mut by_kind: BTreeMap<DriftKind, Vec<&Key>> = BTreeMap::new();
        for key in drifted {
            by_kind.entry(numbers::kind(key)).or_default().push(key);
        }
        for (kind, keys) in by_kind {
            self.metrics.own.count_drift(kind, keys.len() as u64);
            let (kind, count) = (kind.label(), keys.len());
            tracing::warn!(kind, count, objects = named(keys), "Drift found, repairing");
        }
    }

    fn publish(&self, reconciler: &Reconciler) {
        self.status.send_if_modified(|status| {
            let failures = reconciler.failures();
            let line = |(key, failure): (&Key, &Failure)| format!("{key}: {}", failure.text);
            let new = Failures::first(failures.iter().map(line), failures.len());
            let ineligible = self.ineligible(reconciler.cluster());
            let changed = status.failures != new || status.ineligible != ineligible;
            status.failures = new;
            status.ineligible = ineligible;
            changed
        });
    }

    /// Why, by the Node object, load balancers should send no new traffic here.
    fn ineligible(&self, cluster: &Cluster) -> Option<&'static str> {
        match cluster.node() {
            Some(node) if !node.eligible => {
                Some("the node is being deleted, or is about to be removed by the cluster autoscaler")
            }
            None if self.needs_node && cluster.is_complete() => Some("the node has no Node object"),
            _ => None,
        }
    }
}

/// Logs that a kernel parameter was set, in kube-proxy's words: all values are numbers (contract 4.2).
pub(crate) fn tell_sysctl(sysctl: Sysctl, before: Option<&str>, after: &str) {
    let number = |text: &str| text.parse::<i64>().unwrap_or(-1);
    vlog!(
        1,
        name = sysctl.path(),
        before = before.map_or(-1, number),
        after = number(after),
        "Changed sysctl"
    );
}

fn named<T: ToString>(things: impl IntoIterator<Item = T>) -> String {
    let mut things = things.into_iter();
    let mut text = things.by_ref().take(NAMED).map(|thing| thing.to_string()).collect::<Vec<_>>().join(", ");
    let more = things.count();
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
    text
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests;

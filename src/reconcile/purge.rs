//! When connection tracking is purged, and for which virtual servers.
//!
//! Only UDP is purged: a virtual server after real servers of it went, and after it got its first real server, or its
//! address; an entry point after its way inside the cluster came or went; and everything once after the first complete
//! set was written, for what a crash left behind.
//!
//! A purge is not state: it cannot be compared and repaired. So the virtual servers to purge are noted when a step was
//! done, or may have been. The purge begins in a pause between changes, or after a second if no pause comes. Where it
//! fails it is tried once more.
//!
//! The kernel walks its whole table to find stale entries, which may take seconds. So the search runs beside everything
//! else, and searches take at most a third of the time. The entries found are deleted between changes, a piece at a
//! time. Each piece is compared again with the endpoints of that moment: an endpoint that came since keeps its entries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::types::{Family, Protocol};
use crate::diff::Step;
use crate::diff::purge::Purge;
use crate::kernel::{Found, Purged, StaleEntry};
use crate::state::{Element, RealServerKey, State, VirtualServerKey};

/// How long a purge waits for a pause between changes.
const PATIENCE: Duration = Duration::from_secs(1);
/// The wait after a purge that failed.
const RETRY: Duration = Duration::from_secs(10);
/// How long it may take until an IPv6 address that was added takes packets in. The kernel makes its route later, on a
/// queue that waits for everyone who changes devices (`addrconf_dad_work`). Packets sent meanwhile leave the node, and
/// connection tracking remembers that, as before.
const ROUTED: Duration = Duration::from_secs(1);
/// The pause after a purge, as a multiple of the time that its search took.
const REST: u32 = 2;
/// How many entries are deleted at once: some milliseconds of work for the kernel.
const PIECE: usize = 1024;

/// The ways inside: from which entry point to which virtual server clients inside the cluster are sent instead. Few
/// Services have these.
fn ways_inside(actual: &State) -> impl Iterator<Item = (VirtualServerKey, VirtualServerKey)> {
    let lowest = Family::V4.unspecified_address();
    let first = *VirtualServerKey::all_at(lowest).start();
    actual
        .elements
        .range(Element::InCluster(first, lowest, 0)..)
        .map_while(|element| element.entry_point().zip(element.leads_to()))
}

/// Whether flows to a virtual server are purged: those of UDP, which do not end by themselves.
fn is_purged(server: &VirtualServerKey) -> bool {
    server.protocol == Protocol::Udp
}

/// What is to be purged.
#[derive(Clone, Debug, Default)]
pub(super) struct Purges {
    waiting: BTreeSet<VirtualServerKey>,
    /// Since when something has been waiting.
    since: Option<Instant>,
    /// What is to be purged once more, and when: virtual servers at new IPv6 addresses.
    again: BTreeMap<VirtualServerKey, Instant>,
    /// The earliest time of the next purge.
    rest: Option<Instant>,
    /// What failed once.
    failed: BTreeSet<VirtualServerKey>,
    /// The purge that has begun.
    current: Option<Current>,
    /// Whether changes go before the next piece.
    yields: bool,
}

/// A purge that has begun.
#[derive(Clone, Debug)]
struct Current {
    /// The virtual servers whose stale entries are searched for.
    purge: Arc<Purge>,
    /// For each family of the purge: the entries found and not deleted yet, and the result so far. `None`: the search
    /// goes on.
    found: Option<BTreeMap<Family, (Vec<StaleEntry>, Purged)>>,
    /// How long the search took.
    took: Duration,
}

impl Purges {
    /// Takes in a step that was done, or may have been. `actual`: the picture before it.
    pub(super) fn stepped(&mut self, step: &Step, actual: &State, now: Instant) {
        let is_empty =
            |key| actual.virtual_servers.get(key).is_none_or(|server| server.real_servers.is_empty());
        match step {
            Step::DeleteRealServer(key, _) | Step::DeleteVirtualServer(key) => self.note(*key, now),
            Step::AddRealServer(key, ..) if is_purged(key) && is_empty(key) => self.note(*key, now),
            // Flows to that entry point take the changed way only once connection tracking has forgotten them.
            Step::AddElement(Element::InCluster(key, ..))
            | Step::DeleteElement(Element::InCluster(key, ..)) => {
                self.note(*key, now);
            }
            // Whether the table was gone, or is only replaced, is not known here.
            Step::InstallRules(family, _, elements) => {
                let new = elements.iter().filter_map(|element| match element {
                    Element::InCluster(key, ..) => Some(*key),
                    _ => None,
                });
                let before = ways_inside(actual).map(|(key, _)| key);
                let of_family = |key: &VirtualServerKey| Family::of(key.address) == *family;
                for key in new.chain(before.filter(of_family)) {
                    self.note(key, now);
                }
            }
            // What was sent to the address before left the node. At a new address the virtual servers were noted when
            // they got their real servers, or there are none.
            Step::AddAddress(address) | Step::AddRoute(address) => {
                for key in actual.virtual_servers_at(*address).filter(is_purged) {
                    self.note(key, now);
                    if address.is_ipv6() {
                        self.again.insert(key, now + ROUTED);
                    }
                }
            }
            _ => {}
        }
    }

    /// Notes all virtual servers: everything may be stale.
    pub(super) fn everything(&mut self, actual: &State, now: Instant) {
        for key in actual.virtual_servers.keys() {
            self.note(*key, now);
        }
    }

    fn note(&mut self, key: VirtualServerKey, now: Instant) {
        if is_purged(&key) {
            self.waiting.insert(key);
            self.since.get_or_insert(now);
        }
    }

    /// What to search for now. `idle`: nothing waits to be written.
    pub(super) fn due(&mut self, idle: bool, actual: &State, now: Instant) -> Option<Arc<Purge>> {
        if self.current.is_some() {
            return None;
        }
        for key in self.again.extract_if(.., |_, due| *due <= now).map(|(key, _)| key).collect::<Vec<_>>() {
            self.note(key, now);
        }
        let since = self.since?;
        let due = if idle { since } else { since + PATIENCE };
        if now < due || self.rest.is_some_and(|rest| now < rest) {
            return None;
        }
        self.since = None;
        let mut keys = std::mem::take(&mut self.waiting);
        let led_here = ways_inside(actual).filter(|(_, to)| keys.contains(to)).map(|(from, _)| from);
        keys.extend(led_here.collect::<Vec<_>>());
        let purge = Arc::new(Purge { live: live(keys, actual) });
        self.current = Some(Current { purge: Arc::clone(&purge), found: None, took: Duration::ZERO });
        Some(purge)
    }

    /// When [`Purges::due`] may have something. `None` as long as a purge goes on.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.current.is_some() {
            return None;
        }
        let waiting = self.since.into_iter().chain(self.again.values().copied()).min();
        waiting.map(|since| self.rest.map_or(since, |rest| rest.max(since)))
    }

    /// The search has ended.
    ///
    /// # Panics
    /// If there is none.
    pub(super) fn found(&mut self, Found { entries, took, failure }: Found) {
        let current = self.current.as_mut().expect("an answer follows a search");
        let nothing = |family| (family, (Vec::new(), Purged { deleted: 0, took, failure: failure.clone() }));
        let mut found: BTreeMap<_, _> = current.purge.families().into_iter().map(nothing).collect();
        for entry in entries {
            if let Some((of_family, _)) = found.get_mut(&entry.flow.family()) {
                of_family.push(entry);
            }
        }
        current.found = Some(found);
        current.took = took;
    }

    /// The entries to delete next, all of one family; `None`: there are none, or changes come first. `idle`: no change
    /// waits. Entries that are not stale any more are left out.
    pub(super) fn piece(&mut self, idle: bool, actual: &State) -> Option<(Family, Vec<StaleEntry>)> {
        if self.yields && !idle {
            return None;
        }
        let found = self.current.as_mut()?.found.as_mut()?;
        for (family, (entries, _)) in found {
            while !entries.is_empty() {
                let mut piece = entries.split_off(entries.len().saturating_sub(PIECE));
                let keys = piece.iter().map(|entry| entry.flow.destination).collect();
                let now = Purge { live: live(keys, actual) };
                piece.retain(|entry| now.is_stale(&entry.flow));
                if !piece.is_empty() {
                    self.yields = true;
                    return Some((*family, piece));
                }
            }
        }
        None
    }

    /// Changes are written: the next piece may follow.
    pub(super) fn changes_had_their_turn(&mut self) {
        self.yields = false;
    }

    /// A piece is deleted, with this result.
    pub(super) fn deleted(&mut self, family: Family, piece: Purged) {
        let found = self.current.as_mut().and_then(|current| current.found.as_mut());
        if let Some((_, purged)) = found.and_then(|found| found.get_mut(&family)) {
            purged.deleted += piece.deleted;
            purged.took += piece.took;
            purged.failure = purged.failure.take().or(piece.failure);
        }
    }

    /// The result of the purge, by family, if it has ended: everything that was found is deleted.
    pub(super) fn take_ended(&mut self, now: Instant) -> Option<BTreeMap<Family, Purged>> {
        let Current { purge, found, took } =
            self.current.take_if(|current| current.found.as_ref().is_some_and(is_deleted))?;
        let purged: BTreeMap<Family, Purged> =
            found.into_iter().flatten().map(|(family, (_, purged))| (family, purged)).collect();
        let failed = |key: &&VirtualServerKey| {
            purged.get(&Family::of(key.address)).is_none_or(|purged| purged.failure.is_some())
        };
        self.ended(purge.live.keys().filter(failed).copied(), took, now);
        self.yields = false;
        Some(purged)
    }

    /// A purge ended, whose search took so long. `failed`: what is to be tried again.
    fn ended(&mut self, failed: impl IntoIterator<Item = VirtualServerKey>, took: Duration, now: Instant) {
        let again: BTreeSet<_> = failed.into_iter().filter(|key| !self.failed.contains(key)).collect();
        self.rest = Some(now + if again.is_empty() { took * REST } else { RETRY });
        for key in &again {
            self.note(*key, now);
        }
        self.failed = again;
    }
}

/// The endpoints that flows to these virtual servers may be with.
fn live(
    keys: BTreeSet<VirtualServerKey>,
    actual: &State,
) -> BTreeMap<VirtualServerKey, BTreeSet<RealServerKey>> {
    let inside: BTreeMap<VirtualServerKey, VirtualServerKey> = ways_inside(actual).collect();
    let servers = |key: &VirtualServerKey| {
        let server = actual.virtual_servers.get(key).map(|server| &server.real_servers);
        server.into_iter().flat_map(|servers| servers.keys()).copied()
    };
    let live = |key: VirtualServerKey| {
        // Clients inside the cluster, who asked for the same, were sent elsewhere.
        let inside = inside.get(&key).into_iter().flat_map(&servers);
        (key, servers(&key).chain(inside).collect())
    };
    keys.into_iter().map(live).collect()
}

fn is_deleted(found: &BTreeMap<Family, (Vec<StaleEntry>, Purged)>) -> bool {
    found.values().all(|(entries, _)| entries.is_empty())
}

#[cfg(test)]
mod tests;

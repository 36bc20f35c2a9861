//! The start: what the kernel has is adopted, and nothing is written before the facts are complete.
//!
//! The Services that everything else needs are looked at and written first. What all others ask for is worked out
//! afterwards, since that takes long in a large cluster. Until then nothing is removed, and nothing counts as written.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use foldhash::HashSet;

use super::super::first;
use super::super::note::{Note, Reading};
use super::super::picture::Picture;
use super::super::schedule::Urgency;
use super::work::Task;
use super::{Next, Reconciler};
use crate::cluster::Touched;
use crate::kernel::ReadError;
use crate::state::{Element, Key, State, VirtualServerKey, ownership};

/// How long to wait after the kernel could not be read.
const AGAIN: Duration = Duration::from_secs(1);

/// How far the start is.
#[derive(Debug)]
pub(super) enum Phase {
    /// What the kernel has is not adopted yet; after a failure it is tried again at this moment.
    Reading(Option<Instant>),
    /// What the kernel has is adopted, and only these Services were looked at since.
    First(Touched),
    /// All Services were looked at, and what they ask for is not yet written completely.
    Filling,
    /// Everything was written once, as far as the kernel accepts it.
    Synced,
}

impl Phase {
    /// Whether what the kernel has was adopted.
    pub(super) fn is_adopted(&self) -> bool {
        !matches!(self, Self::Reading(_))
    }

    /// Whether everything was written once.
    pub(super) fn is_synced(&self) -> bool {
        matches!(self, Self::Synced)
    }
}

impl Reconciler {
    /// Nothing is touched, or even read, before the facts are complete: the kernel is read as late as possible, so that
    /// the picture is fresh when the first plan is made from it.
    pub(super) fn next_adoption(&mut self, now: Instant) -> Next {
        if !self.cluster.is_complete() {
            return Next::Wait(None);
        }
        // From here on the start waits for the kernel, and no longer for the sources of facts.
        self.queued();
        if let Phase::Reading(Some(due)) = self.phase
            && now < due
        {
            return Next::Wait(Some(due));
        }
        self.start(Task::Adopt, now)
    }

    /// Takes over what was read, or tries again later.
    pub(super) fn adopt(&mut self, read: Result<State, ReadError>, now: Instant) {
        let state = match read {
            Ok(state) => state,
            Err(error) => {
                self.phase = Phase::Reading(Some(now + AGAIN));
                self.notes.push(Note::Unreadable(Reading::Adoption, error));
                return;
            }
        };
        self.node_touched = false;
        self.desired.look_at_node(&self.cluster);
        // A new table is made with all of its elements: then everything has to be known first.
        let is_kept = self.desired.keeps(&state.rules);
        let first: Touched = if is_kept { first::services(&self.cluster) } else { Touched::new() };
        self.actual = Picture::of(state);
        self.phase = Phase::First(first.clone());
        if !is_kept {
            return;
        }
        let update = self.desired.update(&self.cluster, &first);
        self.tell(update.conflicts, update.shared);
        self.notes.push(Note::Looked(first));
        // An address becomes a shared one only after the virtual servers to be removed there are gone, and which these
        // are is not known yet.
        let leaves_orphans = |key: &Key| match key {
            Key::Element(Element::SharedAddress(address)) if self.is_shared_from_now_on(*address) => {
                self.actual.virtual_servers_at(*address).next().is_some()
            }
            _ => false,
        };
        if !update.scope.iter().any(leaves_orphans) {
            self.schedule.add_all(Urgency::Settings, self.desired.setting_keys());
            self.schedule.add_all(Urgency::First, update.scope);
        }
    }

    /// Looks at all Services but the first, and at what exists and nobody wants.
    pub(super) fn adopt_rest(&mut self, first: &Touched, now: Instant) {
        let rest = self.cluster.services().map(|service| &service.key).filter(|key| !first.contains(*key));
        let rest: Touched = rest.cloned().collect();
        let update = self.desired.update(&self.cluster, &rest);
        self.tell(update.conflicts, update.shared);
        self.notes.push(Note::Looked(rest));
        self.leave_to_others();
        self.notes.push(Note::Adopted {
            virtual_servers: self.actual.virtual_servers.len(),
            addresses: self.actual.addresses.len(),
        });
        self.audit.start(now);
        // What was written first is compared again, which writes nothing. If nothing was written first, it is written
        // now.
        let mut wanted = update.scope;
        wanted.extend(first.iter().flat_map(|service| self.desired.keys_of(service)));
        self.schedule.add_all(Urgency::Settings, self.desired.setting_keys());
        self.queue_wanted(wanted);
        self.queue_unwanted();
        self.progress.looked();
    }

    /// Takes others' virtual servers out of the picture.
    fn leave_to_others(&mut self) {
        let mut state = std::mem::take(&mut self.actual).into_state();
        let ours = |key: &VirtualServerKey| {
            self.desired.wants(&Key::VirtualServer(*key))
                || ownership::is_ours(&state, key) && !ownership::is_excluded(&self.exclude_cidrs, key)
        };
        let foreign: BTreeSet<_> = state.virtual_servers.keys().filter(|key| !ours(key)).copied().collect();
        state.virtual_servers.retain(|key, _| !foreign.contains(key));
        self.foreign.begin(foreign);
        self.actual = Picture::of(state);
    }

    /// Queues what Services ask for.
    ///
    /// Elements are written before virtual servers, except for a way inside to a virtual server that does not serve
    /// yet: such a way is written after it. Until then whoever serves the entry point where the way begins goes on
    /// doing so, so that entry point waits with the way. A way to a virtual server that serves is written at once: its
    /// entry point may be dropped from now on.
    fn queue_wanted(&mut self, wanted: Vec<Key>) {
        let begins = |key: &Key| match key {
            Key::Element(way) if way.leads_to().is_some_and(|to| !self.actual.serves(&to)) => {
                way.entry_point()
            }
            _ => None,
        };
        let from: HashSet<VirtualServerKey> = wanted.iter().filter_map(begins).collect();
        let at: HashSet<IpAddr> = from.iter().map(|server| server.address).collect();
        let (ways, bulk): (Vec<_>, Vec<_>) = wanted
            .into_iter()
            // Once a node port is owned, whoever served it until now is bypassed, so it is not owned before there is a
            // virtual server. And the virtual server is not made while it would be open to everybody. So all three come
            // in one plan.
            .filter(|key| match key {
                Key::Element(Element::Owned(server) | Element::Restricted(server)) => {
                    self.actual.virtual_servers.contains_key(server)
                }
                _ => true,
            })
            .partition(|key| match key {
                Key::VirtualServer(server) | Key::Element(Element::Dropped(server)) => from.contains(server),
                Key::Address(address) => at.contains(address),
                _ => begins(key).is_some(),
            });
        self.schedule.add_all(Urgency::Bulk, bulk);
        self.schedule.add_all(Urgency::Ways, ways);
    }

    /// Queues what is ours and nobody wants.
    fn queue_unwanted(&mut self) {
        let unwanted = |key: &Key| key.is_removable() && !self.desired.wants(key);
        let unwanted: Vec<Key> = self.actual.keys().filter(unwanted).collect();
        let (orphans, unwanted): (Vec<_>, Vec<_>) = unwanted.into_iter().partition(
            |key| matches!(key, Key::VirtualServer(server) if self.is_shared_from_now_on(server.address)),
        );
        // No client may be sent to a virtual server that goes; and the entry point that the client asked serves by
        // then, and must not drop.
        let (turned, unwanted): (Vec<_>, Vec<_>) = unwanted.into_iter().partition(|key| match key {
            Key::Element(Element::Dropped(_)) => true,
            Key::Element(way) => {
                way.leads_to().is_some_and(|to| !self.desired.wants(&Key::VirtualServer(to)))
            }
            _ => false,
        });
        // With the settings, since a new table is made with the addresses that are shared. Once they are, these virtual
        // servers would be nobody's if the program ended before the rest is removed.
        self.schedule.add_all(Urgency::Settings, orphans);
        self.schedule.add_all(Urgency::Turned, turned);
        self.schedule.add_all(Urgency::Removal, unwanted);
    }

    /// Whether an address is to become a shared one, and is not yet.
    fn is_shared_from_now_on(&self, address: IpAddr) -> bool {
        let shared = Element::SharedAddress(address);
        self.desired.wants(&Key::Element(shared)) && !self.actual.elements.contains(&shared)
    }
}

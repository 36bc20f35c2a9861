//! The safe order of steps, and why.
//!
//! | phase | steps | because |
//! |---|---|---|
//! | 0 | sysctls, the device, timeouts | everything else needs them |
//! | 1 | the fixed rules | traffic must not pass before masquerading and refusal are in place |
//! | 2 | new elements; who may use an entry point; addresses that are new and shared; ways inside the cluster to a virtual server that already serves | a hairpin element must exist before the real server that needs it; the ownership and the restriction of a virtual server before the virtual server; the node's own ports at an address must not be refused; and clients inside must not be dropped along with those outside |
//! | 3 | new and changed virtual servers | |
//! | 4 | new and revived real servers | a Service is never without a server while servers are replaced |
//! | 5 | weight 0, removed real servers; removed virtual servers of an address that will be shared | a shared address no longer proves whose they are |
//! | 6 | addresses and routes; other ways inside the cluster, and drops of entry points that these ways bypass; removed drops; addresses that were ours alone and become shared | they attract traffic: only when there is a virtual server to take it, and it must not be dropped; virtual servers that are removed at a shared address are gone by then |
//! | 7 | removed addresses; ways inside the cluster to removed virtual servers | traffic must stop before the virtual server that takes it goes |
//! | 8 | removed virtual servers | |
//! | 9 | removed elements | ownership is given up last: a crash in between leaves nothing without an owner |
//!
//! Inside a phase the order is free; steps about virtual servers come in the order of the kernel's hash chains
//! ([`VirtualServerKey::chain`]).
//!
//! Additions come before deletions throughout, except for elements that exclude each other: the ranges of an entry
//! point, and the target of a way inside the cluster, change in one transaction. Even then, before Linux 6.18, lookups
//! find neither the old nor the new ranges at the moment of the commit (4dbac7db17f1 "`nft_set_pipapo`: use 0 genmask
//! for packetpath lookups"; on processors with AVX2 before 6.17, c4eaca2e1052).

use std::collections::BTreeSet;
use std::hash::{Hash as _, Hasher as _};
use std::net::IpAddr;

use foldhash::{HashMap, HashSet};

use super::plan::{Needs, Phase, Plan, PlannedStep, Step};
use crate::cluster::types::Family;
use crate::state::{Element, Key, State, VirtualServerKey, Weight};

/// Steps that are not in order yet.
#[derive(Debug, Default)]
pub(super) struct Draft {
    steps: Vec<Step>,
    /// The families whose table is replaced.
    installed: BTreeSet<Family>,
    /// The elements that are deleted.
    deleted: BTreeSet<Element>,
}

impl Draft {
    pub(super) fn add(&mut self, step: Step) {
        if let Step::InstallRules(family, ..) = step {
            self.installed.insert(family);
        }
        self.steps.push(step);
    }

    /// Adds the deletion of an element, once.
    pub(super) fn delete(&mut self, element: Element) {
        if self.deleted.insert(element) {
            self.steps.push(Step::DeleteElement(element));
        }
    }

    /// Whether the draft replaces the table of this family, with all its elements.
    pub(super) fn installs(&self, family: Family) -> bool {
        self.installed.contains(&family)
    }

    /// Puts the steps in order and records which step needs which.
    pub(super) fn into_plan(mut self, actual: &State) -> Plan {
        let phases = Phases::of(&self.steps, actual);
        // The sort is stable: inside a phase, steps keep the order of the scope, except that new elements come last,
        // when the deleted ones have made room, and virtual servers of one hash chain of the kernel follow each other.
        self.steps.sort_by_cached_key(|step| {
            let chain = match step.key() {
                Key::VirtualServer(server) => server.chain(),
                _ => 0,
            };
            (phases.phase(step), matches!(step, Step::AddElement(_)), chain)
        });
        // What a new virtual server needs first: its ownership and its restriction.
        let mut said_before: HashMap<VirtualServerKey, Needs> = HashMap::default();
        let mut made: HashMap<VirtualServerKey, usize> = HashMap::default();
        let mut made_at: HashMap<IpAddr, usize> = HashMap::default();
        let mut unmade: HashMap<VirtualServerKey, usize> = HashMap::default();
        let mut unmade_at: HashMap<IpAddr, Needs> = HashMap::default();
        // The deleted ways inside, by where they led.
        let mut left: HashMap<VirtualServerKey, Needs> = HashMap::default();
        let served: HashSet<IpAddr> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::AddAddress(address) if has_virtual_server(actual, *address) => Some(*address),
                _ => None,
            })
            .collect();
        let mut last: Option<(VirtualServerKey, Option<usize>)> = None;
        let mut steps = Vec::with_capacity(self.steps.len());
        for (index, step) in self.steps.into_iter().enumerate() {
            let needs: Needs = match &step {
                Step::AddVirtualServer(server, _) => said_before.get(server).cloned().unwrap_or_default(),
                // The real servers of one virtual server follow each other.
                Step::AddRealServer(server, ..) => {
                    if last.is_none_or(|(known, _)| known != *server) {
                        last = Some((*server, made.get(server).copied()));
                    }
                    last.and_then(|(_, index)| index).into_iter().collect()
                }
                // One working port is enough. If the first one is refused, the others wait for traffic only until the
                // retry: then the address has a virtual server and needs nothing.
                Step::AddAddress(address) if !served.contains(address) => {
                    made_at.get(address).copied().into_iter().collect()
                }
                Step::AddElement(Element::SharedAddress(address))
                | Step::DeleteElement(
                    Element::ClusterAddress(address)
                    | Element::ExternalAddress(address)
                    | Element::SharedAddress(address),
                ) => unmade_at.get(address).cloned().unwrap_or_default(),
                Step::DeleteElement(Element::Owned(server)) => {
                    unmade.get(server).copied().into_iter().collect()
                }
                Step::DeleteVirtualServer(server) => left.get(server).cloned().unwrap_or_default(),
                _ => Needs::new(),
            };
            match &step {
                Step::AddVirtualServer(server, _) => {
                    made.insert(*server, index);
                    made_at.entry(server.address).or_insert(index);
                }
                Step::DeleteVirtualServer(server) => {
                    unmade.insert(*server, index);
                    unmade_at.entry(server.address).or_default().push(index);
                }
                Step::AddElement(Element::Owned(server) | Element::Restricted(server)) => {
                    said_before.entry(*server).or_default().push(index);
                }
                Step::DeleteElement(way) => {
                    if let Some(to) = way.leads_to() {
                        left.entry(to).or_default().push(index);
                    }
                }
                _ => {}
            }
            steps.push(PlannedStep { phase: phases.phase(&step), step, needs });
        }
        Plan { steps }
    }
}

/// Whether an address already has a virtual server.
pub(super) fn has_virtual_server(actual: &State, address: IpAddr) -> bool {
    actual.virtual_servers_at(address).next().is_some()
}

/// What the phase of a step depends on besides the step itself.
#[derive(Default)]
struct Phases {
    /// The virtual servers that are deleted.
    unmade: HashSet<VirtualServerKey>,
    /// The addresses that become shared with another device.
    shared: HashSet<IpAddr>,
    /// The addresses in `shared` that were not known as service addresses: nothing there is ours because of its
    /// address.
    shared_from_the_start: HashSet<IpAddr>,
    /// The entry points whose clients inside the cluster are sent to a new place, and the phase in which that happens:
    /// the first one in which there is a virtual server to take them.
    rerouted: HashMap<VirtualServerKey, u8>,
    /// The deleted ways inside, by where they lead.
    left: HashMap<VirtualServerKey, Vec<Element>>,
    /// The entry points that additional networks may use from now on.
    opened: HashSet<VirtualServerKey>,
}

impl Phases {
    fn of(steps: &[Step], actual: &State) -> Self {
        let mut phases = Self::default();
        for step in steps {
            match step {
                Step::DeleteVirtualServer(server) => {
                    phases.unmade.insert(*server);
                }
                Step::AddElement(Element::SharedAddress(address)) => {
                    phases.shared.insert(*address);
                    let is_known = [Element::ClusterAddress(*address), Element::ExternalAddress(*address)]
                        .iter()
                        .any(|element| actual.elements.contains(element));
                    if !is_known {
                        phases.shared_from_the_start.insert(*address);
                    }
                }
                Step::AddElement(way @ Element::InCluster(server, ..)) => {
                    let is_served = way.leads_to().is_some_and(|to| actual.serves(&to));
                    phases.rerouted.insert(*server, if is_served { 2 } else { 6 });
                }
                Step::AddElement(Element::Allowed(server, _)) => {
                    phases.opened.insert(*server);
                }
                Step::DeleteElement(way) => {
                    if let Some(to) = way.leads_to() {
                        phases.left.entry(to).or_default().push(*way);
                    }
                }
                _ => {}
            }
        }
        phases
    }

    /// The phase of a step.
    fn phase(&self, step: &Step) -> Phase {
        Phase(match step {
            Step::SetSysctl(..) | Step::AddDevice | Step::SetTimeouts(_) => 0,
            Step::InstallRules(..) => 1,
            Step::AddElement(Element::InCluster(server, ..))
            | Step::DeleteElement(Element::InCluster(server, ..))
                if self.rerouted.contains_key(server) =>
            {
                self.rerouted[server]
            }
            // A way to a virtual server that stays is not urgent: whoever takes it is served.
            Step::DeleteElement(element)
                if element.leads_to().is_some_and(|to| self.unmade.contains(&to)) =>
            {
                7
            }
            // Together with the new networks that these may overlap.
            Step::DeleteElement(Element::Allowed(server, _)) if self.opened.contains(server) => 2,
            // If the virtual server is deleted, its restriction stays until then.
            Step::DeleteElement(Element::Restricted(server) | Element::Allowed(server, _))
                if !self.unmade.contains(server) =>
            {
                2
            }
            Step::AddElement(Element::SharedAddress(address))
                if self.shared_from_the_start.contains(address) =>
            {
                2
            }
            Step::AddElement(Element::SharedAddress(_))
            | Step::DeleteElement(Element::Dropped(_))
            | Step::AddAddress(_)
            | Step::EditAddress(_)
            | Step::AddRoute(_) => 6,
            // Not before clients inside are sent past the entry point, and those that were sent to it are sent
            // elsewhere.
            Step::AddElement(Element::Dropped(server)) => {
                let ways = self.left.get(server).into_iter().flatten();
                let left = ways.map(|way| self.phase(&Step::DeleteElement(*way)).0);
                self.rerouted.get(server).copied().into_iter().chain(left).max().unwrap_or(2)
            }
            Step::AddElement(_) => 2,
            Step::AddVirtualServer(..) | Step::EditVirtualServer(..) => 3,
            Step::EditRealServer(_, _, server) if server.weight == Weight::Exactly(0) => 5,
            Step::AddRealServer(..) | Step::EditRealServer(..) => 4,
            Step::DeleteRealServer(..) => 5,
            Step::DeleteAddress(_) => 7,
            Step::DeleteVirtualServer(server) if self.shared.contains(&server.address) => 5,
            Step::DeleteVirtualServer(_) => 8,
            Step::DeleteElement(_) => 9,
        })
    }
}

/// Lets the real servers of each new virtual server begin with a different one on each node.
///
/// With the scheduler `rr`, the order in which they are added is the order of their turns, and nodes that all began
/// with the same one would send it their first connections together. `seed` is the node's.
pub fn rotate(plan: &mut Plan, seed: u64) {
    let added = |planned: &PlannedStep| match &planned.step {
        Step::AddRealServer(server, ..) => Some(*server),
        _ => None,
    };
    let made: HashSet<VirtualServerKey> = plan
        .steps
        .iter()
        .filter_map(|planned| match &planned.step {
            // Schedulers that hash derive from the order what has to be the same on all nodes.
            Step::AddVirtualServer(key, server) if !server.hashes() => Some(*key),
            _ => None,
        })
        .collect();
    for run in plan.steps.chunk_by_mut(|left, right| added(left).is_some() && added(left) == added(right)) {
        let Some(server) = run.first().and_then(added).filter(|server| made.contains(server)) else {
            continue;
        };
        let mut hasher = std::hash::DefaultHasher::new();
        (seed, server).hash(&mut hasher);
        // The remainder is less than the length.
        let turn = usize::try_from(hasher.finish() % run.len() as u64).unwrap_or(0);
        run.rotate_left(turn);
    }
}

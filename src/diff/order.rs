//! The safe order of steps, and why.
//!
//! | phase | steps | because |
//! |---|---|---|
//! | 0 | sysctls, the device, timeouts | everything else needs them |
//! | 1 | the fixed rules | traffic must not pass before masquerade and refusal stand |
//! | 2 | new elements | hairpin before the real server that needs it; ownership of a virtual server before it exists |
//! | 3 | new and changed virtual servers | |
//! | 4 | new and revived real servers | a Service is never without a server while another one comes |
//! | 5 | weight 0, removed real servers | |
//! | 6 | addresses and routes | they attract traffic: only when there is someone to take it |
//! | 7 | removed addresses | no more traffic, before the one who takes it goes |
//! | 8 | removed virtual servers | |
//! | 9 | removed elements | ownership is given up last: a crash in between leaves nothing that nobody owns |
//!
//! Additions come before deletions throughout.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use super::plan::{Phase, Plan, PlannedStep, Step};
use crate::cluster::types::Family;
use crate::state::{Element, State, VirtualServerKey, Weight};

/// Steps in no order yet.
#[derive(Debug, Default)]
pub(super) struct Draft {
    steps: Vec<Step>,
    /// The families whose table is made anew.
    installed: BTreeSet<Family>,
}

impl Draft {
    pub(super) fn add(&mut self, step: Step) {
        if let Step::InstallRules(family, ..) = step {
            self.installed.insert(family);
        }
        self.steps.push(step);
    }

    /// Whether the draft makes the table of this family anew, and all its elements with it.
    pub(super) fn installs(&self, family: Family) -> bool {
        self.installed.contains(&family)
    }

    /// Puts the steps in order and says which needs which.
    pub(super) fn into_plan(mut self, actual: &State) -> Plan {
        // Stable: inside a phase steps keep the order of the scope.
        self.steps.sort_by_key(phase);
        let mut made: HashMap<VirtualServerKey, usize> = HashMap::new();
        let mut made_at: HashMap<IpAddr, usize> = HashMap::new();
        let mut unmade_at: HashMap<IpAddr, Vec<usize>> = HashMap::new();
        let served: HashSet<IpAddr> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::AddAddress(address) if serves(actual, *address) => Some(*address),
                _ => None,
            })
            .collect();
        let mut steps = Vec::with_capacity(self.steps.len());
        for (index, step) in self.steps.into_iter().enumerate() {
            let needs = match &step {
                Step::AddRealServer(server, ..) => made.get(server).copied().into_iter().collect(),
                // One port that works is enough, and one that is refused must not keep the others from traffic
                // for long: after the retry the address has a virtual server and needs nothing.
                Step::AddAddress(address) if !served.contains(address) => {
                    made_at.get(address).copied().into_iter().collect()
                }
                Step::DeleteElement(Element::ServiceAddress(address)) => {
                    unmade_at.remove(address).unwrap_or_default()
                }
                _ => Vec::new(),
            };
            match &step {
                Step::AddVirtualServer(server, _) => {
                    made.insert(*server, index);
                    made_at.entry(server.address).or_insert(index);
                }
                Step::DeleteVirtualServer(server) => {
                    unmade_at.entry(server.address).or_default().push(index);
                }
                _ => {}
            }
            steps.push(PlannedStep { phase: phase(&step), step, needs });
        }
        Plan { steps }
    }
}

/// Whether an address has a virtual server already.
fn serves(actual: &State, address: IpAddr) -> bool {
    use crate::cluster::types::Protocol::{Sctp, Tcp};
    let first = VirtualServerKey { address, protocol: Tcp, port: 0 };
    let last = VirtualServerKey { address, protocol: Sctp, port: u16::MAX };
    actual.virtual_servers.range(first..=last).next().is_some()
}

/// The phase of a step.
fn phase(step: &Step) -> Phase {
    Phase(match step {
        Step::SetSysctl(..) | Step::AddDevice | Step::SetTimeouts(_) => 0,
        Step::InstallRules(..) => 1,
        Step::AddElement(_) => 2,
        Step::AddVirtualServer(..) | Step::EditVirtualServer(..) => 3,
        Step::EditRealServer(_, _, server) if server.weight == Weight::Exactly(0) => 5,
        Step::AddRealServer(..) | Step::EditRealServer(..) => 4,
        Step::DeleteRealServer(..) => 5,
        Step::AddAddress(_) | Step::EditAddress(_) | Step::AddRoute(_) => 6,
        Step::DeleteAddress(_) => 7,
        Step::DeleteVirtualServer(_) => 8,
        Step::DeleteElement(_) => 9,
    })
}

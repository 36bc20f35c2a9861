//! Addresses that somebody else has, too: told together, since one mistake is about many of them, and each start tells again.

use super::{NAMED, named};
use crate::desired::Shared;
use crate::desired::claims::Conflict;
use crate::reconcile::note::Owner;

/// What is to be known where a device has cluster IPs.
const NOT_ASKED: &str = "the Service is served there, and who listens on the Service's port (as a NodeLocal DNSCache may) is not asked; let \
                         it listen on an address of its own only";

/// What was found by now.
#[derive(Default)]
pub(in crate::app) struct Contested {
    /// Virtual servers that two Services claim.
    pub(in crate::app) conflicts: Vec<Conflict>,
    /// Service addresses that are not put on our device.
    pub(in crate::app) shared: Vec<(Shared, Owner)>,
}

impl Contested {
    /// Writes all of it to the log.
    pub(in crate::app) fn tell(self) {
        tell_conflicts(&self.conflicts);
        let of = |owner: fn(&Owner) -> bool| -> Vec<&(Shared, Owner)> {
            self.shared.iter().filter(|(_, found)| owner(found)).collect()
        };
        tell_shared(&of(|owner| matches!(owner, Owner::Node)));
        tell_shared(&of(|owner| matches!(owner, Owner::NodeObject)));
        tell_shared(&of(|owner| matches!(owner, Owner::OtherNode(_))));
        tell_shared(&of(|owner| matches!(owner, Owner::Device)));
        tell_shared(&of(|owner| matches!(owner, Owner::DeviceOfClusterIp)));
    }
}

fn tell_conflicts(conflicts: &[Conflict]) {
    if conflicts.len() > NAMED {
        tracing::warn!(
            count = conflicts.len(),
            services = named(conflicts.iter().map(|conflict| &conflict.loser)),
            virtual_servers = named(conflicts.iter().map(|conflict| &conflict.server)),
            winners = named(conflicts.iter().map(|conflict| &conflict.winner)),
            "Some Services ask for an address, protocol and port that older Services already have; the older ones keep them"
        );
        return;
    }
    for conflict in conflicts {
        tracing::warn!(
            service = %conflict.loser,
            virtual_server = %conflict.server,
            winner = %conflict.winner,
            "Two Services claim one address, protocol and port; the older one has it"
        );
    }
}

/// Says that service addresses are not put on our device, and why: for all of them it is the same.
fn tell_shared(shared: &[&(Shared, Owner)]) {
    if shared.len() > NAMED {
        let services = named(shared.iter().map(|(shared, _)| &shared.service));
        let addresses = named(shared.iter().map(|(shared, _)| shared.address));
        let count = shared.len();
        match shared[0].1 {
            Owner::Node => tracing::warn!(
                count,
                services,
                addresses,
                "Service addresses are this node's own: the Services' ports there are served, the others stay the node's"
            ),
            Owner::NodeObject => tracing::warn!(
                count,
                services,
                addresses,
                "Service addresses are this node's own by the Node object, and no device has them: pods and the node reach \
                 the Services' ports there, who else does is up to those who translate them"
            ),
            Owner::OtherNode(_) => {
                let nodes = named(shared.iter().filter_map(|(_, owner)| match owner {
                    Owner::OtherNode(node) => Some(node),
                    _ => None,
                }));
                tracing::warn!(
                    count,
                    services,
                    addresses,
                    nodes,
                    "Service addresses are other nodes': they are left to those nodes"
                );
            }
            Owner::Device => tracing::info!(
                count,
                services,
                addresses,
                "Another device has service addresses: they are served, and not put on kube-ipvs0"
            ),
            Owner::DeviceOfClusterIp => {
                tracing::warn!(count, services, addresses, "Another device has cluster IPs: {NOT_ASKED}");
            }
        }
        return;
    }
    for (Shared { service, address }, owner) in shared {
        match owner {
            Owner::Node => tracing::warn!(
                %service, %address,
                "A service address is this node's own: the Service's ports there are served, the others stay the node's"
            ),
            Owner::NodeObject => tracing::warn!(
                %service, %address,
                "A service address is this node's own by the Node object, and no device has it: pods and the node reach \
                 the Service's ports there, who else does is up to those who translate it"
            ),
            Owner::OtherNode(node) => tracing::warn!(
                %service, %address, %node,
                "A service address is another node's: it is left to that node"
            ),
            Owner::Device => tracing::info!(
                %service, %address,
                "Another device has a service address: it is served, and not put on kube-ipvs0"
            ),
            Owner::DeviceOfClusterIp => {
                tracing::warn!(%service, %address, "Another device has a cluster IP: {NOT_ASKED}");
            }
        }
    }
}

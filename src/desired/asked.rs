//! What a Service asks for, whether it is granted or not: explanations for people.

use std::collections::BTreeMap;

pub use super::entry_points::Role;
use super::{Claim, Desired};
use super::{entry_points, ways_inside};
use crate::cluster::topology::Place;
use crate::cluster::types::{Policy, Service, ServiceKey};
use crate::state::{Element, Key, State, VirtualServer, VirtualServerKey};

/// What a Service asks for at one entry point.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The entry point.
    pub server: VirtualServerKey,
    /// What kind of entry point it is, and which endpoints it leads to. `None`: the Service's newest facts, which have
    /// not been looked at yet, no longer have this entry point.
    pub kind: Option<(Role, Policy)>,
    /// The Service whose claim is granted.
    pub owner: &'a ServiceKey,
    /// The virtual server that this Service asks for, as in [`Desired::select`].
    pub wanted: &'a VirtualServer,
    /// The elements about the entry point that this Service asks for, in order.
    pub elements: &'a [Element],
}

impl Desired {
    /// What a Service asks for at its entry points, in order; `None` if the Service has not been looked at yet.
    pub fn asked<'a>(&'a self, service: &Service) -> Option<Vec<Asked<'a>>> {
        let claims = self.claims.entry_points_of(&service.key)?;
        let service = &*self.served(service);
        let mut kinds = BTreeMap::new();
        for &cluster_ip in &service.cluster_ips {
            for (port, inside) in ways_inside::of(service, cluster_ip, &self.node) {
                let node_ports = self.node.node_port_addresses.iter().copied();
                for point in entry_points::of(service, port, cluster_ip, inside, node_ports) {
                    kinds.entry(point.server).or_insert((point.role, point.policy));
                }
            }
        }
        let asked = |(server, claim): &'a (VirtualServerKey, Claim)| {
            Some(Asked {
                server: *server,
                kind: kinds.get(server).copied(),
                owner: self.claims.owner(server)?,
                wanted: &claim.server,
                elements: &claim.elements,
            })
        };
        Some(claims.iter().filter_map(asked).collect())
    }

    /// All Services that claim a virtual server, starting with the one that has it.
    pub fn claimants(&self, server: &VirtualServerKey) -> impl Iterator<Item = &ServiceKey> {
        self.claims.claimants(server)
    }

    /// Whether a state has the wanted value of a setting.
    pub fn has_setting(&self, actual: &State, key: &Key) -> bool {
        self.settings.same(actual, key)
    }

    /// This node's place in the cluster.
    pub fn place(&self) -> Place<'_> {
        self.node.place()
    }
}

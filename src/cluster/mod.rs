//! Events → facts.
//!
//! [`Cluster`] is a fold over the events of all sources: the last known Services, EndpointSlices and own Node. It says
//! which Services an event concerns, not what to do about them. Pure: no clock, no I/O.

pub mod endpoints;
#[cfg(test)]
pub(crate) mod examples;
pub mod local;
pub mod node_ips;
pub(crate) mod room;
pub mod topology;
pub mod types;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use smallvec::SmallVec;

use crate::api::{Change, Event};
use types::{EndpointSlice, Node, NodeAddresses, Service, ServiceKey, SliceKey};

/// The Services that an event concerns: those whose facts may have changed.
pub type Touched = BTreeSet<ServiceKey>;

/// What is known of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    services: HashMap<ServiceKey, Service>,
    slices: HashMap<SliceKey, EndpointSlice>,
    /// The slices of each Service, whether the Service is known (yet) or not. Sorted, so that what is made of them does
    /// not depend on the order of events. Never holds an empty list. (Nearly all Services have one slice, for which a
    /// tree would take ten times the memory.)
    slices_of: HashMap<ServiceKey, SmallVec<[SliceKey; 1]>>,
    node: Option<Node>,
    node_addresses: NodeAddresses,
    /// The addresses of the other nodes, if those are watched.
    other_nodes: HashMap<Arc<str>, Vec<IpAddr>>,
    /// The complete sets that have not arrived yet.
    awaited: Awaited,
}

/// Complete sets that have not arrived yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Awaited(BTreeSet<Set>);

/// A complete set of facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Set {
    Services,
    Slices,
    Node,
    OtherNodes,
}

impl Default for Awaited {
    fn default() -> Self {
        Self([Set::Services, Set::Slices, Set::Node].into())
    }
}

impl Cluster {
    /// An empty cluster that is complete only once its other nodes have arrived too.
    pub fn with_other_nodes() -> Self {
        let mut cluster = Self::default();
        cluster.awaited.0.insert(Set::OtherNodes);
        cluster
    }

    /// Takes in an event and returns the Services that it concerns: none if the event changes nothing.
    pub fn apply(&mut self, event: Event) -> Touched {
        let mut touched = Touched::new();
        match event {
            Event::Service(Change::Upsert(service)) => self.put_service(service, &mut touched),
            Event::Service(Change::Delete(key)) => self.remove_service(key, &mut touched),
            Event::Service(Change::Replace(services)) => {
                let kept: HashSet<_> = services.iter().map(|service| &service.key).collect();
                let gone: Vec<_> = self.services.keys().filter(|key| !kept.contains(key)).cloned().collect();
                for key in gone {
                    self.remove_service(key, &mut touched);
                }
                self.services.reserve(services.len().saturating_sub(self.services.len()));
                for service in services {
                    self.put_service(service, &mut touched);
                }
                self.awaited.0.remove(&Set::Services);
            }
            Event::Slice(Change::Upsert(slice)) => self.put_slice(slice, &mut touched),
            Event::Slice(Change::Delete(key)) => self.remove_slice(&key, &mut touched),
            Event::Slice(Change::Replace(slices)) => {
                let kept: HashSet<_> = slices.iter().map(|slice| &slice.key).collect();
                let gone: Vec<_> = self.slices.keys().filter(|key| !kept.contains(key)).cloned().collect();
                for key in gone {
                    self.remove_slice(&key, &mut touched);
                }
                let more = slices.len().saturating_sub(self.slices.len());
                self.slices.reserve(more);
                self.slices_of.reserve(more);
                for slice in slices {
                    self.put_slice(slice, &mut touched);
                }
                self.awaited.0.remove(&Set::Slices);
            }
            Event::Node(Change::Upsert(node)) => self.node = Some(node),
            Event::Node(Change::Delete(_)) => self.node = None,
            Event::Node(Change::Replace(nodes)) => {
                self.node = nodes.into_iter().next();
                self.awaited.0.remove(&Set::Node);
            }
            Event::OtherNode(Change::Upsert(node)) => {
                self.other_nodes.insert(node.name, node.addresses);
            }
            Event::OtherNode(Change::Delete(name)) => {
                self.other_nodes.remove(&name);
            }
            Event::OtherNode(Change::Replace(nodes)) => {
                self.other_nodes = nodes.into_iter().map(|node| (node.name, node.addresses)).collect();
                self.awaited.0.remove(&Set::OtherNodes);
            }
            Event::NodeAddresses(addresses) => self.node_addresses = addresses,
        }
        touched
    }

    /// Whether the complete sets of Services and of EndpointSlices have arrived (and of other nodes, if those are
    /// watched), and either the own Node or the news that there is none.
    ///
    /// Until then the facts are only part of the truth, and nothing may be withdrawn because of them: without the
    /// node's zone, for example, every endpoint would be wanted.
    pub fn is_complete(&self) -> bool {
        self.awaited.0.is_empty()
    }

    /// Gives up room that a larger cluster once needed.
    pub fn give_up_room(&mut self) {
        room::give_up(&mut self.services);
        room::give_up(&mut self.slices);
        room::give_up(&mut self.slices_of);
        room::give_up(&mut self.other_nodes);
    }

    /// All Services, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// The Service of this name.
    pub fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)
    }

    /// The slices of a Service, ordered by name.
    pub fn slices(&self, service: &ServiceKey) -> impl Iterator<Item = &EndpointSlice> {
        self.slices_of.get(service).into_iter().flatten().map(|key| &self.slices[key])
    }

    /// How many EndpointSlices there are.
    pub fn slice_count(&self) -> usize {
        self.slices.len()
    }

    /// How many Services there are.
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// The own Node, if it was seen.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// The other nodes with their addresses, if those nodes are watched.
    pub fn other_nodes(&self) -> impl Iterator<Item = (&Arc<str>, &[IpAddr])> {
        self.other_nodes.iter().map(|(name, addresses)| (name, addresses.as_slice()))
    }

    /// The addresses of another node, if it was seen.
    pub fn other_node(&self, name: &str) -> Option<&[IpAddr]> {
        self.other_nodes.get(name).map(Vec::as_slice)
    }

    /// The addresses of this node. They are reported before anything else: see `crate::app`.
    pub fn node_addresses(&self) -> &NodeAddresses {
        &self.node_addresses
    }

    fn put_service(&mut self, mut service: Service, touched: &mut Touched) {
        if let Some(known) = self.services.get_mut(&service.key) {
            if *known != service {
                service.key = known.key.clone();
                touched.insert(service.key.clone());
                *known = service;
            }
            return;
        }
        service.key = self.known_key(service.key);
        touched.insert(service.key.clone());
        self.services.insert(service.key.clone(), service);
    }

    fn remove_service(&mut self, key: ServiceKey, touched: &mut Touched) {
        if self.services.remove(&key).is_some() {
            touched.insert(key);
        }
    }

    fn put_slice(&mut self, mut slice: EndpointSlice, touched: &mut Touched) {
        slice.settle();
        if let Some(known) = self.slices.get_mut(&slice.key)
            && known.service == slice.service
        {
            if *known != slice {
                (slice.key, slice.service) = (known.key.clone(), known.service.clone());
                touched.insert(slice.service.clone());
                *known = slice;
            }
            return;
        }
        // The slice's label may have named another Service before.
        self.remove_slice(&slice.key, touched);
        slice.service = self.known_key(slice.service);
        touched.insert(slice.service.clone());
        let keys = self.slices_of.entry(slice.service.clone()).or_default();
        if let Err(index) = keys.binary_search(&slice.key) {
            keys.insert(index, slice.key.clone());
        }
        self.slices.insert(slice.key.clone(), slice);
    }

    /// The key as it is already held, if it is, so that a Service and its slices share one text.
    fn known_key(&self, key: ServiceKey) -> ServiceKey {
        let of_service = self.services.get_key_value(&key).map(|(known, _)| known);
        let of_slices = || self.slices_of.get_key_value(&key).map(|(known, _)| known);
        of_service.or_else(of_slices).cloned().unwrap_or(key)
    }

    fn remove_slice(&mut self, key: &SliceKey, touched: &mut Touched) {
        let Some(slice) = self.slices.remove(key) else { return };
        if let Some(keys) = self.slices_of.get_mut(&slice.service) {
            keys.retain(|known| known != key);
            if keys.is_empty() {
                self.slices_of.remove(&slice.service);
            }
        }
        touched.insert(slice.service);
    }
}

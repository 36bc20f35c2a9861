//! Facts → the kernel state we want.
//!
//! What each Service asks for (`virtual_servers`, `filter`, and its addresses) becomes claims on keys of the kernel's
//! state ([`claims`]). An update looks only at the touched Services and returns the keys whose wanted value may have
//! changed. Pure: no clock, no I/O.

pub mod asked;
pub mod claims;
mod entry_points;
mod filter;
pub(crate) mod node;
pub mod settings;
mod sysctls;
#[cfg(test)]
mod tests;
mod virtual_servers;
mod ways_inside;

use std::borrow::Cow;
use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::cluster::endpoints::InSlices;
use crate::cluster::types::{External, Family, Policy, Service, ServiceKey};
use crate::cluster::{Cluster, Touched, endpoints, topology};
use crate::options::ProxyOptions;
use crate::state::{
    Address, Element, Key, RealServerKey, Rules, Scope, State, VirtualServer, VirtualServerKey,
};
use claims::{Claim, Claims, Conflict, Request};
use node::{Holder, NodeFacts};

/// The kernel state that the cluster asks for.
#[derive(Clone, Debug)]
pub struct Desired {
    options: ProxyOptions,
    /// What the kernel can do. What a Service asks for in a family that the kernel does not support is not wanted.
    supported: settings::Supported,
    node: NodeFacts,
    /// The wanted values that do not depend on any Service.
    settings: State,
    claims: Claims,
}

/// What an update changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// The keys whose wanted value may have changed, grouped by touched Service but otherwise in no particular order; a
    /// key may come several times.
    pub scope: Vec<Key>,
    /// Where in the scope the keys of each touched Service end, in the order of the Services.
    pub until: Vec<usize>,
    /// Services that do not get what they ask for, because another one comes first and has it. New conflicts only.
    pub conflicts: Vec<Conflict>,
    /// Addresses that are not put on the device, because the node has them elsewhere or another node has them. New ones
    /// only.
    pub shared: Vec<Shared>,
}

/// A service address that another device of the node has, or that a Node object lists as its node's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The Service that has the address.
    pub service: ServiceKey,
    /// The address.
    pub address: IpAddr,
}

impl Desired {
    /// What is wanted before any object is known: settings and empty tables. `supported` says which settings this
    /// kernel accepts: see [`settings::Supported`].
    pub fn new(options: ProxyOptions, node_name: Arc<str>, supported: settings::Supported) -> Self {
        let node = NodeFacts { name: node_name, ..NodeFacts::default() };
        let settings = settings::wanted(&options, &supported, &node);
        Self { options, supported, node, settings, claims: Claims::default() }
    }

    /// The number of virtual servers that Services do not get because another Service has them, and the number of
    /// addresses not put on the device because the node has them elsewhere or another node has them. Both are counted
    /// at each Service concerned.
    pub fn contested(&self) -> (usize, usize) {
        (self.claims.lost, self.claims.shared)
    }

    /// Gives up room that a larger cluster once needed.
    pub fn give_up_room(&mut self) {
        self.claims.give_up_room();
    }

    /// Looks at the touched Services again.
    pub fn update(&mut self, cluster: &Cluster, touched: &Touched) -> Update {
        let mut update = Update::default();
        for key in touched {
            let request = cluster.service(key).map(|service| self.request(cluster, service));
            self.claims.put(key, request, &mut update);
            update.until.push(update.scope.len());
        }
        self.claims.settle(&mut update.conflicts);
        update
    }

    /// Looks at this node again. Returns the settings whose wanted value may have changed, and the Services that are
    /// touched.
    pub fn look_at_node(&mut self, cluster: &Cluster) -> (Vec<Key>, Touched) {
        let node = NodeFacts::of(self.node.name.clone(), cluster, &self.options);
        let old = std::mem::replace(&mut self.node, node);
        let new = &self.node;
        if old == *new {
            return (Vec::new(), Touched::new());
        }
        let settings = settings::wanted(&self.options, &self.supported, new);
        let old_settings = std::mem::replace(&mut self.settings, settings);
        let changed = |key: &Key| !old_settings.same(&self.settings, key);
        let scope: Vec<Key> = old_settings.keys().chain(self.settings.keys()).filter(changed).collect();

        let mut touched = Touched::new();
        for address in old.moved(new).chain(new.moved(&old)) {
            touched.extend(self.claims.services_at(address).cloned());
        }
        // Nodes change zones too rarely to justify an index of the Services that have hints.
        let moved = old.zone != new.zone;
        let other_ports = old.node_port_addresses != new.node_port_addresses;
        let other_ranges = other_ports || old.ips != new.ips;
        let knows_pods =
            |node: &NodeFacts| Family::ALL.map(|family| node.inside(&self.options, family).is_some());
        let other_pods = knows_pods(&old) != knows_pods(new);
        if moved || other_ranges || other_pods {
            let concerned = cluster.services().filter(|service| {
                let external = service.external.as_deref();
                moved && endpoints::have_hints(cluster, service)
                    || other_ports && service.ports.iter().any(|port| port.node_port.is_some())
                    || other_ranges && external.is_some_and(|external| !external.source_ranges.is_empty())
                    || other_pods && external.is_some_and(|external| external.policy == Policy::Local)
            });
            touched.extend(concerned.map(|service| service.key.clone()));
        }
        (scope, touched)
    }

    /// All keys that have a wanted value; a key may come several times.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.settings.keys().chain(self.claims.keys())
    }

    /// The keys of the settings, which do not depend on any object. A key may come several times.
    pub fn setting_keys(&self) -> Vec<Key> {
        self.settings.keys().collect()
    }

    /// Whether these tables stay: none of them has to be replaced, be it for other settings or because it was altered.
    pub fn keeps(&self, rules: &BTreeMap<Family, Rules>) -> bool {
        rules
            .iter()
            .all(|(family, rules)| self.settings.rules.get(family).is_none_or(|wanted| wanted == rules))
    }

    /// Whether a key is wanted.
    pub fn wants(&self, key: &Key) -> bool {
        self.settings.contains(key) || self.claims.contains(key)
    }

    /// Which of these endpoints, given in order, are in the slices of the Service that has the virtual server, whatever
    /// their condition.
    pub fn endpoints_among(
        &self,
        slices: &mut InSlices<'_>,
        server: &VirtualServerKey,
        real_servers: &[RealServerKey],
    ) -> BTreeSet<RealServerKey> {
        match self.owner(server) {
            Some(service) => slices.among(service, server.protocol, real_servers),
            None => BTreeSet::new(),
        }
    }

    /// The wanted values of the keys in a scope, as a state.
    ///
    /// If the scope has the rules of a family, the state has all elements of that family: a table is made with all its
    /// elements. A virtual server is included even if it has no usable endpoints; whether it is made is decided with
    /// its draining servers in view ([`crate::reconcile::drain`]).
    pub fn select(&self, scope: &Scope) -> State {
        let mut state = State::default();
        // These come in order, so the tree is built in one go at the end.
        let mut virtual_servers = Vec::new();
        for key in scope {
            match key {
                Key::Device => state.device = self.settings.device,
                Key::Sysctl(sysctl) => {
                    if let Some(value) = self.settings.sysctls.get(sysctl) {
                        state.sysctls.insert(*sysctl, value.clone());
                    }
                }
                Key::Timeouts => state.timeouts = self.settings.timeouts,
                Key::Rules(family) => {
                    if let Some(rules) = self.settings.rules.get(family) {
                        state.rules.insert(*family, rules.clone());
                        let of_node = self.settings.elements.iter().copied();
                        state.elements.extend(of_node.filter(|element| element.family() == *family));
                        state.elements.extend(self.claims.elements(*family));
                    }
                }
                Key::Element(element) => {
                    if self.wants(key) {
                        state.elements.insert(*element);
                    }
                }
                Key::VirtualServer(server) => {
                    if let Some(value) = self.claims.virtual_server(server) {
                        virtual_servers.push((*server, value.clone()));
                    }
                }
                Key::Address(address) => {
                    if self.claims.contains(key) {
                        state.addresses.insert(*address, Address::wanted(*address));
                    }
                }
            }
        }
        state.virtual_servers = virtual_servers.into_iter().collect();
        state
    }

    /// The wanted virtual server of this key, as in [`Desired::select`].
    pub fn virtual_server(&self, key: &VirtualServerKey) -> Option<&VirtualServer> {
        self.claims.virtual_server(key)
    }

    /// The Service whose claim on this virtual server is granted.
    pub fn owner(&self, server: &VirtualServerKey) -> Option<&ServiceKey> {
        self.claims.owner(server)
    }

    /// The Services that ask for something about an address besides virtual servers.
    pub fn services_at(&self, address: IpAddr) -> impl Iterator<Item = &ServiceKey> {
        self.claims.services_at(address)
    }

    /// The virtual servers that a Service asks for.
    pub fn virtual_servers_of(&self, service: &ServiceKey) -> impl Iterator<Item = VirtualServerKey> {
        self.claims.virtual_servers_of(service)
    }

    /// The keys that a Service asks for.
    pub fn keys_of(&self, service: &ServiceKey) -> Scope {
        self.claims.keys_of(service)
    }

    /// The Service as it is served: without its external IPs if those are switched off
    /// ([`ProxyOptions::external_ips`]). Its other external entry points keep their policy.
    pub fn served<'a>(&self, service: &'a Service) -> Cow<'a, Service> {
        let is_switched_off =
            |external: &&External| !self.options.external_ips && !external.external_ips.is_empty();
        let Some(external) = service.external.as_deref().filter(is_switched_off) else {
            return Cow::Borrowed(service);
        };
        let external = External { external_ips: Vec::new(), ..external.clone() };
        Cow::Owned(Service { external: Some(Box::new(external)), ..service.clone() })
    }

    /// Everything that one Service asks for. It asks for nothing in a family in which it has no cluster IP.
    fn request(&self, cluster: &Cluster, service: &Service) -> Request {
        let service = &*self.served(service);
        let mut request = Request { created_seconds: service.created_seconds, ..Request::default() };
        let known = |address: &&IpAddr| self.supported.families.contains(&Family::of(**address));
        for &cluster_ip in service.cluster_ips.iter().filter(known) {
            let family = Family::of(cluster_ip);
            let holder = self.node.holder(&cluster_ip, false);
            put_address(Element::ClusterAddress(cluster_ip), cluster_ip, holder, &mut request);
            if let Some(external) = &service.external {
                let addresses = external.load_balancer_ips.iter().chain(&external.external_ips);
                for address in addresses.copied().filter(|address| Family::of(*address) == family) {
                    let holder = self.node.holder(&address, true);
                    put_address(Element::ExternalAddress(address), address, holder, &mut request);
                    if holder != Some(Holder::OtherNode) {
                        request.elements.extend(filter::of_health_checks(external, address));
                    }
                }
            }
            request.elements.extend(filter::hairpins(cluster, service, family, &self.node));
            for (port, inside) in ways_inside::of(service, cluster_ip, &self.node) {
                let chosen = topology::endpoints(cluster, service, port, family, self.node.place());
                // The entry points of a port share their real servers.
                let of_cluster = LazyCell::new(|| virtual_servers::real_servers(&chosen.cluster));
                let of_node = LazyCell::new(|| virtual_servers::real_servers(&chosen.local));
                let node_ports = self.node.node_port_addresses.iter().copied();
                let points = entry_points::of(service, port, cluster_ip, inside, node_ports);
                for point in points.filter(|point| !self.node.leaves(point)) {
                    let leads = self.node.leads(point, &chosen, &self.options);
                    let real_servers = match leads {
                        Policy::Cluster => of_cluster.clone(),
                        Policy::Local => of_node.clone(),
                    };
                    let claim = Claim {
                        role: point.role,
                        server: virtual_servers::of_entry_point(service, point, real_servers, &self.options),
                        elements: filter::of_entry_point(service, inside, point, leads, &chosen, &self.node),
                    };
                    request.entry_points.push((point.server, claim));
                }
            }
        }
        request.settled()
    }
}

/// Asks for an address of a Service: on the device, unless somebody else has it. `element`: what else the address
/// needs.
fn put_address(element: Element, address: IpAddr, holder: Option<Holder>, request: &mut Request) {
    match holder {
        None => request.addresses.push(address),
        Some(_) => request.elements.push(Element::SharedAddress(address)),
    }
    if holder != Some(Holder::OtherNode) {
        request.elements.push(element);
    }
}

//! Facts → the kernel state we want.
//!
//! What each Service asks for ([`virtual_servers`], [`filter`], and its addresses) becomes claims on keys of the kernel's
//! state ([`claims`]). An update looks at the touched Services only, and says which keys may have another wanted
//! value now. Pure: no clock, no I/O.

pub mod claims;
pub mod filter;
pub mod settings;
pub mod virtual_servers;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cluster::types::{Family, Service, ServiceKey};
use crate::cluster::{Cluster, Touched};
use crate::options::ProxyOptions;
use crate::state::{Address, Key, Scope, State, VirtualServerKey};
use claims::{Claims, Conflict, Request};

/// The kernel state that the cluster asks for.
#[derive(Clone, Debug)]
pub struct Desired {
    options: ProxyOptions,
    node_name: Arc<str>,
    /// The families that the kernel knows; what a Service asks for in another one is not wanted.
    families: BTreeSet<Family>,
    /// What does not depend on any object.
    settings: State,
    claims: Claims,
}

/// What an update changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// The keys whose wanted value may have changed.
    pub scope: Scope,
    /// Services that do not get what they ask for, because an older one has it. Only those that are new.
    pub conflicts: Vec<Conflict>,
}

impl Desired {
    /// What is wanted before any object is known: settings and empty tables. `supported` says which settings this
    /// kernel takes: see [`settings::Supported`].
    pub fn new(options: ProxyOptions, node_name: Arc<str>, supported: settings::Supported) -> Self {
        let settings = settings::wanted(&options, &supported);
        Self { options, node_name, families: supported.families, settings, claims: Claims::default() }
    }

    /// Looks at the touched Services again.
    pub fn update(&mut self, cluster: &Cluster, touched: &Touched) -> Update {
        let mut update = Update::default();
        for key in touched {
            let request = cluster.service(key).map(|service| self.request(cluster, service));
            self.claims.put(key, request, &mut update);
        }
        update
    }

    /// All keys that have a wanted value.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.settings.keys().chain(self.claims.keys().cloned())
    }

    /// The keys of the settings: what does not depend on any object.
    pub fn setting_keys(&self) -> Scope {
        self.settings.keys().collect()
    }

    /// Whether a key is wanted.
    pub fn wants(&self, key: &Key) -> bool {
        self.settings.contains(key) || self.claims.contains(key)
    }

    /// The wanted values of the keys in a scope, as a state. Where the scope has the rules of a family, all elements
    /// of that family are in the answer: a table is made with all its elements. A virtual server is there even if no
    /// endpoint of it is usable; whether it is made is decided with the servers that drain in view
    /// ([`crate::reconcile::drain`]).
    pub fn select(&self, scope: &Scope) -> State {
        let mut state = State::default();
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
                        state.elements.extend(self.claims.elements(*family));
                    }
                }
                Key::Element(element) => {
                    if self.claims.contains(key) {
                        state.elements.insert(*element);
                    }
                }
                Key::VirtualServer(server) => {
                    if let Some(value) = self.claims.virtual_server(server) {
                        state.virtual_servers.insert(*server, value.clone());
                    }
                }
                Key::Address(address) => {
                    if self.claims.contains(key) {
                        state.addresses.insert(*address, Address::wanted(*address));
                    }
                }
            }
        }
        state
    }

    /// The Service whose wish for this virtual server is granted.
    pub fn owner(&self, server: &VirtualServerKey) -> Option<&ServiceKey> {
        self.claims.owner(&Key::VirtualServer(*server))
    }

    /// The keys that a Service asks for.
    pub fn keys_of(&self, service: &ServiceKey) -> Scope {
        self.claims.keys_of(service)
    }

    /// Everything that one Service asks for.
    fn request(&self, cluster: &Cluster, service: &Service) -> Request {
        let addresses: Vec<_> = service
            .cluster_ips
            .iter()
            .copied()
            .filter(|address| self.families.contains(&Family::of(*address)))
            .collect();
        Request {
            created_seconds: service.created_seconds,
            virtual_servers: virtual_servers::of(cluster, service, &addresses, &self.options),
            elements: filter::of(cluster, service, &addresses, &self.node_name),
            addresses: addresses.into_iter().collect(),
        }
    }
}

//! Who claims which key.
//!
//! Several Services may ask for one key: an endpoint of two Services, or two Services with one address and port. What
//! is wanted is what the first claimant asks for: the older one, then by namespace and name. A change touches every
//! claimant of its keys, so that the next one takes over when the winner goes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::Update;
use crate::cluster::types::{Family, ServiceKey};
use crate::state::{Element, Key, Scope, VirtualServer, VirtualServerKey};

/// Everything that one Service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// When the Service was created.
    pub(super) created_seconds: i64,
    /// Its virtual servers.
    pub(super) virtual_servers: BTreeMap<VirtualServerKey, VirtualServer>,
    /// Its addresses on the device.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Its elements of nftables sets.
    pub(super) elements: BTreeSet<Element>,
}

impl Request {
    fn keys(&self) -> impl Iterator<Item = Key> {
        let servers = self.virtual_servers.keys().map(|server| Key::VirtualServer(*server));
        let addresses = self.addresses.iter().map(|address| Key::Address(*address));
        let elements = self.elements.iter().map(|element| Key::Element(*element));
        elements.chain(servers).chain(addresses)
    }

    /// Whether both ask the same of this key.
    fn same(&self, other: &Self, key: &Key) -> bool {
        match key {
            Key::VirtualServer(server) => {
                self.virtual_servers.get(server) == other.virtual_servers.get(server)
            }
            Key::Address(address) => self.addresses.contains(address) == other.addresses.contains(address),
            Key::Element(element) => self.elements.contains(element) == other.elements.contains(element),
            Key::Device | Key::Sysctl(_) | Key::Timeouts | Key::Rules(_) => true,
        }
    }
}

/// A Service that does not get a virtual server because an older one has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What both ask for.
    pub server: VirtualServerKey,
    /// Who has it.
    pub winner: ServiceKey,
    /// Who does not.
    pub loser: ServiceKey,
}

/// The first in order has the key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    created_seconds: i64,
    service: ServiceKey,
}

/// All claims.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    requests: HashMap<ServiceKey, Request>,
    /// Never holds an empty set.
    claimants: BTreeMap<Key, BTreeSet<Claimant>>,
}

impl Claims {
    /// Replaces what a Service asks for; `None`: it is gone. Adds the keys that this may change to the update.
    pub(super) fn put(&mut self, service: &ServiceKey, request: Option<Request>, update: &mut Update) {
        let old = self.requests.remove(service);
        if old == request {
            self.requests.extend(request.map(|request| (service.clone(), request)));
            return;
        }
        let old = old.unwrap_or_default();
        let claimant = |request: &Request| Claimant {
            created_seconds: request.created_seconds,
            service: service.clone(),
        };
        let new = request.as_ref();
        let moved = new.is_some_and(|new| new.created_seconds != old.created_seconds);
        for key in old.keys() {
            let kept = new.is_some_and(|new| new.keys_contain(&key));
            if kept && !moved {
                continue;
            }
            if let Some(claimants) = self.claimants.get_mut(&key) {
                claimants.remove(&claimant(&old));
                if claimants.is_empty() {
                    self.claimants.remove(&key);
                }
            }
            update.scope.insert(key);
        }
        if let Some(request) = request {
            for key in request.keys() {
                let claimants = self.claimants.entry(key.clone()).or_default();
                let new = claimants.insert(claimant(&request));
                if let (true, Key::VirtualServer(server), Some(first)) = (new, &key, claimants.first())
                    && first.service != *service
                {
                    update.conflicts.push(Conflict {
                        server: *server,
                        winner: first.service.clone(),
                        loser: service.clone(),
                    });
                }
                if new || !request.same(&old, &key) {
                    update.scope.insert(key);
                }
            }
            self.requests.insert(service.clone(), request);
        }
    }

    /// Whether anyone claims the key.
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.claimants.contains_key(key)
    }

    /// All claimed keys, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.claimants.keys()
    }

    /// What the winner asks for.
    pub(super) fn virtual_server(&self, server: &VirtualServerKey) -> Option<&VirtualServer> {
        let owner = self.owner(&Key::VirtualServer(*server))?;
        self.requests[owner].virtual_servers.get(server)
    }

    /// The claimed elements of one family.
    pub(super) fn elements(&self, family: Family) -> impl Iterator<Item = Element> {
        self.claimants.keys().filter_map(move |key| match key {
            Key::Element(element) if element.family() == family => Some(*element),
            _ => None,
        })
    }

    /// The winner of a key.
    pub(super) fn owner(&self, key: &Key) -> Option<&ServiceKey> {
        Some(&self.claimants.get(key)?.first()?.service)
    }

    /// The keys that a Service claims.
    pub(super) fn keys_of(&self, service: &ServiceKey) -> Scope {
        self.requests.get(service).into_iter().flat_map(Request::keys).collect()
    }
}

impl Request {
    fn keys_contain(&self, key: &Key) -> bool {
        match key {
            Key::VirtualServer(server) => self.virtual_servers.contains_key(server),
            Key::Address(address) => self.addresses.contains(address),
            Key::Element(element) => self.elements.contains(element),
            Key::Device | Key::Sysctl(_) | Key::Timeouts | Key::Rules(_) => false,
        }
    }
}

//! Which Service claims which key.
//!
//! Several Services may ask for one key: an endpoint may belong to two Services, or two Services may have the same
//! address and port. The first claimant in order gets what it asks for. Claimants are ordered by the [`Role`] in which
//! they have the address, so that nobody, however old their Service, gets another Service's cluster IP by calling it an
//! external IP; then by age, the older one first; then by namespace and name.
//!
//! A change touches every claimant of its keys, so that the next one takes over when the winner goes. Elements about an
//! entry point are not claimed on their own: they are wanted if the Service that has the entry point asks for them.

use std::cmp::Ordering;
use std::collections::{BTreeSet, hash_map};
use std::net::IpAddr;

use foldhash::HashMap;
use smallvec::SmallVec;

use super::entry_points::Role;
use super::{Shared, Update};
use crate::cluster::room;
use crate::cluster::types::{Family, ServiceKey};
use crate::state::{Element, Key, Scope, VirtualServer, VirtualServerKey};

/// The order in which several Services get what they all ask for, in words.
pub const ORDER: &str = "cluster IPs come before node ports, load balancers' addresses and external IPs, in this order, then \
                         the older one";

/// Everything that one Service asks for.
///
/// Most Services ask for one thing of each kind, and there are many Services. A tree with one entry takes as much
/// memory as one with eleven, so these are lists. After [`Request::settled`] they are in order, each key once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// When the Service was created.
    pub(super) created_seconds: i64,
    /// Its entry points.
    pub(super) entry_points: Vec<(VirtualServerKey, Claim)>,
    /// Its addresses on the device.
    pub(super) addresses: Vec<IpAddr>,
    /// Its elements of nftables sets that are not about one entry point.
    pub(super) elements: Vec<Element>,
}

/// What is asked for at one entry point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// The role in which the Service has the address: the first in order, if it has several.
    pub(super) role: Role,
    /// The virtual server.
    pub(super) server: VirtualServer,
    /// The elements about the entry point, in order.
    pub(super) elements: Vec<Element>,
}

impl Request {
    /// Sorts everything. Of several claims at one entry point, the first one counts, with the best role of them all.
    pub(super) fn settled(mut self) -> Self {
        self.entry_points.sort_by_key(|(server, _)| *server);
        self.entry_points.dedup_by(|(later, other), (server, claim)| {
            let is_same = later == server;
            if is_same {
                claim.role = claim.role.min(other.role);
            }
            is_same
        });
        exact(&mut self.entry_points);
        self.addresses.sort_unstable();
        self.addresses.dedup();
        exact(&mut self.addresses);
        self.elements.sort_unstable();
        self.elements.dedup();
        exact(&mut self.elements);
        self
    }

    /// What is asked for at an entry point.
    fn claim(&self, server: &VirtualServerKey) -> Option<&Claim> {
        let index = self.entry_points.binary_search_by_key(server, |(known, _)| *known).ok()?;
        Some(&self.entry_points[index].1)
    }

    /// Whether everything except the virtual servers at its entry points is equal.
    fn same_but_servers(&self, other: &Self) -> bool {
        self.created_seconds == other.created_seconds
            && self.entry_points.len() == other.entry_points.len()
            && self.entry_points.iter().zip(&other.entry_points).all(|((server, claim), (other, others))| {
                server == other && claim.role == others.role && claim.elements == others.elements
            })
            && self.addresses == other.addresses
            && self.elements == other.elements
    }

    /// The entry points.
    fn servers(&self) -> impl Iterator<Item = VirtualServerKey> {
        self.entry_points.iter().map(|(server, _)| *server)
    }

    /// The keys that are asked for, except virtual servers and the elements about entry points.
    fn other_keys(&self) -> impl Iterator<Item = Key> {
        let addresses = self.addresses.iter().map(|address| Key::Address(*address));
        self.elements.iter().map(|element| Key::Element(*element)).chain(addresses)
    }

    /// The addresses that these keys are about, in order, each once.
    fn all_addresses(&self) -> SmallVec<[IpAddr; 4]> {
        let of_elements = self.elements.iter().filter_map(|element| element.address());
        let mut all: SmallVec<[IpAddr; 4]> = self.addresses.iter().copied().chain(of_elements).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether this address, or this element that is not about an entry point, is asked for.
    fn claims(&self, key: &Key) -> bool {
        match key {
            Key::Address(address) => self.addresses.binary_search(address).is_ok(),
            Key::Element(element) => self.elements.binary_search(element).is_ok(),
            Key::VirtualServer(_) | Key::Device | Key::Sysctl(_) | Key::Timeouts | Key::Rules(_) => false,
        }
    }
}

/// Moves a list to memory that is just large enough. Shrinking it in place would leave a hole behind each list, too
/// small for the next list to grow in.
fn exact<T>(list: &mut Vec<T>) {
    if list.len() < list.capacity() {
        let mut moved = Vec::with_capacity(list.len());
        moved.append(list);
        *list = moved;
    }
}

/// A Service that does not get a virtual server because another Service, which comes first by [`ORDER`], has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What both Services ask for.
    pub server: VirtualServerKey,
    /// The Service that has it.
    pub winner: ServiceKey,
    /// The Service that does not.
    pub loser: ServiceKey,
}

/// A Service's claim on a key; the first claimant in order has the key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    role: Role,
    created_seconds: i64,
    service: ServiceKey,
}

/// The Services that claim one virtual server. There is nearly always one: like a tree (see [`Request`]), a set would
/// take more memory.
#[derive(Clone, Debug)]
struct Claimants {
    first: Claimant,
    others: BTreeSet<Claimant>,
}

impl Claimants {
    /// Adds a claimant and returns the Service that loses by that; `None` if the claimant is not new.
    fn insert(&mut self, claimant: Claimant) -> Option<ServiceKey> {
        let loser = match claimant.cmp(&self.first) {
            Ordering::Equal => return None,
            Ordering::Less => std::mem::replace(&mut self.first, claimant),
            Ordering::Greater => claimant,
        };
        let service = loser.service.clone();
        self.others.insert(loser).then_some(service)
    }

    /// Removes a claimant and returns whether nobody is left.
    fn remove(&mut self, claimant: &Claimant) -> bool {
        if *claimant != self.first {
            self.others.remove(claimant);
            return false;
        }
        match self.others.pop_first() {
            Some(next) => {
                self.first = next;
                false
            }
            None => true,
        }
    }
}

/// All claims.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    requests: HashMap<ServiceKey, Request>,
    claimants: HashMap<VirtualServerKey, Claimants>,
    /// The Services that ask for something about an address besides virtual servers. There is no winner: whatever one
    /// of them asks for is wanted. Never holds an empty list.
    at_address: HashMap<IpAddr, SmallVec<[ServiceKey; 1]>>,
    /// How many claims on virtual servers have lost, over all claimants.
    pub(super) lost: usize,
    /// How many addresses of Services are not put on the device, counted at each Service.
    pub(super) shared: usize,
}

impl Claims {
    /// Gives up room that more claims once needed.
    pub(super) fn give_up_room(&mut self) {
        room::give_up(&mut self.requests);
        room::give_up(&mut self.claimants);
        room::give_up(&mut self.at_address);
    }

    /// Replaces what a Service asks for; `None` if the Service is gone. Adds the keys that this may change to the
    /// update.
    pub(super) fn put(&mut self, service: &ServiceKey, request: Option<Request>, update: &mut Update) {
        let request = match (self.requests.get_mut(service), request) {
            (None, None) => return,
            // Nothing is new or, in nearly all cases, only endpoints changed: who claims what stays as it is.
            (Some(known), Some(new)) if known.same_but_servers(&new) => {
                for ((server, claim), (_, new)) in known.entry_points.iter_mut().zip(new.entry_points) {
                    if claim.server != new.server {
                        claim.server = new.server;
                        update.scope.push(Key::VirtualServer(*server));
                    }
                }
                return;
            }
            (_, request) => request,
        };
        // If nobody else claims an entry point and there are no elements about it, there will be none.
        let is_contested = |server: &VirtualServerKey| {
            let claimants = self.claimants.get(server);
            claimants.is_some_and(|all| all.first.service != *service || !all.others.is_empty())
        };
        let both = self.requests.get(service).into_iter().chain(&request);
        let affected: BTreeSet<VirtualServerKey> = both
            .flat_map(|request| &request.entry_points)
            .filter(|(server, claim)| !claim.elements.is_empty() || is_contested(server))
            .map(|(server, _)| *server)
            .collect();
        let before = self.elements_at(&affected);
        self.replace(service, request, update);
        let after = self.elements_at(&affected);
        update.scope.extend(before.symmetric_difference(&after).map(|element| Key::Element(*element)));
    }

    fn replace(&mut self, service: &ServiceKey, request: Option<Request>, update: &mut Update) {
        let old = self.requests.remove(service).unwrap_or_default();
        let is_gone = request.is_none();
        let new = request.unwrap_or_default();
        self.claim_servers(service, &old, &new, update);
        for key in old.other_keys().filter(|key| !new.claims(key)) {
            if matches!(key, Key::Element(Element::SharedAddress(_))) {
                self.shared -= 1;
            }
            update.scope.push(key);
        }
        for key in new.other_keys().filter(|key| !old.claims(key)) {
            if let Key::Element(Element::SharedAddress(address)) = &key {
                self.shared += 1;
                update.shared.push(Shared { service: service.clone(), address: *address });
            }
            update.scope.push(key);
        }
        let (before, after) = (old.all_addresses(), new.all_addresses());
        for address in before.iter().filter(|address| after.binary_search(address).is_err()) {
            if let hash_map::Entry::Occupied(mut entry) = self.at_address.entry(*address) {
                entry.get_mut().retain(|known| known != service);
                if entry.get().is_empty() {
                    entry.remove();
                }
            }
        }
        for address in after.iter().filter(|address| before.binary_search(address).is_err()) {
            self.at_address.entry(*address).or_default().push(service.clone());
        }
        if !is_gone {
            self.requests.insert(service.clone(), new);
        }
    }

    /// Reduces the conflicts found during a look to those that still exist after it, each once and with the Service
    /// that has the entry point by then. Services are looked at one after the other, and one that is added may be
    /// looked at before one that goes.
    pub(super) fn settle(&self, conflicts: &mut Vec<Conflict>) {
        let mut seen = BTreeSet::new();
        conflicts.retain_mut(|conflict| {
            let asks = |request: &Request| request.claim(&conflict.server).is_some();
            let Some(owner) = self.owner(&conflict.server) else { return false };
            let is_lost = *owner != conflict.loser && self.requests.get(&conflict.loser).is_some_and(asks);
            conflict.winner = owner.clone();
            is_lost && seen.insert((conflict.server, conflict.loser.clone()))
        });
    }

    fn claim_servers(&mut self, service: &ServiceKey, old: &Request, new: &Request, update: &mut Update) {
        let claimant = |request: &Request, claim: &Claim| Claimant {
            role: claim.role,
            created_seconds: request.created_seconds,
            service: service.clone(),
        };
        let moved = new.created_seconds != old.created_seconds;
        for (server, claim) in &old.entry_points {
            if !moved && new.claim(server).is_some_and(|new| new.role == claim.role) {
                continue;
            }
            let gone = claimant(old, claim);
            if self.claimants.get_mut(server).is_some_and(|claimants| claimants.remove(&gone)) {
                self.claimants.remove(server);
            } else {
                // A claimant that had won was followed by one that had lost.
                self.lost -= 1;
            }
            update.scope.push(Key::VirtualServer(*server));
        }
        for (server, claim) in &new.entry_points {
            let is_new = match self.claimants.entry(*server) {
                hash_map::Entry::Vacant(entry) => {
                    entry.insert(Claimants { first: claimant(new, claim), others: BTreeSet::new() });
                    true
                }
                hash_map::Entry::Occupied(mut entry) => {
                    let claimants = entry.get_mut();
                    let loser = claimants.insert(claimant(new, claim));
                    let is_new = loser.is_some();
                    if let Some(loser) = loser {
                        self.lost += 1;
                        let winner = claimants.first.service.clone();
                        update.conflicts.push(Conflict { server: *server, winner, loser });
                    }
                    is_new
                }
            };
            if is_new || old.claim(server).map(|claim| &claim.server) != Some(&claim.server) {
                update.scope.push(Key::VirtualServer(*server));
            }
        }
    }

    /// The wanted elements about these entry points.
    fn elements_at(&self, servers: &BTreeSet<VirtualServerKey>) -> BTreeSet<Element> {
        let claims = servers.iter().filter_map(|server| self.granted(server));
        claims.flat_map(|claim| claim.elements.iter().copied()).collect()
    }

    /// Whether the key is wanted.
    pub(super) fn contains(&self, key: &Key) -> bool {
        let asked_at = |address| self.services_at(address).any(|service| self.requests[service].claims(key));
        match key {
            Key::VirtualServer(server) => self.claimants.contains_key(server),
            Key::Address(address) => asked_at(*address),
            Key::Element(element) => match element.entry_point() {
                Some(server) => {
                    self.granted(&server).is_some_and(|claim| claim.elements.binary_search(element).is_ok())
                }
                None => element.address().is_some_and(asked_at),
            },
            Key::Device | Key::Sysctl(_) | Key::Timeouts | Key::Rules(_) => false,
        }
    }

    /// All wanted keys. A key that several Services ask for comes several times.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        let with_elements = |(server, claimants): (&VirtualServerKey, &Claimants)| {
            let claim = self.requests[&claimants.first.service].claim(server);
            let elements = claim.into_iter().flat_map(|claim| &claim.elements);
            std::iter::once(Key::VirtualServer(*server)).chain(elements.map(|element| Key::Element(*element)))
        };
        self.requests
            .values()
            .flat_map(Request::other_keys)
            .chain(self.claimants.iter().flat_map(with_elements))
    }

    /// The virtual server as the winner asks for it.
    pub(super) fn virtual_server(&self, server: &VirtualServerKey) -> Option<&VirtualServer> {
        self.granted(server).map(|claim| &claim.server)
    }

    fn granted(&self, server: &VirtualServerKey) -> Option<&Claim> {
        let owner = self.owner(server)?;
        self.requests[owner].claim(server)
    }

    /// The wanted elements of one family.
    pub(super) fn elements(&self, family: Family) -> impl Iterator<Item = Element> {
        self.keys().filter_map(move |key| match key {
            Key::Element(element) if element.family() == family => Some(element),
            _ => None,
        })
    }

    /// The winner of a virtual server.
    pub(super) fn owner(&self, server: &VirtualServerKey) -> Option<&ServiceKey> {
        Some(&self.claimants.get(server)?.first.service)
    }

    /// All Services that claim a virtual server, the winner first.
    pub(super) fn claimants(&self, server: &VirtualServerKey) -> impl Iterator<Item = &ServiceKey> {
        let all = self.claimants.get(server).into_iter();
        all.flat_map(|all| std::iter::once(&all.first).chain(&all.others)).map(|claimant| &claimant.service)
    }

    /// What a Service asks for at its entry points, in order, granted or not; `None` if the Service was not looked at.
    pub(super) fn entry_points_of(&self, service: &ServiceKey) -> Option<&[(VirtualServerKey, Claim)]> {
        self.requests.get(service).map(|request| &*request.entry_points)
    }

    /// The Services that ask for something about this address.
    pub(super) fn services_at(&self, address: IpAddr) -> impl Iterator<Item = &ServiceKey> {
        self.at_address.get(&address).into_iter().flatten()
    }

    /// The virtual servers that a Service asks for.
    pub(super) fn virtual_servers_of(&self, service: &ServiceKey) -> impl Iterator<Item = VirtualServerKey> {
        self.requests.get(service).into_iter().flat_map(Request::servers)
    }

    /// The keys that a Service asks for.
    pub(super) fn keys_of(&self, service: &ServiceKey) -> Scope {
        let request = self.requests.get(service).into_iter();
        request
            .flat_map(|request| {
                let elements = request.entry_points.iter().flat_map(|(_, claim)| &claim.elements);
                let servers = request.servers().map(Key::VirtualServer);
                request.other_keys().chain(servers).chain(elements.map(|element| Key::Element(*element)))
            })
            .collect()
    }
}

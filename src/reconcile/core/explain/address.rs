//! Explains what there is at an address, and which Services are in trouble.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use super::super::super::explanation::{
    AddressEntryPoint, AddressExplained, Explanation, Standing, TroubledService, TroubledServices,
};
use super::super::Reconciler;
use super::View;
use crate::cluster::types::ServiceKey;
use crate::state::{Element, Key, Scope, VirtualServerKey, Weight};

/// At most this many troubled Services are listed: whatever fails for all fails for thousands.
const LISTED: usize = 100;
/// At most this many objects are looked at for that list.
const LOOKED_AT: usize = 10_000;

impl Reconciler {
    /// What is known of an address. The cost grows with what there is at it.
    ///
    /// # Errors
    /// If nothing is known: a sentence that says so.
    pub fn explain_address(&self, address: IpAddr, now: Instant) -> Result<Explanation, String> {
        let services: BTreeSet<&ServiceKey> = self.desired.services_at(address).collect();
        let all = VirtualServerKey::all_at(address);
        // Node ports are in no index by address; but each has an element that marks it as ours, or a failure.
        let owned = self.actual.elements.range(Element::Owned(*all.start())..=Element::Owned(*all.end()));
        let owned = owned.filter_map(|element| element.entry_point());
        let there = self.actual.virtual_servers_at(address);
        let failed = Key::VirtualServer(*all.start())..=Key::VirtualServer(*all.end());
        let failed = self.schedule.failures().range(failed).filter_map(|(key, _)| match key {
            Key::VirtualServer(server) => Some(*server),
            _ => None,
        });
        let asked = services.iter().flat_map(|service| self.desired.virtual_servers_of(service));
        let servers: BTreeSet<VirtualServerKey> = owned
            .chain(there)
            .chain(failed)
            .chain(asked.filter(|server| server.address == address))
            .collect();
        let foreign: Vec<_> = self.foreign.servers().range(all).map(ToString::to_string).collect();
        if services.is_empty() && servers.is_empty() && foreign.is_empty() {
            let before = if self.cluster.is_complete() { "" } else { super::findings::INCOMPLETE };
            let text = format!("No Service that is known here has the address {address}. {before}");
            return Err(text.trim_end().to_owned());
        }
        let keys: Scope = servers.iter().map(|server| Key::VirtualServer(*server)).collect();
        let view = View::of(self, &keys, now);
        let shown = |server: &VirtualServerKey| {
            let mut claimants = self.desired.claimants(server).map(ToString::to_string);
            let wanted = view.wanted.virtual_servers.get(server);
            let gets_new = wanted.into_iter().flat_map(|wanted| &wanted.real_servers);
            AddressEntryPoint {
                virtual_server: server.to_string(),
                service: claimants.next(),
                others: claimants.collect(),
                real_servers: gets_new.filter(|(_, real)| real.weight != Weight::DrainIfPresent).count(),
                state: view.standing(&Key::VirtualServer(*server)),
            }
        };
        Ok(Explanation::Address(AddressExplained {
            address: address.to_string(),
            services: services.iter().map(ToString::to_string).collect(),
            entry_points: servers.iter().map(shown).collect(),
            foreign_virtual_servers: foreign,
        }))
    }

    /// Which Services are in trouble, as far as can be told without looking at each of them. The cost grows with what
    /// fails.
    pub fn explain_troubles(&self) -> Explanation {
        let failures = self.schedule.failures();
        let refused = failures.iter().map(|(key, failure)| {
            (key, if failure.is_refusal() { Standing::Refused } else { Standing::Waiting })
        });
        let uncertain = self.schedule.all_uncertain().map(|key| (key, Standing::Uncertain));
        let mut troubled: BTreeMap<&ServiceKey, Standing> = BTreeMap::new();
        for (key, standing) in refused.chain(uncertain).take(LOOKED_AT) {
            for service in self.services_of(key) {
                let known = troubled.entry(service).or_insert(standing);
                *known = standing.max(*known);
            }
        }
        let others = self.schedule.all_uncertain().filter(|key| !failures.contains_key(key));
        let objects_not_as_wanted = failures.len() + others.count();
        Explanation::Troubled(TroubledServices {
            known_services: self.cluster.service_count(),
            synced_once: self.phase.is_synced(),
            troubled: troubled
                .into_iter()
                .take(LISTED)
                .map(|(service, state)| TroubledService { service: service.to_string(), state })
                .collect(),
            objects_not_as_wanted,
        })
    }

    /// The Services that a key belongs to, where that is known.
    pub fn services_of<'a>(&'a self, key: &Key) -> impl Iterator<Item = &'a ServiceKey> + use<'a> {
        let (server, address) = match key {
            Key::VirtualServer(server) => (Some(*server), None),
            Key::Element(element) => match element.entry_point() {
                Some(server) => (Some(server), None),
                None => (None, element.address()),
            },
            Key::Address(address) => (None, Some(*address)),
            Key::Device | Key::Sysctl(_) | Key::Timeouts | Key::Rules(_) => (None, None),
        };
        let owner = server.and_then(|server| self.desired.owner(&server));
        let at = address.into_iter().flat_map(|address| self.desired.services_at(address));
        owner.into_iter().chain(at)
    }
}

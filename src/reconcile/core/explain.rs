//! Explains what is known, wanted and written of one Service. The cost grows with the Service; nothing is changed.

mod address;
mod findings;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use super::super::explanation::{
    EntryPoint, EntryPointKind, Explanation, Facts, NewConnections, Object, Port, PortEndpoint, RealServer,
    RealServerState, ServiceAddress, ServiceExplained, Slice, Standing,
};
use super::super::note::Owner;
use super::super::schedule::Failure;
use super::Reconciler;
use crate::cluster::topology::{self, EndpointUse, Judged, Judgement};
use crate::cluster::types::{EndpointSlice, Family, Service, ServiceKey, ServicePort};
use crate::desired::asked::{Asked, Role};
use crate::diff::accepts;
use crate::state::{
    DEVICE, Element, Key, RealServer as Server, Scope, State, Sysctl, VirtualServerKey, Weight,
};

impl Reconciler {
    /// What is known of a Service.
    ///
    /// # Errors
    /// If the Service is not known: a sentence that says so.
    pub fn explain_service(&self, key: &ServiceKey, now: Instant) -> Result<Explanation, String> {
        let Some(service) = self.cluster.service(key) else { return Err(findings::unknown(self, key)) };
        let keys = self.desired.keys_of(key);
        let view = View::of(self, &keys, now);
        let asked = self.desired.asked(service);
        let judgements = view.judgements(service);
        let entry_points: Vec<_> =
            asked.iter().flatten().map(|asked| view.entry_point(service, asked)).collect();
        let addresses = view.addresses(key, &keys);

        let mut all = view.foundations(service);
        all.extend(keys);
        let not_as_wanted: Vec<_> = all.iter().filter_map(|key| view.object(key)).collect();
        let is_looked_at = self.phase.is_adopted() && asked.is_some() && !self.touched.contains(key);
        let state = not_as_wanted
            .iter()
            .map(|object| object.state)
            .chain(entry_points.iter().map(|point| point.state))
            .chain((!is_looked_at).then_some(Standing::Waiting))
            .max()
            .unwrap_or(Standing::Written);
        let mut explained = ServiceExplained {
            service: key.to_string(),
            state,
            findings: Vec::new(),
            node: self.desired.place().node.to_owned(),
            zone: self.desired.place().zone.map(str::to_owned),
            facts: facts(service),
            endpoint_slices: self.cluster.slices(key).map(slice).collect(),
            ports: judgements
                .iter()
                .map(|(family, port, judged)| shown_port(*family, port, judged))
                .collect(),
            entry_points,
            addresses,
            not_as_wanted,
        };
        explained.findings = findings::of(self, service, is_looked_at, &explained);
        Ok(Explanation::Service(Box::new(explained)))
    }
}

/// What is wanted of some keys beside what the kernel has, at one moment.
struct View<'a> {
    reconciler: &'a Reconciler,
    /// What is wanted, with the real servers that drain.
    wanted: State,
    now: Instant,
}

impl<'a> View<'a> {
    /// A view of `keys`, none of which is a setting.
    fn of(reconciler: &'a Reconciler, keys: &Scope, now: Instant) -> Self {
        let mut wanted = reconciler.desired.select(keys);
        wanted.virtual_servers.retain(|key, server| {
            let there = reconciler.actual.virtual_servers.get(key);
            for (real, _) in reconciler.drains.of(key) {
                let is_there = there.is_some_and(|there| there.real_servers.contains_key(&real));
                if is_there && !server.real_servers.contains_key(&real) {
                    server.real_servers.insert(real, Server::with(Weight::DrainIfPresent));
                }
            }
            !server.real_servers.is_empty()
        });
        Self { reconciler, wanted, now }
    }

    /// The state of a key.
    fn standing(&self, key: &Key) -> Standing {
        let Reconciler { schedule, desired, actual, .. } = self.reconciler;
        let is_setting = matches!(key, Key::Device | Key::Rules(_) | Key::Sysctl(_) | Key::Timeouts);
        if schedule.failures().get(key).is_some_and(Failure::is_refusal) {
            Standing::Refused
        } else if schedule.is_suspect(key) {
            Standing::Uncertain
        } else if is_setting && desired.has_setting(actual, key)
            || !is_setting && accepts(&self.wanted, actual, &Scope::from([key.clone()]))
        {
            Standing::Written
        } else {
            Standing::Waiting
        }
    }

    /// Explains a key that is not as wanted; `None`: it is.
    fn object(&self, key: &Key) -> Option<Object> {
        let state = self.standing(key);
        if state == Standing::Written {
            return None;
        }
        let failure = self.reconciler.schedule.failures().get(key);
        Some(Object {
            object: key.to_string(),
            state,
            reason: failure.map(|failure| failure.text.clone()),
            attempts: failure.filter(|failure| failure.is_refusal()).map(|failure| failure.attempts),
            tried_again_in_seconds: failure.map(|failure| self.seconds_until(failure.due())),
        })
    }

    /// The seconds until a moment, rounded up: what is due shortly is not over.
    fn seconds_until(&self, moment: Instant) -> u64 {
        let left = moment.saturating_duration_since(self.now);
        left.as_secs() + u64::from(left.subsec_nanos() > 0)
    }

    /// The foundations of this Service. Of the kernel parameters only those that the kernel refuses and that we cannot
    /// do without.
    fn foundations(&self, service: &Service) -> Scope {
        let rules = families(self.reconciler, service).map(Key::Rules);
        let failures = self.reconciler.schedule.failures();
        let is_needed = |key: &Key| failures.get(key).is_some_and(|failure| !failure.is_single);
        let sysctls = Sysctl::ALL.map(Key::Sysctl).into_iter().filter(is_needed);
        rules.chain([Key::Device]).chain(sysctls).collect()
    }

    fn judgements<'b>(&self, service: &'b Service) -> Vec<(Family, &'b ServicePort, Judgement<'a>)> {
        let Reconciler { cluster, desired, .. } = self.reconciler;
        let mut judgements = Vec::new();
        for port in &service.ports {
            for family in families(self.reconciler, service) {
                let judged = topology::judged(cluster, service, port, family, desired.place());
                judgements.push((family, port, judged));
            }
        }
        judgements
    }

    fn entry_point(&self, service: &Service, asked: &Asked<'_>) -> EntryPoint {
        let is_ours = *asked.owner == service.key;
        let server = Key::VirtualServer(asked.server);
        let elements = asked.elements.iter().map(|element| Key::Element(*element));
        let standing = std::iter::once(server).chain(elements).map(|key| self.standing(&key)).max();
        let allowed = asked.elements.iter().filter_map(|element| match element {
            Element::Allowed(_, network) => Some(network.to_string()),
            _ => None,
        });
        let inside = asked.elements.iter().find_map(|element| element.leads_to());
        let mut sets: Vec<_> = asked.elements.iter().map(|element| element.set_name()).collect();
        sets.dedup();
        EntryPoint {
            virtual_server: asked.server,
            kind: asked.kind.map_or(EntryPointKind::NoneAnyMore, |(role, _)| kind(role)),
            state: if is_ours { standing.unwrap_or(Standing::Written) } else { Standing::Conflict },
            belongs_to: (!is_ours).then(|| asked.owner.to_string()),
            new_connections: if !is_ours {
                NewConnections::OtherService
            } else if asked.elements.contains(&Element::Dropped(asked.server)) {
                NewConnections::Dropped
            } else if asked.wanted.real_servers.is_empty() {
                NewConnections::Refused
            } else {
                NewConnections::Balanced
            },
            policy: asked.kind.map(|(_, policy)| policy),
            scheduler: asked.wanted.scheduler.to_string(),
            persistence_seconds: asked.wanted.is_persistent().then_some(asked.wanted.timeout_seconds),
            allowed_sources: allowed.collect(),
            clients_inside_go_to: inside.map(|inside| inside.to_string()),
            sets,
            real_servers: if is_ours { self.real_servers(&asked.server) } else { Vec::new() },
        }
    }

    /// The real servers that are wanted, and those that still exist.
    fn real_servers(&self, key: &VirtualServerKey) -> Vec<RealServer> {
        let wanted = self.wanted.virtual_servers.get(key).map(|server| &server.real_servers);
        let there = self.reconciler.actual.virtual_servers.get(key).map(|server| &server.real_servers);
        let drains: BTreeMap<_, _> = self.reconciler.drains.of(key).collect();
        let mut shown: Vec<_> = wanted
            .into_iter()
            .flatten()
            .map(|(real, server)| {
                let known = there.and_then(|there| there.get(real));
                let drains_to = |known: &Server| known.weight == Weight::Exactly(0);
                let (weight, is_written, then) = match server.weight {
                    Weight::Exactly(weight) => (weight, known == Some(server), RealServerState::Written),
                    Weight::DrainIfPresent => (0, known.is_some_and(drains_to), RealServerState::Draining),
                };
                let until = drains.get(real).filter(|_| server.weight == Weight::DrainIfPresent);
                RealServer {
                    endpoint: real.to_string(),
                    weight,
                    state: if is_written { then } else { RealServerState::Waiting },
                    goes_in_seconds: until.copied().flatten().map(|until| self.seconds_until(until)),
                }
            })
            .collect();
        let is_unwanted = |real| wanted.is_none_or(|wanted| !wanted.contains_key(real));
        let unwanted = there.into_iter().flatten().filter(|(real, _)| is_unwanted(real));
        shown.extend(unwanted.map(|(real, _)| RealServer {
            endpoint: real.to_string(),
            weight: 0,
            state: RealServerState::Going,
            goes_in_seconds: None,
        }));
        shown
    }

    /// The addresses among the keys of a Service.
    fn addresses(&self, service: &ServiceKey, keys: &Scope) -> Vec<ServiceAddress> {
        let of_element = |key: &Key| match key {
            Key::Element(
                Element::ClusterAddress(address)
                | Element::ExternalAddress(address)
                | Element::SharedAddress(address),
            ) => Some(*address),
            _ => None,
        };
        let mut addresses: Vec<IpAddr> = keys.iter().filter_map(of_element).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let shown = |address: IpAddr| {
            let about = [
                Key::Address(address),
                Key::Element(Element::ClusterAddress(address)),
                Key::Element(Element::ExternalAddress(address)),
                Key::Element(Element::SharedAddress(address)),
            ];
            let about = about.iter().filter(|key| keys.contains(key));
            ServiceAddress {
                address: address.to_string(),
                on: if keys.contains(&Key::Address(address)) {
                    DEVICE.to_owned()
                } else {
                    match Owner::of(&self.reconciler.cluster, service, address) {
                        Owner::Node => "this node, on a device and by its Node object".to_owned(),
                        Owner::NodeObject => "this node, by its Node object only".to_owned(),
                        Owner::OtherNode(name) => format!("node {name}, to which it is left"),
                        Owner::Device | Owner::DeviceOfClusterIp => "another device of this node".to_owned(),
                    }
                },
                state: about.map(|key| self.standing(key)).max().unwrap_or(Standing::Written),
            }
        };
        addresses.into_iter().map(shown).collect()
    }
}

/// The families in which a Service is served.
fn families<'a>(reconciler: &'a Reconciler, service: &'a Service) -> impl Iterator<Item = Family> + 'a {
    let of_service = service.cluster_ips.iter().map(|address| Family::of(*address));
    of_service.filter(|family| reconciler.families.contains(family))
}

fn texts<T: ToString>(things: &[T]) -> Vec<String> {
    things.iter().map(ToString::to_string).collect()
}

fn kind(role: Role) -> EntryPointKind {
    match role {
        Role::Cluster => EntryPointKind::ClusterIp,
        Role::External => EntryPointKind::ExternalIp,
        Role::Balanced => EntryPointKind::LoadBalancer,
        Role::NodePort => EntryPointKind::NodePort,
        Role::Inside => EntryPointKind::Inside,
    }
}

fn facts(service: &Service) -> Facts {
    let external = service.external.as_deref();
    Facts {
        cluster_ips: texts(&service.cluster_ips),
        external_ips: external.map(|external| texts(&external.external_ips)).unwrap_or_default(),
        load_balancer_ips: external.map(|external| texts(&external.load_balancer_ips)).unwrap_or_default(),
        internal_traffic_policy: service.internal_policy,
        external_traffic_policy: external.map(|external| external.policy),
        session_affinity_seconds: service.affinity_seconds,
        load_balancer_source_ranges: external
            .map(|external| texts(&external.source_ranges))
            .unwrap_or_default(),
        health_check_node_port: external.and_then(|external| external.health_check_node_port),
    }
}

fn slice(slice: &EndpointSlice) -> Slice {
    let ports = slice.ports.iter().map(|port| format!("{} {} {}", port.name, port.protocol, port.port));
    Slice {
        name: slice.key.name().to_owned(),
        family: slice.family,
        ports: ports.map(|port| port.trim_start().to_owned()).collect(),
        endpoints: slice.endpoints.len(),
    }
}

fn shown_port(family: Family, port: &ServicePort, judgement: &Judgement<'_>) -> Port {
    let used = |of: fn(&Judged<'_>) -> EndpointUse| {
        judgement.endpoints.iter().filter(|judged| of(judged) == EndpointUse::Used).count()
    };
    Port {
        name: port.name.to_string(),
        family,
        protocol: port.protocol,
        port: port.port,
        node_port: port.node_port,
        hints: judgement.near,
        used_with_policy_cluster: used(|judged| judged.for_cluster),
        used_with_policy_local: used(|judged| judged.for_local),
        endpoints: judgement.endpoints.iter().map(shown_endpoint).collect(),
    }
}

fn shown_endpoint(judged: &Judged<'_>) -> PortEndpoint {
    let endpoint = judged.endpoint;
    let conditions =
        [(endpoint.ready, "ready"), (endpoint.serving, "serving"), (endpoint.terminating, "terminating")];
    PortEndpoint {
        endpoint: judged.key.to_string(),
        node: endpoint.node.as_deref().map(str::to_owned),
        local: judged.local,
        conditions: conditions.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name).collect(),
        policy_cluster: judged.for_cluster,
        policy_local: judged.for_local,
    }
}

#[cfg(test)]
mod tests;

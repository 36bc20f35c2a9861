//! Random clusters with few names, addresses and ports, so that everything gets in the way of everything else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube_ipvs::api::{Change, Event};
use kube_ipvs::cluster::Cluster;
use kube_ipvs::cluster::types::{
    AddressScope, Endpoint, EndpointSlice, External, Family, Hints, Node, NodeAddress, NodeAddresses, Policy,
    Protocol, Service, ServiceKey, ServicePort, SliceKey, SlicePort,
};
use proptest::prelude::*;

/// The name of this node.
pub(crate) const NODE: &str = "here";

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn service_key() -> impl Strategy<Value = ServiceKey> {
    prop_oneof![
        3 => (0..4u8).prop_map(|number| ServiceKey::new("default", format!("s{number}"))),
        1 => Just(ServiceKey::new("default", "kubernetes")),
    ]
}

pub(crate) fn service_port() -> impl Strategy<Value = ServicePort> {
    prop_oneof![
        Just(("", Protocol::Tcp, 80)),
        Just(("dns", Protocol::Udp, 53)),
        Just(("dns-tcp", Protocol::Tcp, 53)),
        Just(("sctp", Protocol::Sctp, 99)),
    ]
    .prop_map(|(name, protocol, port)| ServicePort {
        name: name.into(),
        protocol,
        port,
        node_port: None,
    })
}

pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::Cluster), Just(Policy::Local)]
}

/// Ways in from outside. They share few addresses, so that Services collide with each other and with the node.
pub(crate) fn external() -> impl Strategy<Value = External> {
    let addresses = vec!["198.51.100.1", "192.168.0.1", "10.96.0.2", "fd0e::1", "fd0f::1"];
    let balanced = proptest::sample::subsequence(addresses.clone(), 0..3);
    let others = proptest::sample::subsequence(addresses, 0..3);
    let ranges = proptest::sample::subsequence(vec!["10.0.0.0/8", "192.168.0.0/24", "fd0a::/64"], 0..3);
    (balanced, others, policy(), ranges).prop_map(|(balanced, others, policy, ranges)| External {
        load_balancer_ips: balanced.into_iter().map(ip).collect(),
        external_ips: others.into_iter().map(ip).collect(),
        policy,
        source_ranges: ranges.into_iter().map(|range| range.parse().expect("a network")).collect(),
        health_check_node_port: None,
        lacks_health_check_node_port: false,
    })
}

pub(crate) fn node() -> impl Strategy<Value = Node> {
    let zone = proptest::option::of(prop_oneof![Just("east"), Just("west")]);
    (zone, any::<bool>()).prop_map(|(zone, known)| Node {
        name: NODE.into(),
        addresses: if known { vec![ip("192.168.0.1"), ip("fd0f::1")] } else { vec![] },
        zone: zone.map(Into::into),
        pod_cidrs: vec![],
        eligible: true,
    })
}

pub(crate) fn node_addresses() -> impl Strategy<Value = NodeAddresses> {
    let addresses =
        vec![("192.168.0.1", "eth0"), ("192.168.1.1", "eth1"), ("198.51.100.1", "eth1"), ("fd0f::1", "eth0")];
    proptest::sample::subsequence(addresses, 0..4).prop_map(|addresses| {
        addresses
            .into_iter()
            .map(|(address, interface)| NodeAddress {
                address: ip(address),
                interface: interface.into(),
                scope: AddressScope::Global,
            })
            .collect()
    })
}

pub(crate) fn service() -> impl Strategy<Value = Service> {
    let ips = proptest::sample::subsequence(vec!["10.96.0.1", "10.96.0.2", "10.96.0.3"], 0..=1);
    let ips6 = proptest::sample::subsequence(vec!["fd00::1", "fd00::2"], 0..=1);
    let ports = proptest::collection::vec(service_port(), 1..3);
    let node_ports = proptest::collection::vec(proptest::option::of(30_000..30_003u16), 3);
    let external = (proptest::option::of(external()), node_ports, policy());
    (service_key(), 0..3i64, ips, ips6, ports, proptest::option::of(1..3u32), external).prop_map(
        |(key, created_seconds, v4, v6, mut ports, affinity, (external, node_ports, internal_policy))| {
            if external.is_some() {
                for (port, node_port) in ports.iter_mut().zip(node_ports) {
                    port.node_port = node_port;
                }
            }
            Service {
                key,
                uid: None,
                created_seconds,
                cluster_ips: v4.into_iter().chain(v6).map(ip).collect(),
                ports,
                affinity_seconds: affinity,
                internal_policy,
                external: external.map(Box::new),
                remarks: None,
            }
        },
    )
}

pub(crate) fn hints() -> impl Strategy<Value = Hints> {
    let zones = proptest::sample::subsequence(vec!["east", "west"], 0..=2);
    let nodes = proptest::sample::subsequence(vec![NODE, "there"], 0..=2);
    (zones, nodes).prop_map(|(zones, nodes)| Hints {
        zones: zones.into_iter().map(Into::into).collect(),
        nodes: nodes.into_iter().map(Into::into).collect(),
    })
}

pub(crate) fn endpoint(family: Family) -> impl Strategy<Value = Endpoint> {
    let hints = proptest::option::of(hints());
    (1..5u8, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), hints).prop_map(
        move |(number, ready, serving, terminating, local, hints)| Endpoint {
            address: match family {
                Family::V4 => ip(&format!("10.244.0.{number}")),
                Family::V6 => ip(&format!("fd01::{number}")),
            },
            ready,
            serving,
            terminating,
            hints: hints.map(Into::into),
            node: local.then(|| NODE.into()),
        },
    )
}

pub(crate) fn slice() -> impl Strategy<Value = EndpointSlice> {
    prop_oneof![Just(Family::V4), Just(Family::V6)].prop_flat_map(|family| {
        let ports = proptest::collection::vec(service_port(), 1..3);
        let endpoints = proptest::collection::vec(endpoint(family), 0..4);
        (0..5u8, service_key(), ports, endpoints).prop_map(move |(number, service, ports, endpoints)| {
            EndpointSlice {
                key: SliceKey::new("default", format!("slice{number}")),
                service,
                family,
                ports: ports
                    .into_iter()
                    .map(|port| SlicePort {
                        name: port.name,
                        protocol: port.protocol,
                        port: port.port + 1000,
                    })
                    .collect(),
                endpoints,
                triggered_nanoseconds: None,
            }
        })
    })
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => service().prop_map(|service| Event::Service(Change::Upsert(service))),
        1 => service_key().prop_map(|key| Event::Service(Change::Delete(key))),
        6 => slice().prop_map(|slice| Event::Slice(Change::Upsert(slice))),
        2 => (0..5u8).prop_map(|number| {
            Event::Slice(Change::Delete(SliceKey::new("default", format!("slice{number}"))))
        }),
        1 => proptest::collection::vec(service(), 0..4).prop_map(|services| {
            let unique: BTreeMap<_, _> =
                services.into_iter().map(|service| (service.key.clone(), service)).collect();
            Event::Service(Change::Replace(unique.into_values().collect()))
        }),
        1 => node().prop_map(|node| Event::Node(Change::Upsert(node))),
        1 => node_addresses().prop_map(Event::NodeAddresses),
    ]
}

pub(crate) fn complete() -> [Event; 3] {
    [
        Event::Service(Change::Replace(vec![])),
        Event::Slice(Change::Replace(vec![])),
        Event::Node(Change::Replace(vec![])),
    ]
}

/// The complete sets of a cluster, as a source sends them at start.
pub(crate) fn everything(cluster: &Cluster) -> [Event; 4] {
    let of = |name: &str| cluster.slices(&ServiceKey::new("default", name)).cloned().collect::<Vec<_>>();
    let slices = ["s0", "s1", "s2", "s3", "kubernetes"].into_iter().flat_map(of).collect();
    let services = cluster.services().cloned().collect();
    [
        Event::NodeAddresses(cluster.node_addresses().clone()),
        Event::Slice(Change::Replace(slices)),
        Event::Service(Change::Replace(services)),
        Event::Node(Change::Replace(cluster.node().cloned().into_iter().collect())),
    ]
}

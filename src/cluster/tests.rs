use std::net::IpAddr;

use super::endpoints::InSlices;
use super::topology::{Endpoints, Place};
use super::types::{
    Endpoint, EndpointSlice, Family, Hints, Protocol, Service, ServiceKey, ServicePort, SliceKey, SlicePort,
};
use super::{Cluster, Touched, examples, topology};
use crate::api::{Change, Event};
use crate::state::RealServerKey;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn port() -> ServicePort {
    ServicePort { name: "web".into(), protocol: Protocol::Tcp, port: 80, node_port: None }
}

fn service(name: &str) -> Service {
    Service {
        cluster_ips: vec![ip("10.96.0.1")],
        ports: vec![port()],
        ..examples::service(ServiceKey::new("default", name))
    }
}

fn endpoint(number: u8) -> Endpoint {
    examples::endpoint(ip(&format!("10.244.0.{number}")))
}

fn slice(name: &str, service: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        key: SliceKey::new("default", name),
        service: ServiceKey::new("default", service),
        family: Family::V4,
        ports: vec![SlicePort { name: "web".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints,
        triggered_nanoseconds: None,
    }
}

fn put(slice: EndpointSlice) -> Event {
    Event::Slice(Change::Upsert(slice))
}

fn touched(names: &[&str]) -> Touched {
    names.iter().map(|name| ServiceKey::new("default", *name)).collect()
}

/// This node's place in the tests.
const HERE: Place<'_> = Place { node: "here", zone: Some("west") };

fn usable(cluster: &Cluster) -> Vec<u8> {
    numbers(&chosen(cluster).cluster)
}

fn chosen(cluster: &Cluster) -> Endpoints {
    topology::endpoints(cluster, &service("a"), &port(), Family::V4, HERE)
}

fn numbers(servers: &[RealServerKey]) -> Vec<u8> {
    servers
        .iter()
        .map(|RealServerKey { address, port }| {
            assert_eq!(*port, 8080);
            match address {
                IpAddr::V4(address) => address.octets()[3],
                IpAddr::V6(_) => panic!("{address} is of the other family"),
            }
        })
        .collect()
}

#[test]
fn only_changes_touch() {
    let mut cluster = Cluster::default();
    let upsert = Event::Service(Change::Upsert(service("a")));
    assert_eq!(cluster.apply(upsert.clone()), touched(&["a"]));
    assert_eq!(cluster.apply(upsert), touched(&[]));
    assert_eq!(cluster.apply(put(slice("one", "a", vec![endpoint(1)]))), touched(&["a"]));
    assert_eq!(cluster.apply(put(slice("one", "a", vec![endpoint(1)]))), touched(&[]));
    assert_eq!(cluster.apply(put(slice("one", "a", vec![]))), touched(&["a"]));
}

#[test]
fn a_slice_may_come_before_its_service_and_move_to_another_one() {
    let mut cluster = Cluster::default();
    assert_eq!(cluster.apply(put(slice("one", "a", vec![endpoint(1)]))), touched(&["a"]));
    cluster.apply(Event::Service(Change::Upsert(service("a"))));
    assert_eq!(usable(&cluster), [1]);
    assert_eq!(cluster.apply(put(slice("one", "b", vec![endpoint(1)]))), touched(&["a", "b"]));
    assert_eq!(usable(&cluster), [0_u8; 0]);
}

/// A port of the Service takes its number from the slice's port with the same name and protocol, wherever that is.
#[test]
fn a_port_is_found_wherever_it_stands_in_a_slice() {
    let port = |name: &str, protocol, port| SlicePort { name: name.into(), protocol, port };
    let web = port("web", Protocol::Tcp, 8080);
    let others = [
        port("web", Protocol::Udp, 53),
        port("", Protocol::Tcp, 81),
        port("a", Protocol::Tcp, 82),
        port("webs", Protocol::Tcp, 83),
    ];
    let with = |ports: Vec<SlicePort>| EndpointSlice { ports, ..slice("one", "a", vec![endpoint(1)]) };
    let mut cluster = Cluster::default();
    for place in 0..=others.len() {
        let mut ports = others.to_vec();
        ports.insert(place, web.clone());
        let news = cluster.apply(put(with(ports)));
        assert_eq!(news.is_empty(), place > 0, "another order is no change");
        assert_eq!(usable(&cluster), [1]);
    }
    cluster.apply(put(with(others.to_vec())));
    assert_eq!(usable(&cluster), [0_u8; 0]);
    // No API server accepts a duplicate. The first one counts.
    cluster.apply(put(with(vec![web, port("web", Protocol::Tcp, 9090)])));
    assert_eq!(usable(&cluster), [1]);
}

#[test]
fn a_complete_set_withdraws_only_what_it_does_not_repeat() {
    let mut cluster = Cluster::default();
    cluster.apply(Event::Service(Change::Replace(vec![service("a"), service("b")])));
    assert!(!cluster.is_complete());
    cluster.apply(Event::Slice(Change::Replace(vec![slice("one", "a", vec![]), slice("two", "b", vec![])])));
    assert!(!cluster.is_complete(), "the node may have a zone");
    cluster.apply(Event::Node(Change::Replace(vec![])));
    assert!(cluster.is_complete());
    let again = Event::Service(Change::Replace(vec![service("b"), service("c")]));
    assert_eq!(cluster.apply(again), touched(&["a", "c"]));
    let again = Event::Slice(Change::Replace(vec![slice("two", "b", vec![])]));
    assert_eq!(cluster.apply(again), touched(&["a"]));
    assert_eq!((cluster.service_count(), cluster.slice_count()), (2, 1));
}

#[test]
fn where_other_nodes_are_watched_their_set_is_waited_for() {
    let mut cluster = Cluster::with_other_nodes();
    cluster.apply(Event::Service(Change::Replace(vec![])));
    cluster.apply(Event::Slice(Change::Replace(vec![])));
    cluster.apply(Event::Node(Change::Replace(vec![])));
    assert!(!cluster.is_complete());
    cluster.apply(Event::OtherNode(Change::Replace(vec![])));
    assert!(cluster.is_complete());
}

#[test]
fn ready_endpoints_or_else_those_that_serve_while_they_terminate() {
    let not_ready = Endpoint { ready: false, serving: false, ..endpoint(2) };
    let ending = Endpoint { ready: false, terminating: true, ..endpoint(3) };
    let ended = Endpoint { serving: false, ..ending.clone() };
    let mut cluster = Cluster::default();
    for (endpoints, expected) in [
        (vec![endpoint(1), not_ready.clone(), ending.clone()], vec![1]),
        (vec![not_ready.clone(), ending.clone()], vec![3]),
        (vec![not_ready, ended], vec![]),
    ] {
        cluster.apply(put(slice("one", "a", endpoints)));
        assert_eq!(usable(&cluster), expected);
    }
}

#[test]
fn slices_are_merged_and_the_entry_that_does_not_terminate_wins() {
    let ending = Endpoint { ready: false, terminating: true, ..endpoint(1) };
    for (first, second) in [(endpoint(1), ending.clone()), (ending, endpoint(1))] {
        let mut cluster = Cluster::default();
        cluster.apply(put(slice("one", "a", vec![first, endpoint(2)])));
        cluster.apply(put(slice("two", "a", vec![second])));
        assert_eq!(usable(&cluster), [1, 2]);
    }
}

#[test]
fn ports_match_by_name_and_protocol() {
    for (name, protocol) in [("other", Protocol::Tcp), ("web", Protocol::Udp)] {
        let mut cluster = Cluster::default();
        let mut one = slice("one", "a", vec![endpoint(1)]);
        one.ports = vec![SlicePort { name: name.into(), protocol, port: 8080 }];
        cluster.apply(put(one));
        assert_eq!(usable(&cluster), [0_u8; 0]);
    }
}

#[test]
fn local_endpoints_are_those_of_this_node_and_have_a_fallback_of_their_own() {
    let here = |number| Endpoint { node: Some("here".into()), ..endpoint(number) };
    let there = |number| Endpoint { node: Some("there".into()), ..endpoint(number) };
    let ending = |endpoint: Endpoint| Endpoint { ready: false, terminating: true, ..endpoint };
    for (endpoints, everywhere, local) in [
        (vec![here(1), there(2), endpoint(3)], vec![1, 2, 3], vec![1]),
        (vec![ending(here(1)), there(2)], vec![2], vec![1]),
        (vec![ending(here(1)), ending(there(2))], vec![1, 2], vec![1]),
        (vec![there(2)], vec![2], vec![]),
    ] {
        let mut cluster = Cluster::default();
        cluster.apply(put(slice("one", "a", endpoints)));
        let chosen = chosen(&cluster);
        assert_eq!((numbers(&chosen.cluster), numbers(&chosen.local)), (everywhere, local));
    }
}

#[test]
fn hints_count_if_every_ready_endpoint_has_them_and_one_is_for_here() {
    let hinted = |number, zones: &[&str], nodes: &[&str]| {
        let names = |list: &[&str]| list.iter().map(|name| (*name).into()).collect();
        let hints = Hints { zones: names(zones), nodes: names(nodes) };
        Endpoint { hints: Some(hints.into()), ..endpoint(number) }
    };
    let unready = |endpoint: Endpoint| Endpoint { ready: false, serving: false, ..endpoint };
    let ending = |endpoint: Endpoint| Endpoint { ready: false, terminating: true, ..endpoint };
    for (why, endpoints, expected) in [
        ("the zone", vec![hinted(1, &["west"], &[]), hinted(2, &["east"], &[])], vec![1]),
        ("several zones", vec![hinted(1, &["west", "east"], &[]), hinted(2, &["east"], &[])], vec![1]),
        ("no zone of ours", vec![hinted(1, &["north"], &[]), hinted(2, &["east"], &[])], vec![1, 2]),
        ("one without", vec![hinted(1, &["west"], &[]), endpoint(2)], vec![1, 2]),
        ("an unready one without", vec![hinted(1, &["west"], &[]), unready(endpoint(2))], vec![1]),
        (
            "the unready one is ours",
            vec![unready(hinted(1, &["west"], &[])), hinted(2, &["east"], &[])],
            vec![2],
        ),
        ("the node", vec![hinted(1, &["west"], &["here"]), hinted(2, &["west"], &["there"])], vec![1]),
        (
            "the node before the zone",
            vec![hinted(1, &["east"], &["here"]), hinted(2, &["west"], &["there"])],
            vec![1],
        ),
        (
            "no node of ours, so the zone",
            vec![hinted(1, &["west"], &["there"]), hinted(2, &["east"], &["there"])],
            vec![1],
        ),
        (
            "node hints on one only",
            vec![hinted(1, &["west"], &["here"]), hinted(2, &["west"], &[])],
            vec![1, 2],
        ),
        (
            "the fallback has no hints",
            vec![ending(hinted(1, &["east"], &[])), ending(hinted(2, &["west"], &[]))],
            vec![1, 2],
        ),
    ] {
        let mut cluster = Cluster::default();
        cluster.apply(put(slice("one", "a", endpoints)));
        assert_eq!(usable(&cluster), expected, "{why}");
    }
}

#[test]
fn an_endpoint_is_in_a_slice_whatever_its_condition() {
    let mut cluster = Cluster::default();
    cluster.apply(put(slice("one", "a", vec![Endpoint { ready: false, serving: false, ..endpoint(1) }])));
    let at = |number: u8, port| RealServerKey { address: ip(&format!("10.244.0.{number}")), port };
    let contains = |protocol, server| {
        !InSlices::of(&cluster).among(&ServiceKey::new("default", "a"), protocol, &[server]).is_empty()
    };
    assert!(contains(Protocol::Tcp, at(1, 8080)));
    assert!(!contains(Protocol::Udp, at(1, 8080)));
    assert!(!contains(Protocol::Tcp, at(1, 8081)));
    assert!(!contains(Protocol::Tcp, at(2, 8080)));
}

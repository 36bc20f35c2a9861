//! Who answers, and whom it sees.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use kube_ipvs::cluster::types::{Family, Protocol};
use libtest_mimic::Trial;

use crate::cluster::{Cluster, Service};
use crate::talk::{self, PROTOCOLS};
use crate::topology::{Kind, PORT, find};
use crate::{CLIENTS, CLUSTER, MASQUERADING_ALL, row, service};

/// Requests of a row: with the scheduler `rr`, each of two endpoints gets half of them.
const REQUESTS: usize = 6;

/// Endpoints ask as well: they reach themselves.
const ENDPOINTS: [&str; 2] = ["pod-1a", "pod-2a"];

pub(crate) fn rows() -> impl Iterator<Item = Trial> {
    let mut rows = Vec::new();
    for family in Family::ALL {
        for protocol in PROTOCOLS {
            for client in CLIENTS.into_iter().chain(ENDPOINTS) {
                for name in ["both", "first", "second"] {
                    let run =
                        move || reaches(&CLUSTER, client, protocol, family, service(name), expected_sources);
                    rows.push(row(&[&"reaches", &name, &client, &protocol, &family], run));
                }
                let run = move || {
                    reaches(
                        &MASQUERADING_ALL,
                        client,
                        protocol,
                        family,
                        service("both"),
                        |client, _, family| find(client).node_addresses(family),
                    );
                };
                rows.push(row(&[&"masquerade-all", &"both", &client, &protocol, &family], run));
                let run = move || stays(client, protocol, family);
                rows.push(row(&[&"affinity", &"sticky", &client, &protocol, &family], run));
            }
        }
        for client in CLIENTS.into_iter().chain(ENDPOINTS) {
            for name in ["both", "none"] {
                let run = move || pings(client, service(name).address(family));
                rows.push(row(&[&"ping", &name, &client, &family], run));
            }
        }
    }
    rows.into_iter()
}

/// The addresses, any of which an endpoint may see of a client (contract 6.6, "ClusterIP, CIDR detector"; `POD_NETWORKS`
/// holds all pods): a pod's own, but for a pod that reaches itself; for everyone else one of the node whose IPVS
/// took the connection.
fn expected_sources(client: &str, server: &str, family: Family) -> Vec<IpAddr> {
    let place = find(client);
    if place.kind == Kind::Pod && client != server {
        vec![place.address(family)]
    } else {
        place.node_addresses(family)
    }
}

/// All endpoints of a Service answer, nobody else does, and they see what they should.
fn reaches(
    cluster: &Cluster,
    client: &'static str,
    protocol: Protocol,
    family: Family,
    service: &Service,
    expected: impl Fn(&str, &str, Family) -> Vec<IpAddr>,
) {
    let target = SocketAddr::new(service.address(family), 80);
    let mut answers = BTreeMap::new();
    for request in 0..REQUESTS {
        let (server, seen) = cluster
            .ask(client, protocol, target)
            .unwrap_or_else(|error| panic!("request {request} of {client} to {target}: {error}"));
        let expected = expected(client, &server, family);
        assert!(expected.contains(&seen), "{server} sees {seen} of {client}; expected one of {expected:?}");
        *answers.entry(server).or_insert(0) += 1;
    }
    let wanted: BTreeMap<_, _> =
        service.endpoints.iter().map(|pod| ((*pod).to_owned(), REQUESTS / service.endpoints.len())).collect();
    assert_eq!(answers, wanted, "who answered {client} how often");
}

/// With session affinity all requests of a client go to one endpoint.
fn stays(client: &'static str, protocol: Protocol, family: Family) {
    let target = SocketAddr::new(service("sticky").address(family), 80);
    let servers: BTreeSet<_> = (0..REQUESTS)
        .map(|_| {
            let (server, seen) = CLUSTER.ask(client, protocol, target).expect("an answer");
            let expected = expected_sources(client, &server, family);
            assert!(
                expected.contains(&seen),
                "{server} sees {seen} of {client}; expected one of {expected:?}"
            );
            server
        })
        .collect();
    assert_eq!(servers.len(), 1, "{servers:?}");
}

fn pings(client: &'static str, address: IpAddr) {
    CLUSTER.host(client).run(move || talk::ping(address)).expect("an answer to the echo request");
}

/// The server of a node answers at the node's own address: what refuses it at service addresses is not its absence.
pub(crate) fn host_process_answers(client: &'static str, protocol: Protocol, family: Family) {
    let place = find(client);
    // A server of UDP that listens on all addresses answers from the one that is nearest to the client, and the
    // client takes answers only from whom it asked.
    let nearest = match place.kind {
        Kind::Pod => place.node_addresses(family).pop().expect("an address"),
        Kind::Node | Kind::Outside => find(place.node).address(family),
    };
    let (server, seen) = CLUSTER.ask(client, protocol, SocketAddr::new(nearest, PORT)).expect("an answer");
    assert_eq!((&*server, seen), (place.node, place.address(family)));
}

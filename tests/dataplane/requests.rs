//! What the table leaves out: masquerading everything, session affinity, pings.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use kube_ipvs::cluster::types::{Family, Protocol};
use libtest_mimic::Trial;

use crate::cluster::{Entry, Policy};
use crate::reference::{self, Fate};
use crate::talk::{self, PROTOCOLS};
use crate::topology::{Kind, PORT, find};
use crate::{CLIENTS, CLUSTER, MASQUERADING_ALL, row, service};

/// The requests of a row: with the scheduler `rr`, each of two endpoints gets half of them.
const REQUESTS: usize = 6;

/// Endpoints are clients, too: they reach themselves.
const ENDPOINTS: [&str; 2] = ["pod-1a", "pod-2a"];

/// Entries other than the cluster IP, with their clients.
const OTHER_ENTRIES: [(&str, Entry); 5] = [
    ("pod-1b", Entry::LoadBalancerIp),
    ("node-2", Entry::ExternalIp),
    ("outside-1", Entry::OwnNodePort),
    ("outside-1", Entry::LoadBalancerIp),
    ("outside-2", Entry::ExternalIp),
];

pub(crate) fn rows() -> impl Iterator<Item = Trial> {
    let mut rows = Vec::new();
    let everybody = || CLIENTS.into_iter().chain(ENDPOINTS);
    for family in Family::ALL {
        for protocol in PROTOCOLS {
            for client in everybody() {
                let run = move || is_masqueraded(client, protocol, family);
                rows.push(row(&[&"masquerade-all", &"both", &client, &protocol, &family], run));
            }
            for (client, entry) in everybody().map(|client| (client, Entry::ClusterIp)).chain(OTHER_ENTRIES) {
                for (name, policy) in [("sticky", Policy::Cluster), ("sticky-local", Policy::Local)] {
                    let run = move || stays(name, client, entry, protocol, family);
                    rows.push(row(&[&"affinity", &policy, &client, &entry, &protocol, &family], run));
                }
            }
        }
        for client in everybody() {
            for name in ["both", "none"] {
                for entry in [Entry::ClusterIp, Entry::ExternalIp, Entry::LoadBalancerIp] {
                    let run = move || pings(name, client, entry, family);
                    rows.push(row(&[&"ping", &name, &client, &entry, &family], run));
                }
            }
        }
    }
    rows.into_iter()
}

/// Both endpoints answer, and see an address of the node whose IPVS took the connection.
fn is_masqueraded(client: &'static str, protocol: Protocol, family: Family) {
    let service = service("both");
    let target = service.target(Entry::ClusterIp, find(client), family);
    let mut answers = BTreeMap::new();
    for request in 0..REQUESTS {
        let (server, seen) = MASQUERADING_ALL
            .ask(client, protocol, target)
            .unwrap_or_else(|error| panic!("request {request} of {client} to {target}: {error}"));
        let expected = find(client).node_addresses(family);
        assert!(expected.contains(&seen), "{server} sees {seen} of {client}; expected one of {expected:?}");
        *answers.entry(server).or_insert(0) += 1;
    }
    let wanted: BTreeMap<_, _> =
        service.endpoints.iter().map(|pod| ((*pod).to_owned(), REQUESTS / service.endpoints.len())).collect();
    assert_eq!(answers, wanted, "who answered {client} how often");
}

/// With session affinity, all requests of a client go to one endpoint.
fn stays(name: &str, client: &'static str, entry: Entry, protocol: Protocol, family: Family) {
    let (service, place) = (service(name), find(client));
    let target = service.target(entry, place, family);
    let Fate::Reaches(reached) = reference::fate(service, entry, place) else { panic!("nobody to reach") };
    let servers: BTreeSet<_> = (0..REQUESTS)
        .map(|_| {
            let (server, seen) = CLUSTER.ask(client, protocol, target).expect("an answer");
            let endpoint = reached.iter().find(|reached| reached.pod == server);
            let endpoint = endpoint.unwrap_or_else(|| panic!("{server} answers; expected {reached:?}"));
            let expected = endpoint.seen.addresses(place, entry.node(place), family);
            assert!(
                expected.contains(&seen),
                "{server} sees {seen} of {client}; expected one of {expected:?}"
            );
            server
        })
        .collect();
    assert_eq!(servers.len(), 1, "{servers:?}");
}

fn pings(name: &str, client: &'static str, entry: Entry, family: Family) {
    let address = service(name).target(entry, find(client), family).ip();
    CLUSTER.host(client).run(move || talk::ping(address)).expect("an answer to the echo request");
}

/// A node's server answers at the node's own address: it is not missing when it does not answer at service addresses.
pub(crate) fn host_process_answers(client: &'static str, protocol: Protocol, family: Family) {
    let place = find(client);
    // A UDP server that listens on all addresses answers from the one that is nearest to the client, and the client
    // accepts answers only from the address that it asked.
    let nearest = match place.kind {
        Kind::Pod => place.node_addresses(family).pop().expect("an address"),
        Kind::Node | Kind::Outside => find(place.node).address(family),
    };
    let (server, seen) = CLUSTER.ask(client, protocol, SocketAddr::new(nearest, PORT)).expect("an answer");
    assert_eq!((&*server, seen), (place.node, place.address(family)));
}

//! Objects that nobody should have written: whatever they contain, each is accepted, skipped or refused by name, and
//! the loop settles on what is left of them.

use kube_ipvs::api::convert::{Converted, Converter, Problem};
use kube_ipvs::api::objects::{self, protobuf};
use kube_ipvs::api::{Change, Event};
use kube_ipvs::cluster::Cluster;
use kube_ipvs::kernel::memory::MemoryKernel;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::assert_converged;
use super::life::Life;
use super::random::{NODE, complete};

/// Usual names, and names that no API server accepts.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => select(vec!["a", "b", "c"]).prop_map(str::to_owned),
        1 => Just("x".repeat(300)),
        1 => Just("a\0b/c\n\"\u{e9}\u{fffd}".to_owned()),
        1 => any::<String>(),
    ]
}

/// Addresses of a Service, of endpoints, of the node, of nobody, and texts that are no address.
fn address() -> impl Strategy<Value = String> {
    let known = vec![
        "10.96.0.1",
        "10.96.0.2",
        "fd00::1",
        "198.51.100.1",
        "192.168.0.1",
        "fd0f::1",
        "10.244.0.1",
        "fd01::1",
        "0.0.0.0",
        "::",
        "127.0.0.1",
        "::1",
        "255.255.255.255",
        "224.0.0.1",
        "ff02::1",
        "fe80::1",
        "169.254.1.1",
        "::ffff:10.96.0.1",
        "010.096.0.01",
        "None",
        "",
    ];
    prop_oneof![
        8 => select(known).prop_map(str::to_owned),
        1 => any::<std::net::IpAddr>().prop_map(|address| address.to_string()),
    ]
}

fn network() -> impl Strategy<Value = String> {
    let known = vec![
        "0.0.0.0/0",
        "::/0",
        "0.0.0.0/1",
        "128.0.0.0/1",
        "255.255.255.255/32",
        "ffff::/16",
        "10.0.0.0/33",
    ];
    prop_oneof![
        select(known).prop_map(str::to_owned),
        (address(), 0..130u8).prop_map(|(address, bits)| format!("{address}/{bits}")),
    ]
}

fn number() -> impl Strategy<Value = i32> {
    prop_oneof![4 => select(vec![80, 53, 30_000, 30_001]), 1 => select(vec![0, -1, 1, 65_535, 65_536]), 1 => any::<i32>()]
}

/// One of these words; sometimes another one.
fn word(words: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop_oneof![5 => select(words), 1 => select(vec!["", "nonsense"])]
}

fn protocol() -> impl Strategy<Value = Option<&'static str>> {
    of(word(&["TCP", "UDP", "SCTP"]))
}

fn metadata() -> impl Strategy<Value = Value> {
    let times = select(vec![
        "2020-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "2262-04-12T00:00:00.1Z",
        "9999-12-30T00:00:00Z",
    ]);
    (name(), of(name()), of(times), of(network())).prop_map(|(name, namespace, time, ranges)| {
        json!({
            "name": name, "namespace": namespace, "uid": name, "creationTimestamp": time,
            "labels": {"kubernetes.io/service-name": name},
            "annotations": {
                "service.beta.kubernetes.io/load-balancer-source-ranges": ranges,
                "endpoints.kubernetes.io/last-change-trigger-time": time,
            },
        })
    })
}

fn service() -> impl Strategy<Value = Value> {
    let port = (of(name()), protocol(), number(), of(number())).prop_map(|(name, protocol, port, node_port)| {
        json!({"name": name, "protocol": protocol, "port": port, "nodePort": node_port})
    });
    let ways = (vec(address(), 0..3), vec(network(), 0..3), vec(address(), 0..3), of(number()));
    let words = (
        of(word(&["ClusterIP", "NodePort", "LoadBalancer"])),
        of(word(&["Cluster", "Local"])),
        of(word(&["Cluster", "Local"])),
        of(word(&["ClientIP", "None"])),
    );
    (metadata(), vec(address(), 0..3), vec(port, 0..4), ways, words).prop_map(
        |(metadata, cluster_ips, ports, (external, ranges, balanced, health), (kind, inside, outside, affinity))| {
            let ingress: Vec<Value> = balanced.iter().map(|ip| json!({"ip": ip})).collect();
            json!({
                "metadata": metadata,
                "spec": {
                    "clusterIPs": cluster_ips, "ports": ports, "externalIPs": external, "type": kind,
                    "loadBalancerSourceRanges": ranges, "healthCheckNodePort": health, "sessionAffinity": affinity,
                    "internalTrafficPolicy": inside, "externalTrafficPolicy": outside,
                },
                "status": {"loadBalancer": {"ingress": ingress}},
            })
        },
    )
}

fn slice() -> impl Strategy<Value = Value> {
    let port = (of(name()), protocol(), of(number()))
        .prop_map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}));
    let hints = select(vec![
        json!(null),
        json!({"forZones": [{"name": "east"}, {}]}),
        json!({"forNodes": [{"name": NODE}]}),
    ]);
    let condition = || of(any::<bool>());
    let endpoint = (vec(address(), 0..2), of(word(&[NODE, "there"])), condition(), condition(), hints)
        .prop_map(|(addresses, node, ready, terminating, hints)| {
            let conditions = json!({"ready": ready, "terminating": terminating});
            json!({"addresses": addresses, "nodeName": node, "conditions": conditions, "hints": hints})
        });
    (metadata(), of(word(&["IPv4", "IPv6", "FQDN"])), vec(port, 0..4), vec(endpoint, 0..5)).prop_map(
        |(metadata, kind, ports, endpoints)| {
            json!({"metadata": metadata, "addressType": kind, "ports": ports, "endpoints": endpoints})
        },
    )
}

fn node() -> impl Strategy<Value = Value> {
    let address = (word(&["InternalIP", "ExternalIP", "Hostname"]), address())
        .prop_map(|(kind, address)| json!({"type": kind, "address": address}));
    (metadata(), vec(address, 0..4), vec(network(), 0..3)).prop_map(|(mut metadata, addresses, networks)| {
        metadata["name"] = json!(NODE);
        json!({"metadata": metadata, "spec": {"podCIDRs": networks}, "status": {"addresses": addresses}})
    })
}

/// The part of an object that is kept. Asserts that every problem names the object.
fn kept<T>(converted: Converted<T>, object: &Value) -> Option<T> {
    let name = object["metadata"]["name"].as_str().filter(|name| !name.is_empty()).unwrap_or("(no name)");
    let check = |problem: &Problem| assert!(problem.to_string().contains(name), "{problem}");
    match converted {
        Converted::Kept { object, problems } => {
            problems.iter().for_each(check);
            Some(object)
        }
        Converted::Refused(problem) => {
            check(&problem);
            None
        }
        Converted::Ignored => None,
    }
}

/// The event that a source makes of such an object.
fn event() -> impl Strategy<Value = Option<Event>> {
    let text = |object: &Value| object.to_string();
    prop_oneof![
        4 => service().prop_map(move |object| {
            let converted = Converter::new().service(&serde_json::from_str(&text(&object)).expect("a Service"));
            kept(converted, &object).map(|service| Event::Service(Change::Upsert(service)))
        }),
        4 => slice().prop_map(move |object| {
            let converted = Converter::new().slice(&serde_json::from_str(&text(&object)).expect("a slice"));
            kept(converted, &object).map(|slice| Event::Slice(Change::Upsert(slice)))
        }),
        1 => node().prop_map(move |object| {
            let converted = Converter::new().node(&serde_json::from_str(&text(&object)).expect("a Node"));
            kept(converted, &object).map(|node| Event::Node(Change::Upsert(node)))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn strange_objects_are_served_as_far_as_they_make_sense(events in vec(event(), 1..24)) {
        let mut life = Life::new(MemoryKernel::default());
        let mut cluster = Cluster::default();
        for event in complete().into_iter().chain(events.into_iter().flatten()) {
            cluster.apply(event.clone());
            life.feed([event]);
        }
        life.settle();
        assert_converged(&life, &cluster);
    }

    /// Parts of messages in any order, cut anywhere, cause an error at worst.
    #[test]
    fn bytes_that_are_no_message_are_an_error_at_worst(
        fields in vec((0..24u8, 0..8u8, vec(any::<u8>(), 0..12)), 0..12),
        cut in 0..64usize,
    ) {
        let mut message = Vec::new();
        for (number, kind, content) in fields {
            message.push(number << 3 | kind);
            message.push(u8::try_from(content.len()).expect("few"));
            message.extend(content);
        }
        message.truncate(message.len().saturating_sub(cut));
        let mut converter = Converter::new();
        if let Ok(object) = protobuf::decode::<objects::Service<'_>>(&message) {
            drop(converter.service(&object));
        }
        if let Ok(object) = protobuf::decode::<objects::EndpointSlice<'_>>(&message) {
            drop(converter.slice(&object));
        }
        if let Ok(object) = protobuf::decode::<objects::Node<'_>>(&message) {
            drop(converter.node(&object));
        }
    }
}

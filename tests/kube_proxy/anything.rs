//! Random Services and EndpointSlices of every kind that the API server accepts, the same ones in each run. No two
//! Services share an address or a node port: the README describes where kube-ipvs differs from kube-proxy then.

use kube_ipvs::cluster::types::Family;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};

/// The number of Services.
const SERVICES: u16 = 300;
/// The first node port: each Service has three, and one for its health check.
const FIRST_NODE_PORT: u16 = 30_000;
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
const ZONES: [&str; 2] = ["east", "west"];

/// A Service and its slices.
#[derive(Clone, Debug)]
pub(crate) struct Anything {
    pub(crate) service: Value,
    pub(crate) slices: Vec<Value>,
}

/// The zone of a node.
pub(crate) fn zone(node: &str) -> &'static str {
    ZONES[usize::from(node == "node-2")]
}

impl Anything {
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Value> {
        [&self.service].into_iter().chain(&self.slices)
    }
}

/// Two clusters whose Services have the same names.
pub(crate) fn two() -> [Vec<Anything>; 2] {
    let mut runner = TestRunner::deterministic();
    let mut one = |number| anything(number).new_tree(&mut runner).expect("a value").current();
    [(); 2].map(|()| (1..=SERVICES).map(&mut one).collect())
}

fn anything(number: u16) -> impl Strategy<Value = Anything> {
    let families = select(vec![vec![Family::V4], vec![Family::V6], vec![Family::V4, Family::V6]]);
    families.prop_flat_map(move |families| {
        let slices = (0..4).map(|index| proptest::option::of(slice(number, index, families.clone())));
        let slices: Vec<_> = slices.collect();
        (service(number, families), slices).prop_map(|(service, slices)| Anything {
            service,
            slices: slices.into_iter().flatten().collect(),
        })
    })
}

fn address(family: Family, [four, six]: [&str; 2], number: u16) -> String {
    match family {
        Family::V4 => format!("{four}.{}.{}", number / 200, number % 200 + 1),
        Family::V6 => format!("{six}::{number:x}"),
    }
}

fn service(number: u16, families: Vec<Family>) -> impl Strategy<Value = Value> {
    let kind = prop_oneof![
        4 => Just("ClusterIP"), 3 => Just("NodePort"), 6 => Just("LoadBalancer"),
        1 => Just("headless"), 1 => Just("ExternalName"), 1 => Just("of somebody else")
    ];
    let policy = || select(vec!["Cluster", "Local"]);
    let affinity = proptest::option::weighted(0.3, 1..86_400u32);
    let ports = subsequence(PORTS.to_vec(), 1..4);
    let distribution =
        proptest::option::weighted(0.3, select(vec!["PreferClose", "PreferSameZone", "PreferSameNode"]));
    let outside = (any::<bool>(), 0..3u16, proptest::bool::weighted(0.8), ranges());
    (kind, policy(), policy(), affinity, ports, distribution, outside).prop_map(
        move |(kind, internal, external, affinity, ports, distribution, outside)| {
            let (external_ip, balanced, node_ports, ranges) = outside;
            let named = ports.len() > 1;
            let mut spec = json!({"type": kind, "internalTrafficPolicy": internal});
            let mut ports: Vec<Value> = ports.iter().map(|port| port.json(named)).collect();
            let mut metadata = json!({"namespace": "default", "name": format!("s{number}")});
            let mut status = json!({});
            let addresses = |ranges| -> Vec<String> {
                families.iter().map(|family| address(*family, ranges, number)).collect()
            };
            spec["ipFamilies"] = families.iter().map(ToString::to_string).collect::<Vec<_>>().into();
            spec["ipFamilyPolicy"] =
                if families.len() == 2 { "RequireDualStack" } else { "SingleStack" }.into();
            spec["clusterIPs"] = addresses(["10.96", "fd00:10:96"]).into();
            if let Some(seconds) = affinity {
                spec["sessionAffinity"] = "ClientIP".into();
                spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
            }
            if let Some(distribution) = distribution {
                spec["trafficDistribution"] = distribution.into();
            }
            match kind {
                "headless" => {
                    spec["type"] = "ClusterIP".into();
                    spec["clusterIPs"] = json!(["None"]);
                }
                "ExternalName" => {
                    spec = json!({"type": "ExternalName", "externalName": "example.org"});
                }
                "of somebody else" => {
                    spec["type"] = "ClusterIP".into();
                    metadata["labels"] = json!({"service.kubernetes.io/service-proxy-name": "somebody"});
                }
                "ClusterIP" => {}
                _ => {
                    spec["externalTrafficPolicy"] = external.into();
                    if kind == "LoadBalancer" && !node_ports {
                        spec["allocateLoadBalancerNodePorts"] = false.into();
                    } else {
                        for (index, port) in (0..).zip(&mut ports) {
                            port["nodePort"] = (FIRST_NODE_PORT + number * 4 + index).into();
                        }
                    }
                }
            }
            if kind == "LoadBalancer" {
                if external == "Local" {
                    spec["healthCheckNodePort"] = (FIRST_NODE_PORT + number * 4 + 3).into();
                }
                if !ranges.is_empty() {
                    spec["loadBalancerSourceRanges"] = ranges.into();
                }
                let ingress = (0..balanced).flat_map(|which| {
                    let ranges = [["198.19", "2001:db8:b"], ["198.20", "2001:db8:c"]][usize::from(which)];
                    addresses(ranges)
                        .into_iter()
                        .map(move |ip| json!({"ip": ip, "ipMode": if which == 0 { "VIP" } else { "Proxy" }}))
                });
                status = json!({"loadBalancer": {"ingress": ingress.collect::<Vec<_>>()}});
            }
            if external_ip && kind != "ExternalName" && kind != "headless" {
                spec["externalIPs"] = addresses(["198.18", "2001:db8:e"]).into();
                spec["externalTrafficPolicy"] = external.into();
            }
            if kind != "ExternalName" {
                spec["ports"] = ports.into();
            }
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec, "status": status
            })
        },
    )
}

#[derive(Clone, Copy, Debug)]
struct Port {
    name: &'static str,
    protocol: &'static str,
    number: u16,
}

const PORTS: [Port; 4] = [
    Port { name: "web", protocol: "TCP", number: 80 },
    Port { name: "dns", protocol: "UDP", number: 53 },
    Port { name: "dns-tcp", protocol: "TCP", number: 53 },
    Port { name: "signals", protocol: "SCTP", number: 99 },
];

impl Port {
    fn json(self, named: bool) -> Value {
        let mut port = json!({"port": self.number, "protocol": self.protocol});
        if named {
            port["name"] = self.name.into();
        }
        port
    }
}

fn ranges() -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(vec!["10.0.0.0/8", "192.168.0.0/24", "fd0a::/64", "0.0.0.0/0"], 0..3)
}

/// A slice of one of the families, whose ports have any of the Services' port names, also of ports that this Service
/// does not have. An endpoint in two slices is avoided, since kube-proxy takes it from either one; some endpoints are
/// twice in one slice.
fn slice(service: u16, index: u16, families: Vec<Family>) -> impl Strategy<Value = Value> {
    let port = (select(PORTS.to_vec()), any::<bool>(), 8080..8083u16, proptest::bool::weighted(0.95))
        .prop_map(|(port, named, number, numbered)| {
            let mut json = json!({"name": if named { port.name } else { "" }, "protocol": port.protocol});
            if numbered {
                json["port"] = number.into();
            }
            json
        });
    let ports = proptest::collection::vec(port, 1..5).prop_map(|mut ports| {
        let mut names = Vec::new();
        ports.retain(|port| {
            let is_new = !names.contains(&port["name"]);
            names.push(port["name"].clone());
            is_new
        });
        ports
    });
    (select(families), ports).prop_flat_map(move |(family, ports)| {
        proptest::collection::vec(endpoint(family, index * 20), 0..5).prop_map(move |endpoints| {
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "namespace": "default", "name": format!("s{service}-{index}"),
                    "labels": {"kubernetes.io/service-name": format!("s{service}")},
                },
                "addressType": family.to_string(), "ports": ports.clone(), "endpoints": endpoints,
            })
        })
    })
}

fn endpoint(family: Family, first: u16) -> impl Strategy<Value = Value> {
    let condition = || select(vec![None, Some(true), Some(true), Some(false)]);
    let conditions = (condition(), condition(), select(vec![None, Some(false), Some(true)]));
    let hints = proptest::option::weighted(
        0.5,
        (subsequence(ZONES.to_vec(), 0..=2), subsequence(NODES.to_vec(), 0..=3)),
    );
    (1..20u16, conditions, hints).prop_map(move |(number, conditions, hints)| {
        // Each address is on one node.
        let node = NODES.get(usize::from(number) % 4).copied();
        let mut endpoint = json!({"addresses": [address(family, ["10.245", "fd00:10:245"], first + number)]});
        let mut map = Map::new();
        let (ready, serving, terminating) = conditions;
        for (name, value) in [("ready", ready), ("serving", serving), ("terminating", terminating)] {
            if let Some(value) = value {
                map.insert(name.to_owned(), value.into());
            }
        }
        endpoint["conditions"] = map.into();
        if let Some(node) = node {
            endpoint["nodeName"] = node.into();
            endpoint["zone"] = zone(node).into();
        }
        if let Some((zones, nodes)) = hints {
            let named = |names: Vec<&str>| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
            endpoint["hints"] = json!({"forZones": named(zones), "forNodes": named(nodes)});
        }
        endpoint
    })
}

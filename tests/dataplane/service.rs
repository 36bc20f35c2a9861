//! Services for the tests, and their manifests.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use kube_ipvs::cluster::types::{Family, Protocol};
use serde_json::{Value, json};

use crate::talk;
use crate::topology::{PORT, Place, find};

/// A Service of both families, with one port of each protocol.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) name: String,
    /// The last part of its addresses.
    pub(crate) number: u16,
    /// The last part of its load balancer address.
    pub(crate) load_balancer_number: u16,
    /// Its port, except for node ports.
    pub(crate) port: u16,
    /// The pods.
    pub(crate) endpoints: Vec<&'static str>,
    /// The conditions of endpoints that are not ready.
    pub(crate) conditions: BTreeMap<&'static str, Condition>,
    /// How many seconds a client stays with its endpoint.
    pub(crate) affinity_seconds: Option<u32>,
    /// `internalTrafficPolicy`.
    pub(crate) internal: Policy,
    /// `externalTrafficPolicy`.
    pub(crate) external: Policy,
    /// `loadBalancerSourceRanges`.
    pub(crate) source_ranges: Vec<&'static str>,
    /// Whether it has node ports, external IPs and a load balancer.
    pub(crate) exposed: bool,
}

/// The state of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Ready,
    NotReady,
    /// Terminating, but still serving.
    ServingTerminating,
}

impl Condition {
    fn manifest(self) -> Value {
        let (ready, serving, terminating) = match self {
            Self::Ready => (true, true, false),
            Self::NotReady => (false, false, false),
            Self::ServingTerminating => (false, true, true),
        };
        json!({"ready": ready, "serving": serving, "terminating": terminating})
    }
}

/// A traffic policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Policy {
    Cluster,
    Local,
}

/// An entry of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    ClusterIp,
    /// On the client's own node; for clients outside, on the node with the same number.
    OwnNodePort,
    OtherNodePort,
    ExternalIp,
    LoadBalancerIp,
}

impl Entry {
    pub(crate) const ALL: [Self; 5] =
        [Self::ClusterIp, Self::OwnNodePort, Self::OtherNodePort, Self::ExternalIp, Self::LoadBalancerIp];
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "ClusterIP",
            Self::OwnNodePort => "NodePort-own",
            Self::OtherNodePort => "NodePort-other",
            Self::ExternalIp => "ExternalIP",
            Self::LoadBalancerIp => "LoadBalancerIP",
        })
    }
}

impl Entry {
    /// The node that takes in what a client sends to this entry.
    pub(crate) fn node(self, client: &Place) -> &'static str {
        match (self, client.node) {
            (Self::OtherNodePort, "node-1") => "node-2",
            (Self::OtherNodePort, _) => "node-1",
            (_, own) => own,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        })
    }
}

impl Service {
    /// A Service with a cluster IP only.
    pub(crate) fn new(name: &str, number: u16, endpoints: &[&'static str]) -> Self {
        Self {
            name: name.to_owned(),
            number,
            load_balancer_number: number,
            port: 80,
            endpoints: endpoints.to_vec(),
            conditions: BTreeMap::new(),
            affinity_seconds: None,
            internal: Policy::Cluster,
            external: Policy::Cluster,
            source_ranges: vec![],
            exposed: false,
        }
    }

    /// A Service with all entries.
    pub(crate) fn exposed(name: &str, number: u16, endpoints: &[&'static str]) -> Self {
        Self { exposed: true, ..Self::new(name, number, endpoints) }
    }

    /// Its cluster IP.
    pub(crate) fn address(&self, family: Family) -> IpAddr {
        in_network(["10.96.", "fd00:10:96::"], self.number, family)
    }

    /// The condition of an endpoint.
    pub(crate) fn condition(&self, pod: &str) -> Condition {
        self.conditions.get(pod).copied().unwrap_or(Condition::Ready)
    }

    /// The same Service, with all endpoints in this condition.
    pub(crate) fn all(self, condition: Condition) -> Self {
        let conditions = self.endpoints.iter().map(|pod| (*pod, condition)).collect();
        Self { conditions, ..self }
    }

    fn external_ip(&self, family: Family) -> IpAddr {
        in_network(["198.18.", "2001:db8:e::"], self.number, family)
    }

    fn load_balancer_ip(&self, family: Family) -> IpAddr {
        in_network(["198.19.", "2001:db8:b::"], self.load_balancer_number, family)
    }

    fn node_port(&self) -> u16 {
        30_000 + self.number
    }

    /// Where a client reaches this entry.
    pub(crate) fn target(&self, entry: Entry, client: &Place, family: Family) -> SocketAddr {
        let (address, port) = match entry {
            Entry::ClusterIp => (self.address(family), self.port),
            Entry::ExternalIp => (self.external_ip(family), self.port),
            Entry::LoadBalancerIp => (self.load_balancer_ip(family), self.port),
            Entry::OwnNodePort | Entry::OtherNodePort => {
                (find(entry.node(client)).address(family), self.node_port())
            }
        };
        SocketAddr::new(address, port)
    }

    /// The Service and its slices.
    pub(crate) fn manifest(&self) -> Value {
        let mut items = vec![self.object()];
        items.extend(Family::ALL.map(|family| self.slice(family)));
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    }

    fn object(&self) -> Value {
        let addresses = Family::ALL.map(|family| self.address(family).to_string());
        let mut spec = json!({
            "clusterIP": addresses[0], "clusterIPs": addresses,
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "ports": ports(self.port), "internalTrafficPolicy": self.internal.to_string(),
        });
        if let Some(seconds) = self.affinity_seconds {
            spec["sessionAffinity"] = "ClientIP".into();
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
        }
        let mut status = json!({});
        if self.exposed {
            spec["type"] = "LoadBalancer".into();
            for port in spec["ports"].as_array_mut().into_iter().flatten() {
                port["nodePort"] = self.node_port().into();
            }
            spec["externalIPs"] =
                Family::ALL.map(|family| self.external_ip(family).to_string()).to_vec().into();
            spec["externalTrafficPolicy"] = self.external.to_string().into();
            spec["loadBalancerSourceRanges"] = self.source_ranges.clone().into();
            let ingress = Family::ALL.map(|family| json!({"ip": self.load_balancer_ip(family).to_string()}));
            status = json!({"loadBalancer": {"ingress": ingress}});
        }
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": self.name},
            "spec": spec, "status": status,
        })
    }

    fn slice(&self, family: Family) -> Value {
        let endpoint = |pod: &&'static str| {
            let place = find(pod);
            json!({
                "addresses": [place.address(family)], "nodeName": place.node,
                "conditions": self.condition(pod).manifest(),
            })
        };
        let endpoints: Vec<_> = self.endpoints.iter().map(endpoint).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default", "name": format!("{}-{family}", self.name).to_lowercase(),
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": family.to_string(), "ports": ports(PORT), "endpoints": endpoints,
        })
    }
}

/// One port of this number for each protocol.
fn ports(number: u16) -> Vec<Value> {
    let port = |protocol: Protocol| {
        let name = protocol.to_string();
        json!({"name": name.to_lowercase(), "port": number, "protocol": name})
    };
    talk::PROTOCOLS.map(port).to_vec()
}

fn in_network([four, six]: [&str; 2], number: u16, family: Family) -> IpAddr {
    let text = match family {
        Family::V4 => format!("{four}{}.{}", number / 256, number % 256),
        Family::V6 => format!("{six}{number:x}"),
    };
    text.parse().expect("an address")
}

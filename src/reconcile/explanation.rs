//! What this node knows of a Service, what it wants, and what became of it: plain values, for people who ask.
//!
//! It is what the loop believes. The kernel is not read for it: the audit does that all the time, and repairs what it finds.
//! Addresses, keys and times are texts and numbers as logs and metrics have them.

use std::fmt::Display;

use serde::{Serialize, Serializer};

use crate::cluster::topology::{EndpointUse, Near};
use crate::cluster::types::{Family, Policy, Protocol};
use crate::state::VirtualServerKey;

/// Shown as in logs and metrics.
fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Explanation {
    /// A Service.
    Service(Box<ServiceExplained>),
    /// An address.
    Address(AddressExplained),
    /// What is not as wanted, of all Services.
    Troubled(TroubledServices),
}

/// How something in the kernel does; of several the worst, which is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// As wanted, by all that is known.
    Written,
    /// Another Service has it.
    Conflict,
    /// Not written yet.
    Waiting,
    /// Unknown: it is about to be read.
    Uncertain,
    /// The kernel refused it. It is tried again.
    Refused,
}

/// One Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceExplained {
    /// `namespace/name`.
    pub service: String,
    /// The worst of all that it asks for, and of what everything stands on.
    pub state: Standing,
    /// What is out of the ordinary, in sentences.
    pub findings: Vec<String>,
    /// This node's name.
    pub node: String,
    /// This node's zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What the Service says.
    pub facts: Facts,
    /// Its EndpointSlices.
    pub endpoint_slices: Vec<Slice>,
    /// Its ports, family by family, with what becomes of their endpoints.
    pub ports: Vec<Port>,
    /// Where it is reached.
    pub entry_points: Vec<EntryPoint>,
    /// Its addresses.
    pub addresses: Vec<ServiceAddress>,
    /// What is not as wanted of all this, and of what everything stands on.
    pub not_as_wanted: Vec<Object>,
}

/// What a Service says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    #[serde(rename = "clusterIPs")]
    /// Its cluster IPs.
    pub cluster_ips: Vec<String>,
    /// Its external IPs.
    #[serde(rename = "externalIPs", skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<String>,
    /// The load balancer's addresses that nodes answer for.
    #[serde(rename = "loadBalancerIPs", skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_ips: Vec<String>,
    /// `internalTrafficPolicy`.
    pub internal_traffic_policy: Policy,
    /// `externalTrafficPolicy`, where there is a way in from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<Policy>,
    /// `sessionAffinity: ClientIP`: for how many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity_seconds: Option<u32>,
    /// Who may use the load balancer's addresses; none: everybody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_source_ranges: Vec<String>,
    /// Where load balancers ask for this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check_node_port: Option<u16>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Slice {
    /// Its name in the Service's namespace.
    pub name: String,
    /// Its family.
    #[serde(serialize_with = "text")]
    pub family: Family,
    /// Its ports: `name protocol number`.
    pub ports: Vec<String>,
    /// How many endpoints it has.
    pub endpoints: usize,
}

/// A port of a Service, in one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Its name, by which slices refer to it; empty for an unnamed one.
    pub name: String,
    /// The family.
    #[serde(serialize_with = "text")]
    pub family: Family,
    /// Its protocol.
    #[serde(serialize_with = "text")]
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
    /// Its node port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
    /// Which hints decide, of those that the endpoints have.
    pub hints: Near,
    /// How many endpoints new connections go to where the policy is `Cluster`.
    pub used_with_policy_cluster: usize,
    /// The same where it is `Local`.
    pub used_with_policy_local: usize,
    /// All endpoints.
    pub endpoints: Vec<PortEndpoint>,
}

/// An endpoint of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortEndpoint {
    /// Its address and port.
    pub endpoint: String,
    /// The node that it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether that is this node.
    pub local: bool,
    /// Its conditions: of ready, serving, terminating those that hold.
    pub conditions: Vec<&'static str>,
    /// Whether new connections go to it where the policy is `Cluster`.
    pub policy_cluster: EndpointUse,
    /// The same where it is `Local`.
    pub policy_local: EndpointUse,
}

/// Where a Service is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryPoint {
    /// Protocol, address and port, as logs name virtual servers.
    #[serde(serialize_with = "text")]
    pub virtual_server: VirtualServerKey,
    /// What kind it is.
    pub kind: EntryPointKind,
    /// How the virtual server and the elements about it do.
    pub state: Standing,
    /// The Service that has it, where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub belongs_to: Option<String>,
    /// What becomes of new connections, once it is written.
    pub new_connections: NewConnections,
    /// Which endpoints it leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// How a real server is chosen.
    pub scheduler: String,
    /// For how many seconds a client stays with its real server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistence_seconds: Option<u32>,
    /// Who may use it; none: everybody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_sources: Vec<String>,
    /// Where clients inside the cluster are sent instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clients_inside_go_to: Option<String>,
    /// The sets of our nftables table that have it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<&'static str>,
    /// Its real servers: those that are wanted, and those that are still there.
    pub real_servers: Vec<RealServer>,
}

/// What kind of entry point it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum EntryPointKind {
    /// A cluster IP.
    #[serde(rename = "cluster IP")]
    ClusterIp,
    /// An external IP.
    #[serde(rename = "external IP")]
    ExternalIp,
    /// A load balancer's address.
    #[serde(rename = "load balancer")]
    LoadBalancer,
    /// A node port on an address of the node.
    #[serde(rename = "node port")]
    NodePort,
    /// Where clients inside the cluster are sent from the others, if not to the cluster IP.
    #[serde(rename = "for clients inside the cluster that ask an entry point with policy Local")]
    Inside,
    /// It is none any more by the Service's newest facts, which were not looked at yet.
    #[serde(rename = "none any more")]
    NoneAnyMore,
}

impl Display for EntryPointKind {
    /// As it is shown: see there.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

/// What becomes of new connections to an entry point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum NewConnections {
    /// They go to real servers.
    #[serde(rename = "are balanced")]
    Balanced,
    /// They are dropped: its policy has no endpoint here, and others have some.
    #[serde(rename = "are dropped")]
    Dropped,
    /// They are refused: there is no endpoint.
    #[serde(rename = "are refused")]
    Refused,
    /// Another Service has the entry point.
    #[serde(rename = "go to the Service that has it")]
    OtherService,
}

/// A real server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RealServer {
    /// Its address and port.
    pub endpoint: String,
    /// The weight that is wanted.
    pub weight: u32,
    /// How it does.
    pub state: RealServerState,
    /// It drains: in how many seconds it goes at the latest. None: its endpoint is still in a slice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goes_in_seconds: Option<u64>,
}

/// How a real server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RealServerState {
    /// As wanted.
    Written,
    /// Not written yet.
    Waiting,
    /// It gets no new connections, and goes when it has none any more.
    Draining,
    /// It is removed next.
    Going,
}

/// A service address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAddress {
    /// The address.
    pub address: String,
    /// What has it.
    pub on: String,
    /// How it does there.
    pub state: Standing,
}

/// Something in the kernel that is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    /// What it is, as logs and `/healthz` name it.
    pub object: String,
    /// How it does.
    pub state: Standing,
    /// What the kernel said, or what it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How often in a row it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// In how many seconds it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tried_again_in_seconds: Option<u64>,
}

/// One address, and what there is at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressExplained {
    /// The address.
    pub address: String,
    /// The Services that have it as one of theirs.
    pub services: Vec<String>,
    /// The entry points there, of these and of node ports.
    pub entry_points: Vec<AddressEntryPoint>,
    /// Virtual servers there that are not ours, when they were last listed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub foreign_virtual_servers: Vec<String>,
}

/// An entry point at an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressEntryPoint {
    /// Protocol, address and port.
    pub virtual_server: String,
    /// Who has it; none: nobody wants it any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Who else asks for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
    /// How many real servers get new connections.
    pub real_servers: usize,
    /// How the virtual server does.
    pub state: Standing,
}

/// The Services of which something is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TroubledServices {
    /// How many Services are known.
    pub known_services: usize,
    /// Whether the lists of Services, EndpointSlices and Nodes have all come, and all that follows from them was written once
    /// as far as the kernel takes it.
    pub synced_once: bool,
    /// Those of which the kernel refuses something, or of which something is uncertain. Some of them, if there are many.
    pub troubled: Vec<TroubledService>,
    /// Objects that are not as wanted, of all Services and of none.
    pub objects_not_as_wanted: usize,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TroubledService {
    /// `namespace/name`.
    pub service: String,
    /// The worst of what is known to be wrong.
    pub state: Standing,
}

//! What this node knows of a Service, what it wants, and what became of that: plain values, for people who ask.
//!
//! This is what the loop believes. The kernel is not read to answer: the audit reads it all the time, and repairs what
//! it finds. Addresses, keys and times are texts and numbers as in logs and metrics.

use std::fmt::Display;

use serde::{Serialize, Serializer};

use crate::cluster::topology::{EndpointUse, Near};
use crate::cluster::types::{Family, Policy, Protocol};
use crate::state::VirtualServerKey;

/// Shown as in logs and metrics.
fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// The answer to a question.
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

/// The state of something in the kernel. Of several things the worst state counts, which is the last here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// As wanted, by all that is known.
    Written,
    /// Another Service has it.
    Conflict,
    /// Not written yet.
    Waiting,
    /// Not known: it is about to be read.
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
    /// The worst state of everything that it asks for, and of the foundations.
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
    /// Its entry points: where it is reached.
    pub entry_points: Vec<EntryPoint>,
    /// Its addresses.
    pub addresses: Vec<ServiceAddress>,
    /// What is not as wanted, of all this and of the foundations.
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
    /// For how many seconds `sessionAffinity: ClientIP` holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity_seconds: Option<u32>,
    /// Who may use the load balancer's addresses; none: everybody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_source_ranges: Vec<String>,
    /// The port where load balancers ask about this node.
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
    /// Which of the endpoints' hints decide.
    pub hints: Near,
    /// How many endpoints new connections go to under policy `Cluster`.
    pub used_with_policy_cluster: usize,
    /// The same under policy `Local`.
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
    /// Those of the conditions ready, serving and terminating that hold.
    pub conditions: Vec<&'static str>,
    /// Whether new connections go to it under policy `Cluster`, or why not.
    pub policy_cluster: EndpointUse,
    /// The same under policy `Local`.
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
    /// The state of the virtual server and of the elements about it.
    pub state: Standing,
    /// The Service that has this entry point, where that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub belongs_to: Option<String>,
    /// What becomes of new connections, once it is written.
    pub new_connections: NewConnections,
    /// The traffic policy, which decides on the endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// The IPVS scheduler, which chooses the real server.
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
    /// The sets of our nftables table that contain it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<&'static str>,
    /// Its real servers: those that are wanted, and those that still exist.
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
    /// A virtual server to which clients inside the cluster are sent from other entry points, if not the cluster IP.
    #[serde(rename = "for clients inside the cluster that ask an entry point with policy Local")]
    Inside,
    /// It is no longer an entry point by the Service's newest facts, which were not looked at yet.
    #[serde(rename = "none any more")]
    NoneAnyMore,
}

impl Display for EntryPointKind {
    /// Shows the kind as it is serialized.
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
    /// They are dropped: the policy leaves no endpoint here, and there are endpoints elsewhere.
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
    /// Its state.
    pub state: RealServerState,
    /// In how many seconds it goes at the latest. None: it does not drain, or its endpoint is still in a slice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goes_in_seconds: Option<u64>,
}

/// The state of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RealServerState {
    /// As wanted.
    Written,
    /// Not written yet.
    Waiting,
    /// It gets no new connections, and goes when it has none left.
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
    /// What has the address: a device of this node, this node by its Node object only, or another node.
    pub on: String,
    /// Its state there.
    pub state: Standing,
}

/// Something in the kernel that is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    /// What it is, as logs and `/healthz` name it.
    pub object: String,
    /// Its state.
    pub state: Standing,
    /// What the kernel said, or what the object waits for.
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
    /// The entry points at the address, those of node ports included.
    pub entry_points: Vec<AddressEntryPoint>,
    /// Virtual servers at the address that are not ours, as last listed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub foreign_virtual_servers: Vec<String>,
}

/// An entry point at an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressEntryPoint {
    /// Protocol, address and port.
    pub virtual_server: String,
    /// The Service that has it; none: no Service wants it any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The other Services that ask for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
    /// How many real servers get new connections.
    pub real_servers: usize,
    /// The state of the virtual server.
    pub state: Standing,
}

/// The Services for which something is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TroubledServices {
    /// How many Services are known.
    pub known_services: usize,
    /// Whether the lists of Services, EndpointSlices and Nodes have all come, and everything that follows from them was
    /// written once, as far as the kernel accepts it.
    pub synced_once: bool,
    /// The Services for which the kernel refuses something, or something is uncertain; only some of them if there are
    /// many.
    pub troubled: Vec<TroubledService>,
    /// How many objects are not as wanted, whether or not they belong to a Service.
    pub objects_not_as_wanted: usize,
}

/// A Service for which something is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TroubledService {
    /// `namespace/name`.
    pub service: String,
    /// The worst of what is known to be wrong.
    pub state: Standing,
}

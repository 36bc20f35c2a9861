//! The vocabulary: what the rest of the program knows of Kubernetes objects.
//!
//! Sources of facts (`crate::api`) turn their objects into these types once, at the edge; nothing behind
//! them ever sees a Kubernetes type. Text that repeats is shared (`Arc<str>`).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

mod uid;
pub use uid::Uid;

/// An IP family; each makes progress alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order in which they are worked on.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The family of a network's addresses.
    pub fn of_network(network: &IpNet) -> Self {
        Self::of(network.addr())
    }

    /// `0.0.0.0` or `::`: the address of nobody, and the lowest of the family. Those of IPv4 come before those of IPv6.
    pub fn unspecified_address(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// The length of a prefix that names one address: 32 or 128.
    pub fn host_prefix(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    /// The value of kube-proxy's label `ip_family`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A transport protocol that a Service port may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP (6).
    Tcp,
    /// UDP (17).
    Udp,
    /// SCTP (132).
    Sctp,
}

impl Protocol {
    /// The number in the IP header (IANA protocol numbers).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol with this number in the IP header, if it is one of the three.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A namespace and a name in it as one shared text, since a large cluster has hundreds of thousands of them and each is
/// held in several places. Between the two stands [`Names::BETWEEN`], which sorts before all that a name may hold: the
/// order is that of namespaces, then of names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Names(Arc<str>);

impl Names {
    const BETWEEN: &str = "\0";

    fn new(namespace: &str, name: &str) -> Self {
        Self([namespace, Self::BETWEEN, name].concat().into())
    }

    /// Namespace and name.
    fn both(&self) -> (&str, &str) {
        self.0.split_once(Self::BETWEEN).expect("made of two")
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (namespace, name) = self.both();
        write!(f, "{namespace}/{name}")
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Kinds of keys that are a namespace and a name in it.
macro_rules! keys {
    ($($(#[$meta:meta])* $key:ident)*) => { $(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $key(Names);

        impl $key {
            /// The key of `name` in `namespace`.
            pub fn new(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
                Self(Names::new(namespace.as_ref(), name.as_ref()))
            }

            /// The namespace.
            pub fn namespace(&self) -> &str {
                self.0.both().0
            }

            /// The name inside the namespace.
            pub fn name(&self) -> &str {
                self.0.both().1
            }
        }

        impl fmt::Display for $key {
            /// `namespace/name`.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )* };
}

keys! {
    /// Namespace and name of a Service. Copies share their text.
    ServiceKey
    /// Namespace and name of an EndpointSlice. Copies share their text.
    SliceKey
}

/// A Service that this proxy serves: it has a cluster IP, is not headless, not ExternalName, and not another
/// proxy's (contract 4.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub key: ServiceKey,
    /// Which of the objects of this name it is; `None` where the source does not say. For Events about it.
    pub uid: Option<Uid>,
    /// Seconds since 1970 at which the object was created; 0 where the source does not say. Of two
    /// Services that claim the same address, protocol and port in the same role, the older one has it.
    pub created_seconds: i64,
    /// At most one address per family, primary first.
    pub cluster_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// `sessionAffinity: ClientIP`: for how many seconds after its last connection a client stays with its endpoint.
    pub affinity_seconds: Option<u32>,
    /// `internalTrafficPolicy`: which endpoints the cluster IPs lead to.
    pub internal_policy: Policy,
    /// How it is reached besides its cluster IPs; `None`: not at all. Few Services have it.
    pub external: Option<Box<External>>,
    /// What of the object is invalid and left out, or valid and not served, in words; `None`: nothing. Few Services have it.
    pub remarks: Option<Box<str>>,
}

/// Which endpoints an entry point leads to. It is shown as in a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Policy {
    /// Those of the whole cluster.
    #[default]
    Cluster,
    /// Those on this node, if there are any; what comes from outside keeps its source address.
    Local,
}

/// The entry points of a Service besides its cluster IPs. Node ports are with the ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct External {
    /// `externalIPs`, of whatever family.
    pub external_ips: Vec<IpAddr>,
    /// The load balancer's addresses that this node answers for: `status.loadBalancer.ingress` with an address and
    /// `ipMode` VIP, the default (KEP-1860).
    pub load_balancer_ips: Vec<IpAddr>,
    /// `externalTrafficPolicy`, where the Service's type gives it a meaning (contract 4.3).
    pub policy: Policy,
    /// Who may use the load balancer's addresses, of both families; of a family without any: everybody.
    pub source_ranges: Vec<IpNet>,
    /// Where load balancers ask whether this node has endpoints: only for type `LoadBalancer` with policy `Local`.
    pub health_check_node_port: Option<u16>,
    /// Whether such a Service has none, so that no load balancer can ask.
    pub lacks_health_check_node_port: bool,
}

impl External {
    /// Whether there is any way in, of whatever family: a load balancer may ask for the node's health without one.
    pub fn is_reached(&self, service: &Service) -> bool {
        !self.load_balancer_ips.is_empty()
            || !self.external_ips.is_empty()
            || service.ports.iter().any(|port| port.node_port.is_some())
    }
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, by which slices refer to it; empty for the only port of a Service.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on service addresses, never 0.
    pub port: u16,
    /// The port on the node's own addresses, never 0.
    pub node_port: Option<u16>,
}

impl ServicePort {
    /// Where session affinity is not to be had of IPVS: FTP's port. What goes to TCP port 20, or any from 1024 on
    /// (`ip_unprivileged_port_start`), of an address and has no virtual server of its own there, IPVS takes for a data
    /// connection of the one at port 21, if there is one. Where that is persistent, it leads to its endpoint, whatever
    /// the port is: past source ranges, and at an address of the node's own also what is the node's, answers to its own
    /// connections among it. Otherwise it is left alone (`ip_vs_service_find`, `ip_vs_sched_persist` and `ip_vs_leave`
    /// of `net/netfilter/ipvs`, Linux 6.12).
    pub const WITHOUT_AFFINITY: (Protocol, u16) = (Protocol::Tcp, 21);

    /// Whether affinity is not to be had at one of its entry points.
    pub fn lacks_affinity(&self) -> bool {
        let (protocol, port) = Self::WITHOUT_AFFINITY;
        self.protocol == protocol && (self.port == port || self.node_port == Some(port))
    }
}

/// An EndpointSlice of a Service (discovery.k8s.io/v1), of address type IPv4 or IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its name.
    pub key: SliceKey,
    /// The Service it belongs to: label `kubernetes.io/service-name`.
    pub service: ServiceKey,
    /// The family of its endpoints.
    pub family: Family,
    /// Its ports; each holds for every endpoint. A [`Cluster`](super::Cluster) has them in order, each name and protocol once.
    pub ports: Vec<SlicePort>,
    /// Its endpoints, in the slice's order.
    pub endpoints: Vec<Endpoint>,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`, in nanoseconds since 1970: when the change
    /// that led to this slice happened. Feeds the network programming latency.
    pub triggered_nanoseconds: Option<i64>,
}

impl EndpointSlice {
    /// Puts the ports in order; of several with one name and protocol the first one counts.
    pub(super) fn settle(&mut self) {
        self.ports.sort_by(|left, right| left.key().cmp(&right.key()));
        self.ports.dedup_by(|later, kept| later.key() == kept.key());
    }

    /// The port on its endpoints that serves a Service port. The slice is one of a [`Cluster`](super::Cluster).
    pub(super) fn port(&self, port: &ServicePort) -> Option<u16> {
        let key = (&*port.name, port.protocol);
        let index = self.ports.binary_search_by(|known| known.key().cmp(&key)).ok()?;
        Some(self.ports[index].port)
    }
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the Service port that it serves, empty for an unnamed one.
    pub name: Arc<str>,
    /// The protocol, the same as the Service port's.
    pub protocol: Protocol,
    /// The port on the endpoint, never 0.
    pub port: u16,
}

impl SlicePort {
    /// What a Service port is found by.
    fn key(&self) -> (&str, Protocol) {
        (&self.name, self.protocol)
    }
}

/// One endpoint of a slice: the first of its addresses, and its conditions with the API's defaults applied
/// (ready and serving when not said, not terminating when not said).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Ready for new connections.
    pub ready: bool,
    /// Answers, whether it is being ended or not.
    pub serving: bool,
    /// Is being ended.
    pub terminating: bool,
    /// The node that it runs on, if the slice says so.
    pub node: Option<Arc<str>>,
    /// For whom the control plane meant it, if it said so.
    pub hints: Option<Arc<Hints>>,
}

impl Endpoint {
    /// Whether it may still be sent new connections, where none is ready (KEP-1669).
    pub fn serves_while_terminating(&self) -> bool {
        self.serving && self.terminating
    }
}

/// For which clients an endpoint is meant (KEP-2433, KEP-3015): the control plane's way to say what a Service's
/// `trafficDistribution` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// `hints.forZones`: the zones.
    pub zones: Vec<Arc<str>>,
    /// `hints.forNodes`: the nodes.
    pub nodes: Vec<Arc<str>>,
}

/// What is used of a Node object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Its `InternalIP` addresses, then its `ExternalIP` addresses, as in the status.
    pub addresses: Vec<IpAddr>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// The addresses of its pods: `spec.podCIDRs`, else `spec.podCIDR`.
    pub pod_cidrs: Vec<IpNet>,
    /// Whether load balancers may send it traffic: not being deleted, and without the cluster autoscaler's taint
    /// `ToBeDeletedByClusterAutoscaler` (contract 8.2).
    pub eligible: bool,
}

/// The addresses of this node, of all its interfaces but the one that carries the service addresses.
pub type NodeAddresses = BTreeSet<NodeAddress>;

/// An address of one of this node's interfaces. One address may be on several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddress {
    /// The address.
    pub address: IpAddr,
    /// The interface that has it.
    pub interface: Arc<str>,
    /// From how far away it is meant to be reached.
    pub scope: AddressScope,
}

/// From how far away an address is meant to be reached (`RT_SCOPE_*` of `linux/rtnetlink.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressScope {
    /// From anywhere that has a route.
    Global,
    /// From the same link only: `fe80::/10`; IPv4 addresses only where an administrator said so.
    Link,
    /// From this node only: `::1`, and usually `127.0.0.1`.
    Host,
}

//! The vocabulary: what the rest of the program knows of Kubernetes objects.
//!
//! Sources of facts (`crate::api`) convert their objects to these types once, at the edge; nothing after that ever sees
//! a Kubernetes type. Repeated text is shared (`Arc<str>`).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

mod uid;
pub use uid::Uid;

/// An IP family; each makes progress independently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, in the order in which they are worked on.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The family of a network's addresses.
    pub fn of_network(network: &IpNet) -> Self {
        Self::of(network.addr())
    }

    /// `0.0.0.0` or `::`: no host has it, and it is the family's lowest address. IPv4 addresses come before IPv6
    /// addresses.
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

/// A namespace and a name in it, as one shared text.
///
/// A large cluster has hundreds of thousands of them, and each is held in several places. [`Names::BETWEEN`] separates
/// the two and sorts before every character of a name, so the order is by namespace, then by name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Names(Arc<str>);

impl Names {
    const BETWEEN: &str = "\0";

    fn new(namespace: &str, name: &str) -> Self {
        Self([namespace, Self::BETWEEN, name].concat().into())
    }

    /// The namespace and the name.
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

/// Defines types of keys that consist of a namespace and a name in it.
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
    /// The identity of this object among successive objects of its name, for Events about it; `None` if the source does
    /// not say.
    pub uid: Option<Uid>,
    /// When the object was created, in seconds since 1970; 0 if the source does not say. Of two Services that claim the
    /// same address, protocol and port in the same role, the older one gets it.
    pub created_seconds: i64,
    /// At most one address per family, primary first.
    pub cluster_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// `sessionAffinity: ClientIP`: for how many seconds after its last connection a client stays with its endpoint.
    pub affinity_seconds: Option<u32>,
    /// `internalTrafficPolicy`: which endpoints the cluster IPs lead to.
    pub internal_policy: Policy,
    /// How the Service is reached besides its cluster IPs; `None` if it is not. Few Services have this.
    pub external: Option<Box<External>>,
    /// Which parts of the object are invalid and left out, or valid but not served, in words; `None` if there are none.
    /// Few Services have remarks.
    pub remarks: Option<Box<str>>,
}

/// Which endpoints an entry point leads to. Serialized as in a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Policy {
    /// Those of the whole cluster.
    #[default]
    Cluster,
    /// Those on this node, if there are any; traffic from outside keeps its source address.
    Local,
}

/// The entry points of a Service besides its cluster IPs, except node ports, which are in [`ServicePort`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct External {
    /// `externalIPs`, of either family.
    pub external_ips: Vec<IpAddr>,
    /// The load balancer's addresses that this node answers for: `status.loadBalancer.ingress` with an address and
    /// `ipMode` VIP, the default (KEP-1860).
    pub load_balancer_ips: Vec<IpAddr>,
    /// `externalTrafficPolicy`, where the Service's type gives it a meaning (contract 4.3).
    pub policy: Policy,
    /// The networks, of both families, that may use the load balancer's addresses. A family without any: everybody may.
    pub source_ranges: Vec<IpNet>,
    /// The port at which load balancers ask whether this node has endpoints: only for type `LoadBalancer` with policy
    /// `Local`.
    pub health_check_node_port: Option<u16>,
    /// Whether a Service of that type and policy has no such port, so that no load balancer can ask.
    pub lacks_health_check_node_port: bool,
}

impl External {
    /// Whether there is any entry point, of either family. A load balancer may ask for the node's health even if there
    /// is none.
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
    /// The port at which IPVS cannot provide session affinity: FTP's.
    ///
    /// IPVS takes traffic to TCP port 20, or to any port from 1024 on (`ip_unprivileged_port_start`), for a data
    /// connection of the virtual server at port 21 of the same address, if there is one and the port has no virtual
    /// server of its own. If the virtual server at port 21 is persistent, such traffic goes to its endpoint, whatever
    /// the port: it bypasses source ranges, and at one of the node's own addresses it includes the node's own traffic,
    /// even the answers to its own connections. If the virtual server is not persistent, such traffic is left alone
    /// (`ip_vs_service_find`, `ip_vs_sched_persist` and `ip_vs_leave` of `net/netfilter/ipvs`, Linux 6.12).
    pub const WITHOUT_AFFINITY: (Protocol, u16) = (Protocol::Tcp, 21);

    /// Whether session affinity is unavailable at one of the port's entry points.
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
    /// Its ports, each of which holds for every endpoint. In a [`Cluster`](super::Cluster) they are sorted, each name
    /// and protocol once.
    pub ports: Vec<SlicePort>,
    /// Its endpoints, in the slice's order.
    pub endpoints: Vec<Endpoint>,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`, in nanoseconds since 1970: when the change
    /// that led to this slice happened. Feeds the network programming latency.
    pub triggered_nanoseconds: Option<i64>,
}

impl EndpointSlice {
    /// Sorts the ports; of several with the same name and protocol, the first one counts.
    pub(super) fn settle(&mut self) {
        self.ports.sort_by(|left, right| left.key().cmp(&right.key()));
        self.ports.dedup_by(|later, kept| later.key() == kept.key());
    }

    /// The port on the endpoints that serves a Service port. The slice must be in a [`Cluster`](super::Cluster), so
    /// that its ports are sorted.
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
    /// What a Service port is matched by.
    fn key(&self) -> (&str, Protocol) {
        (&self.name, self.protocol)
    }
}

/// One endpoint of a slice: the first of its addresses, and its conditions with the API's defaults applied (ready and
/// serving, not terminating, unless the slice says otherwise).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Whether it is ready for new connections.
    pub ready: bool,
    /// Whether it answers, terminating or not.
    pub serving: bool,
    /// Whether it is terminating.
    pub terminating: bool,
    /// The node that it runs on, if the slice says so.
    pub node: Option<Arc<str>>,
    /// The clients that the control plane meant it for, if it named any.
    pub hints: Option<Arc<Hints>>,
}

impl Endpoint {
    /// Whether it may still get new connections when no endpoint is ready (KEP-1669).
    pub fn serves_while_terminating(&self) -> bool {
        self.serving && self.terminating
    }
}

/// The clients that an endpoint is meant for (KEP-2433, KEP-3015): how the control plane expresses a Service's
/// `trafficDistribution`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// `hints.forZones`: the zones.
    pub zones: Vec<Arc<str>>,
    /// `hints.forNodes`: the nodes.
    pub nodes: Vec<Arc<str>>,
}

/// The parts of a Node object that are used.
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
    /// Whether load balancers may send it traffic: it is not being deleted and does not have the cluster autoscaler's
    /// taint `ToBeDeletedByClusterAutoscaler` (contract 8.2).
    pub eligible: bool,
}

/// The addresses of this node, on all its interfaces except the one that carries the service addresses.
pub type NodeAddresses = BTreeSet<NodeAddress>;

/// An address of one of this node's interfaces. Several interfaces may have the same address.
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

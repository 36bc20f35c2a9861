//! The settings that the wanted kernel state depends on, beside the cluster's objects.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::state::{InterfaceName, Timeouts};

/// The feature gate that says whether external IPs of Services are served: kube-proxy's since 1.36, on by default. It
/// has no stage that `AllAlpha` or `AllBeta` would switch.
pub const EXTERNAL_IPS_GATE: &str = "AllowServiceExternalIPs";

/// The settings that the wanted kernel state depends on, beside the cluster's objects. `Default` holds their defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct ProxyOptions {
    /// The scheduler of all virtual servers.
    pub scheduler: Arc<str>,
    /// The IPVS timeouts; 0: not set.
    pub timeouts: Timeouts,
    /// How long connection tracking remembers an idle TCP connection, in seconds: IPVS should forget it neither earlier
    /// nor later.
    pub tracked_tcp_seconds: u32,
    /// Networks in which virtual servers that no Service asks for are never deleted, whoever made them.
    pub exclude_cidrs: Vec<IpNet>,
    /// What counts as traffic of pods.
    pub local_detector: LocalDetector,
    /// The pods' networks, at most one per family, for [`LocalDetector::ClusterCidr`].
    pub cluster_cidrs: Vec<IpNet>,
    /// Whether all traffic to cluster IPs is masqueraded.
    pub masquerade_all: bool,
    /// `1 << --iptables-masquerade-bit`.
    pub masquerade_mark: u32,
    /// Where node ports are served.
    pub node_port_addresses: NodePortAddresses,
    /// Whether external IPs of Services are served: [`EXTERNAL_IPS_GATE`].
    pub external_ips: bool,
    /// `--bind-address`, unless it is the unspecified address: the address of the node in its family, which is then the
    /// primary one (contract 3.5).
    pub bind_address: Option<IpAddr>,
    /// Whether the node answers an ARP request only for an address of the interface on which it arrives, and so for no
    /// service address.
    pub strict_arp: bool,
    /// Whether an SCTP association may begin with any packet (`sloppy_sctp`); `false` leaves the parameter alone.
    pub sloppy_sctp: bool,
    /// Whether the kernel estimates the traffic rates of IPVS (`run_estimation`); `None` leaves the parameter alone.
    pub run_estimation: Option<bool>,
    /// Whether the addresses of all nodes are watched, so that no address of another node is taken for a service
    /// address.
    pub watch_all_nodes: bool,
    /// How long a real server whose endpoint was removed keeps its open connections at most.
    pub drain_deadline: Duration,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        Self {
            scheduler: "rr".into(),
            timeouts: Timeouts::default(),
            tracked_tcp_seconds: 86_400,
            exclude_cidrs: Vec::new(),
            local_detector: LocalDetector::ClusterCidr,
            cluster_cidrs: Vec::new(),
            masquerade_all: false,
            masquerade_mark: 1 << 14,
            node_port_addresses: NodePortAddresses::default(),
            external_ips: true,
            bind_address: None,
            strict_arp: false,
            sloppy_sctp: false,
            run_estimation: None,
            watch_all_nodes: false,
            drain_deadline: Duration::from_mins(15),
        }
    }
}

/// How traffic of pods is told apart from other traffic, which is masqueraded on its way to a cluster IP (contract
/// 3.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalDetector {
    /// By a source address in [`ProxyOptions::cluster_cidrs`]. Without a network of a family, it is not known whether
    /// traffic of that family is local.
    ClusterCidr,
    /// By a source address in the pod networks of this node, as the Node object has them. Pods of other nodes are not
    /// local.
    NodeCidr,
    /// By this incoming interface.
    BridgeInterface(InterfaceName),
    /// By an incoming interface whose name begins with this prefix.
    InterfaceNamePrefix(InterfaceName),
}

/// The addresses of the node on which node ports are served (contract 4.5, and the words of kube-proxy 1.37, which
/// stand for networks): never on loopback ones. A family without a setting: on all addresses except loopback and
/// link-local ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePortAddresses {
    /// The networks whose addresses serve node ports.
    pub networks: Vec<IpNet>,
    /// Whether the addresses of the Node object serve node ports, one per family: `primary`. This sets nothing for a
    /// family without an address there.
    pub primary: bool,
}

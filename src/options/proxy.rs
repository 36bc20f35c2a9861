//! What the wanted kernel state depends on, beside the cluster's objects.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::state::{InterfaceName, Timeouts};

/// The feature gate that says whether external IPs of Services are served: kube-proxy's since 1.36, on where nothing is said.
/// It is of no stage that `AllAlpha` or `AllBeta` switch.
pub const EXTERNAL_IPS_GATE: &str = "AllowServiceExternalIPs";

/// What the wanted kernel state depends on, beside the cluster's objects. Its `Default` is what holds where nothing is
/// said.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct ProxyOptions {
    /// The scheduler of all virtual servers.
    pub scheduler: Arc<str>,
    /// The IPVS timeouts, 0 for those that are not set.
    pub timeouts: Timeouts,
    /// For how long connection tracking remembers a TCP connection without traffic, in seconds: IPVS should neither
    /// forget it earlier nor later.
    pub tracked_tcp_seconds: u32,
    /// Virtual servers on these networks that no Service asks for are never deleted, whoever made them.
    pub exclude_cidrs: Vec<IpNet>,
    /// What counts as traffic of pods.
    pub local_detector: LocalDetector,
    /// The pods' networks, at most one per family: what [`LocalDetector::ClusterCidr`] goes by.
    pub cluster_cidrs: Vec<IpNet>,
    /// Whether everything that goes to a cluster IP is masqueraded.
    pub masquerade_all: bool,
    /// `1 << --iptables-masquerade-bit`.
    pub masquerade_mark: u32,
    /// Where node ports are served.
    pub node_port_addresses: NodePortAddresses,
    /// Whether external IPs of Services are served: [`EXTERNAL_IPS_GATE`].
    pub external_ips: bool,
    /// `--bind-address`, where it is not the unspecified address: the address of the node in its family, and that
    /// family is the primary one (contract 3.5).
    pub bind_address: Option<IpAddr>,
    /// Whether the node answers ARP requests for the addresses of the interface that they come in by only, so that
    /// it keeps quiet about service addresses.
    pub strict_arp: bool,
    /// Whether an SCTP association may begin with any packet (`sloppy_sctp`); `false` leaves the parameter alone.
    pub sloppy_sctp: bool,
    /// Whether the kernel estimates the rates of IPVS (`run_estimation`); `None` leaves the parameter alone.
    pub run_estimation: Option<bool>,
    /// Whether the addresses of all nodes are looked at, so that none of another node's is taken for a service address.
    pub watch_all_nodes: bool,
    /// How long a real server whose endpoint is gone keeps its open connections at most.
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

/// How traffic of pods is told from other traffic, which is masqueraded on its way to a cluster IP (contract 3.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalDetector {
    /// Its source is in [`ProxyOptions::cluster_cidrs`]. Without a network of a family nothing of that family is
    /// known to be local, or not to be.
    ClusterCidr,
    /// Its source is in the pod networks of this node, as the Node object has them. Pods of other nodes are not
    /// local.
    NodeCidr,
    /// It comes in by this interface.
    BridgeInterface(InterfaceName),
    /// It comes in by an interface whose name begins so.
    InterfaceNamePrefix(InterfaceName),
}

/// On which of the node's addresses node ports are served (contract 4.5, and the words of kube-proxy 1.37, which stand for
/// networks): never on loopback ones. A family of which nothing is said: on all but loopback and link-local ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePortAddresses {
    /// On those in these networks.
    pub networks: Vec<IpNet>,
    /// On the addresses of the Node object, one per family: `primary`. A family of which it has none has nothing said by this.
    pub primary: bool,
}

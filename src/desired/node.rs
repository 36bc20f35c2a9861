//! What the wanted state depends on of this node: where it stands, and which addresses it has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::entry_points::EntryPoint;
use crate::cluster::Cluster;
use crate::cluster::node_ips::NodeIps;
use crate::cluster::topology::{Endpoints, Place};
use crate::cluster::types::{AddressScope, Family, NodeAddress, Policy};
use crate::options::ProxyOptions;
use crate::options::proxy::{LocalDetector, NodePortAddresses};
use crate::state::{Inside, InterfaceName};

/// The facts about this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeFacts {
    pub(super) name: Arc<str>,
    pub(super) zone: Option<Arc<str>>,
    /// Addresses that are not ours to put on a device.
    pub(super) taken: BTreeMap<IpAddr, Holder>,
    /// By which addresses it is known, one for each family; `None`: by none.
    pub(super) ips: Option<NodeIps>,
    /// Where node ports are served.
    pub(super) node_port_addresses: BTreeSet<IpAddr>,
    /// Its devices with an IPv4 address that masquerading can take.
    pub(super) numbered: BTreeSet<InterfaceName>,
    /// What masquerading takes elsewhere.
    pub(super) source: Option<Ipv4Addr>,
    /// The addresses of its pods.
    pub(super) pod_cidrs: Vec<IpNet>,
}

/// Who has an address, so that it is not put on our device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// Another device of this node: what goes there comes in, and is told by its port.
    Device,
    /// The Node object calls it this node's, and no device has it: whoever translates it does so elsewhere, as clouds do.
    NodeObject,
    /// The Node object of another node calls it its own.
    OtherNode,
}

impl NodeFacts {
    pub(super) fn of(name: Arc<str>, cluster: &Cluster, options: &ProxyOptions) -> Self {
        let node = cluster.node();
        let written = node.map_or(&[][..], |node| &node.addresses);
        let ips = NodeIps::new(written, options.bind_address);
        let addresses = cluster.node_addresses();
        let global = || {
            addresses.iter().filter_map(|known| match known.address {
                IpAddr::V4(address) if known.scope == AddressScope::Global => Some((address, known)),
                _ => None,
            })
        };
        let known_by = ips.map(|ips| ips.of(Family::V4));
        let source =
            global().map(|(address, _)| address).find(|address| Some(IpAddr::V4(*address)) == known_by);
        Self {
            name,
            zone: node.and_then(|node| node.zone.clone()),
            taken: {
                let others = cluster.other_nodes().flat_map(|(_, addresses)| addresses);
                let others = others.map(|address| (*address, Holder::OtherNode));
                let written = written.iter().map(|address| (*address, Holder::NodeObject));
                // The last one counts.
                others
                    .chain(written)
                    .chain(addresses.iter().map(|known| (known.address, Holder::Device)))
                    .collect()
            },
            ips,
            node_port_addresses: Family::ALL
                .into_iter()
                .flat_map(|family| node_port_addresses(addresses, ips, &options.node_port_addresses, family))
                .collect(),
            numbered: global().filter_map(|(_, known)| InterfaceName::new(&known.interface)).collect(),
            // Without a Node object any address of the node will do, as long as it stays the same.
            source: source.or_else(|| global().map(|(address, _)| address).min()),
            pod_cidrs: node.map(|node| node.pod_cidrs.clone()).unwrap_or_default(),
        }
    }

    pub(super) fn place(&self) -> Place<'_> {
        Place { node: &self.name, zone: self.zone.as_deref() }
    }

    /// Who has a Service's address. Cluster IPs are given out by the API server, and the others by whoever may write
    /// Services: only those can be made to look like another node's.
    pub(super) fn holder(&self, address: &IpAddr, is_external: bool) -> Option<Holder> {
        self.taken.get(address).copied().filter(|holder| is_external || *holder != Holder::OtherNode)
    }

    /// Whether an address from outside is this node's and no device has it: what is for it would leave the node, so that
    /// clients inside the cluster are sent elsewhere, whatever the policy.
    pub(super) fn is_away(&self, address: &IpAddr) -> bool {
        self.holder(address, true) == Some(Holder::NodeObject)
    }

    /// Whether an entry point is left to another node, whose address it is at.
    pub(super) fn leaves(&self, point: &EntryPoint) -> bool {
        self.holder(&point.server.address, point.role.is_external()) == Some(Holder::OtherNode)
    }

    /// Which endpoints an entry point leads to: those that its policy says. Where no pod can be told from a client outside,
    /// an entry point from outside that is `Local` leads to all of them if this node has none, as in kube-proxy's ipvs
    /// mode (contract 5.2): else nothing would be there for pods, who should reach all of them.
    pub(super) fn leads(&self, point: EntryPoint, chosen: &Endpoints, options: &ProxyOptions) -> Policy {
        let knows_pods = || self.inside(options, Family::of(point.server.address)).is_some();
        if point.role.is_external() && chosen.local.is_empty() && !knows_pods() {
            Policy::Cluster
        } else {
            point.policy
        }
    }

    /// The addresses that others have here, and others or nobody there.
    pub(super) fn moved(&self, there: &Self) -> impl Iterator<Item = IpAddr> {
        let is_same = |(address, holder): &(&IpAddr, &Holder)| there.taken.get(*address) == Some(*holder);
        self.taken.iter().filter(move |entry| !is_same(entry)).map(|(address, _)| *address)
    }

    /// How clients of one family inside the cluster are told from others.
    pub(super) fn inside(&self, options: &ProxyOptions, family: Family) -> Option<Inside> {
        let first = |networks: &[IpNet]| {
            networks
                .iter()
                .find(|network| Family::of_network(network) == family)
                .copied()
                .map(Inside::Network)
        };
        match &options.local_detector {
            LocalDetector::ClusterCidr => first(&options.cluster_cidrs),
            LocalDetector::NodeCidr => first(&self.pod_cidrs),
            LocalDetector::BridgeInterface(name) => Some(Inside::Interface(*name)),
            LocalDetector::InterfaceNamePrefix(prefix) => Some(Inside::InterfacePrefix(*prefix)),
        }
    }
}

/// The addresses of one family where node ports are served (contract 4.5): never loopback, where they do not work.
fn node_port_addresses(
    addresses: &BTreeSet<NodeAddress>,
    ips: Option<NodeIps>,
    wanted: &NodePortAddresses,
    family: Family,
) -> BTreeSet<IpAddr> {
    let all = addresses
        .iter()
        .map(|known| known.address)
        .filter(|address| Family::of(*address) == family && !address.is_loopback());
    let anywhere =
        |address: &IpAddr| !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    let networks = node_port_networks(wanted, ips, family);
    if networks.is_empty() {
        all.filter(anywhere).collect()
    } else {
        all.filter(|address| networks.iter().any(|network| network.contains(address))).collect()
    }
}

/// The networks of a family where node ports are served; none: everywhere (contract 4.5).
pub(crate) fn node_port_networks(
    wanted: &NodePortAddresses,
    ips: Option<NodeIps>,
    family: Family,
) -> Vec<IpNet> {
    let of_family = |network: &IpNet| Family::of_network(network) == family;
    let primary = ips.map(|ips| ips.of(family)).filter(|address| wanted.primary && !address.is_loopback());
    let networks: Vec<IpNet> =
        wanted.networks.iter().copied().filter(of_family).chain(primary.map(IpNet::from)).collect();
    if networks.iter().any(|network| network.prefix_len() == 0) { Vec::new() } else { networks }
}

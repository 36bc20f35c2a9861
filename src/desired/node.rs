//! What the wanted state depends on about this node: its place in the cluster, and its addresses.

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
    /// Addresses that must not be put on our device, and who has them.
    pub(super) taken: BTreeMap<IpAddr, Holder>,
    /// The addresses by which the node is known, one per family; `None` if there are none.
    pub(super) ips: Option<NodeIps>,
    /// The addresses where node ports are served.
    pub(super) node_port_addresses: BTreeSet<IpAddr>,
    /// Its devices with an IPv4 address that masquerading can use.
    pub(super) numbered: BTreeSet<InterfaceName>,
    /// The address that masquerading uses on other devices.
    pub(super) source: Option<Ipv4Addr>,
    /// The addresses of its pods.
    pub(super) pod_cidrs: Vec<IpNet>,
}

/// Who has an address that therefore is not put on our device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// Another device of this node: traffic to the address arrives here and is told apart by its port.
    Device,
    /// The Node object lists it as this node's, but no device has it: it is translated elsewhere, as clouds do.
    NodeObject,
    /// Another node's Node object lists it as that node's own.
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
                // For an address with several holders, the last one counts.
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
            // Without a Node object, any address of the node will do, as long as it stays the same.
            source: source.or_else(|| global().map(|(address, _)| address).min()),
            pod_cidrs: node.map(|node| node.pod_cidrs.clone()).unwrap_or_default(),
        }
    }

    pub(super) fn place(&self) -> Place<'_> {
        Place { node: &self.name, zone: self.zone.as_deref() }
    }

    /// Who has a Service's address. Only external addresses can be made to look like another node's: anyone who may
    /// write Services may write those, while the API server allocates cluster IPs.
    pub(super) fn holder(&self, address: &IpAddr, is_external: bool) -> Option<Holder> {
        self.taken.get(address).copied().filter(|holder| is_external || *holder != Holder::OtherNode)
    }

    /// Whether an external address is this node's but no device has it: packets to it would leave the node, so clients
    /// inside the cluster are sent elsewhere, whatever the policy.
    pub(super) fn is_away(&self, address: &IpAddr) -> bool {
        self.holder(address, true) == Some(Holder::NodeObject)
    }

    /// Whether an entry point is left to another node because its address is that node's.
    pub(super) fn leaves(&self, point: &EntryPoint) -> bool {
        self.holder(&point.server.address, point.role.is_external()) == Some(Holder::OtherNode)
    }

    /// Which endpoints an entry point leads to: those that its policy says, with one exception.
    ///
    /// If pods cannot be told apart from clients outside, an external entry point with policy `Local` leads to all
    /// endpoints if this node has none, as in kube-proxy's ipvs mode (contract 5.2): otherwise pods, which should reach
    /// all endpoints, would find none.
    pub(super) fn leads(&self, point: EntryPoint, chosen: &Endpoints, options: &ProxyOptions) -> Policy {
        let knows_pods = || self.inside(options, Family::of(point.server.address)).is_some();
        if point.role.is_external() && chosen.local.is_empty() && !knows_pods() {
            Policy::Cluster
        } else {
            point.policy
        }
    }

    /// The addresses in `self` whose holder differs `there`, or that nobody has there.
    pub(super) fn moved(&self, there: &Self) -> impl Iterator<Item = IpAddr> {
        let is_same = |(address, holder): &(&IpAddr, &Holder)| there.taken.get(*address) == Some(*holder);
        self.taken.iter().filter(move |entry| !is_same(entry)).map(|(address, _)| *address)
    }

    /// How clients inside the cluster are told apart from others, in one family.
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

/// The addresses of one family where node ports are served (contract 4.5), without loopback addresses, where they do
/// not work.
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

/// The networks of a family where node ports are served; an empty list means everywhere (contract 4.5).
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

//! Tells which virtual servers are kube-proxy's node ports. Their addresses are the node's own, not those of
//! `kube-ipvs0`, so only kube-proxy's ipsets distinguish them from other people's virtual servers: this must be found
//! out before the sets are destroyed.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use crate::cluster::types::{Family, Protocol};
use crate::kernel::ipset::IpSets;
use crate::kernel::node_addresses::Monitor;
use crate::state::VirtualServerKey;

/// The sets of node ports (contract 6.3); the sets of those with policy Local hold a subset of the same ports.
const SETS: [(Family, Protocol, &str); 6] = [
    (Family::V4, Protocol::Tcp, "KUBE-NODE-PORT-TCP"),
    (Family::V4, Protocol::Udp, "KUBE-NODE-PORT-UDP"),
    (Family::V4, Protocol::Sctp, "KUBE-NODE-PORT-SCTP-HASH"),
    (Family::V6, Protocol::Tcp, "KUBE-6-NODE-PORT-TCP"),
    (Family::V6, Protocol::Udp, "KUBE-6-NODE-PORT-UDP"),
    (Family::V6, Protocol::Sctp, "KUBE-6-NODE-PORT-SCTP-HASH"),
];

/// Whether a set of this name tells which virtual servers are node ports.
pub(super) fn is_set(name: &str) -> bool {
    SETS.iter().any(|(.., set)| *set == name)
}

/// The node ports according to kube-proxy's sets, and the addresses where they are served.
#[derive(Debug, Default)]
pub(super) struct NodePorts {
    ports: BTreeSet<(Family, Protocol, u16)>,
    addresses: BTreeSet<IpAddr>,
}

impl NodePorts {
    /// Reads the sets, and the node's addresses if the sets hold any ports.
    pub(super) fn read() -> io::Result<Self> {
        let Some(mut sets) = IpSets::open()? else { return Ok(Self::default()) };
        let mut ports = BTreeSet::new();
        for (family, protocol, set) in SETS {
            ports.extend(sets.ports(set)?.into_iter().map(|port| (family, protocol, port)));
        }
        if ports.is_empty() {
            return Ok(Self::default());
        }
        let addresses = Monitor::open()?.addresses().iter().map(|address| address.address).collect();
        Ok(Self { ports, addresses })
    }

    /// Whether there are no node ports.
    pub(super) fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// Whether this virtual server is a node port of kube-proxy.
    pub(super) fn has(&self, key: &VirtualServerKey) -> bool {
        self.ports.contains(&(Family::of(key.address), key.protocol, key.port))
            && self.addresses.contains(&key.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_protocol_family_and_address_must_agree() {
        let node: IpAddr = "192.168.0.1".parse().expect("an address");
        let ports = BTreeSet::from([(Family::V4, Protocol::Tcp, 30080)]);
        let node_ports =
            NodePorts { ports, addresses: BTreeSet::from([node, "::1".parse().expect("an address")]) };
        let key = |address: &str, protocol, port| VirtualServerKey {
            address: address.parse().expect("an address"),
            protocol,
            port,
        };
        assert!(node_ports.has(&key("192.168.0.1", Protocol::Tcp, 30080)));
        for other in [
            key("192.168.0.1", Protocol::Udp, 30080),
            key("192.168.0.1", Protocol::Tcp, 30081),
            key("192.168.0.2", Protocol::Tcp, 30080),
            key("::1", Protocol::Tcp, 30080),
        ] {
            assert!(!node_ports.has(&other), "{other}");
        }
    }
}

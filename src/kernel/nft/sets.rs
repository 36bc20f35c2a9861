//! The sets of our tables: what their keys consist of, and how elements are encoded and decoded.
//!
//! A key of several parts is a concatenation: each part takes whole registers of four bytes, padded with zeros.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cluster::types::{Family, Protocol};
use crate::kernel::bytes;
use crate::state::{Element, InterfaceName, VirtualServerKey};

/// The type of a part of a key, or of a map's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// An IP address of the table's family.
    Address,
    /// The protocol's number in the IP header.
    Protocol,
    /// A port, in network byte order.
    Port,
    /// The name of a network device.
    Interface,
}

impl Part {
    /// The part's length in bytes.
    pub(super) fn length(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Address, family) => bytes::address_length(family).into(),
            (Self::Interface, _) => 16,
            (Self::Protocol, _) => 1,
            (Self::Port, _) => 2,
        }
    }

    /// The lengths in bytes of the fields by which the kernel looks up a range of this part. Their sum is the part's
    /// length.
    ///
    /// An IPv6 address is split into four fields. A network's prefix ends within one of the four words; the words
    /// before are the same in all its addresses, and the words behind are arbitrary, so checking word by word matches
    /// exactly the network. A single field of 16 bytes would be looked up by code that never compared bits 40 to 47 on
    /// x86 processors with AVX2 before Linux 6.15 (e042ed950d4e "`nft_set_pipapo`: fix incorrect avx2 match of 5th
    /// field octet") and the stable releases of that spring: a network of 48 bits admitted all of a network of 40.
    /// Fields of four bytes are what the kernel uses to look up IPv4 addresses. (A listing that is loaded again by
    /// `nft -f` declares the address as a whole, and reading back does not notice that.)
    pub(super) fn range_fields(self, family: Family) -> Vec<u32> {
        match (self, family) {
            (Self::Address, Family::V6) => vec![4; 4],
            (part, family) => vec![part.length(family)],
        }
    }

    /// The number by which `nft` prints the type: `TYPE_*` of its `datatype.h`. The kernel ignores it.
    fn nft_type(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Address, Family::V4) => 7,
            (Self::Address, Family::V6) => 8,
            (Self::Protocol, _) => 12,
            (Self::Port, _) => 13,
            (Self::Interface, _) => 41,
        }
    }
}

/// The parts of a key, or of a map's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts(pub(super) &'static [Part]);

impl Parts {
    /// The length in bytes.
    pub(super) fn length(self, family: Family) -> u32 {
        match self.0 {
            [part] => part.length(family),
            parts => parts.iter().map(|part| part.length(family).next_multiple_of(4)).sum(),
        }
    }

    /// `nft`'s number for the type.
    pub(super) fn nft_type(self, family: Family) -> u32 {
        self.0.iter().fold(0, |number, part| number << 6 | part.nft_type(family))
    }
}

/// A set, or a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) name: &'static str,
    pub(super) comment: &'static str,
    pub(super) key: Parts,
    /// What the keys of a map are mapped to.
    pub(super) value: Option<Parts>,
    /// Whether an element is a range of keys.
    pub(super) interval: bool,
}

const ADDRESS: Parts = Parts(&[Part::Address]);
const ENTRY_POINT: Parts = Parts(&[Part::Address, Part::Protocol, Part::Port]);
const ENTRY_POINT_AND_SOURCE: Parts = Parts(&[Part::Address, Part::Protocol, Part::Port, Part::Address]);

const fn set(name: &'static str, comment: &'static str, key: Parts) -> Set {
    Set { name, comment, key, value: None, interval: false }
}

pub(super) const CLUSTER_ADDRESSES: Set =
    set("cluster-addresses", "cluster IPs: what goes there belongs to a service, or is refused", ADDRESS);
pub(super) const EXTERNAL_ADDRESSES: Set =
    set("external-addresses", "external and load balancers' addresses, likewise", ADDRESS);
pub(super) const SHARED_ADDRESSES: Set =
    set("shared-addresses", "of these, those that another device has too", ADDRESS);
pub(super) const HEALTH_CHECKS: Set =
    set("health-checks", "where load balancers ask on these addresses whether to send anything", ENTRY_POINT);
pub(super) const HAIRPIN: Set = set(
    "hairpin",
    "endpoints that may reach themselves, each with itself",
    Parts(&[Part::Address, Part::Address]),
);
pub(super) const OWNED: Set =
    set("owned", "virtual servers on addresses that kube-ipvs0 does not have", ENTRY_POINT);
pub(super) const MASQUERADE: Set =
    set("masqueraded", "entry points that lead to endpoints of the whole cluster", ENTRY_POINT);
pub(super) const IN_CLUSTER: Set = Set {
    value: Some(Parts(&[Part::Address, Part::Port])),
    ..set(
        "in-cluster",
        "entry points to this node's endpoints, and where pods and the node go instead",
        ENTRY_POINT,
    )
};
pub(super) const INTERNAL: Set =
    set("internal", "virtual servers that only in-cluster leads to", ENTRY_POINT);
pub(super) const DROP: Set =
    set("dropped", "entry points whose endpoints are all on other nodes", ENTRY_POINT);
pub(super) const REFUSE: Set =
    set("refused", "entry points without endpoints, on addresses of other devices", ENTRY_POINT);
pub(super) const RESTRICTED: Set = set("restricted", "entry points that not everybody may use", ENTRY_POINT);
pub(super) const ALLOWED: Set =
    Set { interval: true, ..set("allowed", "who may use them", ENTRY_POINT_AND_SOURCE) };
pub(super) const NUMBERED: Set =
    set("numbered", "devices that have an address of their own", Parts(&[Part::Interface]));

/// The sets of a family's table.
pub(super) fn of(family: Family) -> Vec<Set> {
    let mut sets = vec![
        CLUSTER_ADDRESSES,
        EXTERNAL_ADDRESSES,
        SHARED_ADDRESSES,
        HEALTH_CHECKS,
        HAIRPIN,
        OWNED,
        MASQUERADE,
        IN_CLUSTER,
        INTERNAL,
        DROP,
        REFUSE,
        RESTRICTED,
        ALLOWED,
    ];
    if family == Family::V4 {
        sets.push(NUMBERED);
    }
    sets
}

/// An element as the kernel stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encoded {
    pub(super) key: Vec<u8>,
    /// The last key of a range.
    pub(super) key_end: Option<Vec<u8>>,
    /// What a map maps the key to.
    pub(super) value: Option<Vec<u8>>,
}

impl Encoded {
    fn key(key: Vec<u8>) -> Self {
        Self { key, key_end: None, value: None }
    }
}

/// The set that an element belongs to, and its encoded form.
pub(super) fn encode(element: Element) -> (Set, Encoded) {
    let simple = |set, server: &VirtualServerKey| (set, Encoded::key(entry_point(server)));
    match &element {
        Element::ClusterAddress(address) => (CLUSTER_ADDRESSES, Encoded::key(octets(*address))),
        Element::ExternalAddress(address) => (EXTERNAL_ADDRESSES, Encoded::key(octets(*address))),
        Element::SharedAddress(address) => (SHARED_ADDRESSES, Encoded::key(octets(*address))),
        Element::Hairpin(address) => (HAIRPIN, Encoded::key(octets(*address).repeat(2))),
        Element::HealthCheck(server) => simple(HEALTH_CHECKS, server),
        Element::Owned(server) => simple(OWNED, server),
        Element::Masquerade(server) => simple(MASQUERADE, server),
        Element::Internal(server) => simple(INTERNAL, server),
        Element::Dropped(server) => simple(DROP, server),
        Element::Refused(server) => simple(REFUSE, server),
        Element::Restricted(server) => simple(RESTRICTED, server),
        Element::InCluster(server, address, to) => {
            let value = [octets(*address), padded_port(*to).into()].concat();
            (IN_CLUSTER, Encoded { value: Some(value), ..Encoded::key(entry_point(server)) })
        }
        Element::Allowed(server, network) => {
            let key = |source| [entry_point(server), octets(source)].concat();
            let key_end = Some(key(network.broadcast()));
            (ALLOWED, Encoded { key_end, ..Encoded::key(key(network.network())) })
        }
        Element::Numbered(name) => (NUMBERED, Encoded::key(name.padded().into())),
    }
}

/// The element that was encoded like this, if it is one that we make.
pub(super) fn decode(family: Family, set: &Set, encoded: &Encoded) -> Option<Element> {
    let key = encoded.key.as_slice();
    let whole = || entry_point_of(family, key).filter(|(_, rest)| rest.is_empty()).map(|(server, _)| server);
    Some(match set.name {
        name if name == CLUSTER_ADDRESSES.name => Element::ClusterAddress(address_of(family, key)?),
        name if name == EXTERNAL_ADDRESSES.name => Element::ExternalAddress(address_of(family, key)?),
        name if name == SHARED_ADDRESSES.name => Element::SharedAddress(address_of(family, key)?),
        name if name == HAIRPIN.name => {
            let (source, destination) = key.split_at(key.len() / 2);
            Element::Hairpin(address_of(family, source).filter(|_| source == destination)?)
        }
        name if name == HEALTH_CHECKS.name => Element::HealthCheck(whole()?),
        name if name == OWNED.name => Element::Owned(whole()?),
        name if name == MASQUERADE.name => Element::Masquerade(whole()?),
        name if name == INTERNAL.name => Element::Internal(whole()?),
        name if name == DROP.name => Element::Dropped(whole()?),
        name if name == REFUSE.name => Element::Refused(whole()?),
        name if name == RESTRICTED.name => Element::Restricted(whole()?),
        name if name == IN_CLUSTER.name => {
            let (address, port) = encoded.value.as_deref()?.split_at_checked(address_length(family))?;
            Element::InCluster(whole()?, address_of(family, address)?, port_of(port)?)
        }
        name if name == ALLOWED.name => {
            let (server, first) = entry_point_of(family, key)?;
            let (same, last) = entry_point_of(family, encoded.key_end.as_deref()?)?;
            let network = network_of(address_of(family, first)?, address_of(family, last)?)?;
            if server != same {
                return None;
            }
            Element::Allowed(server, network)
        }
        name if name == NUMBERED.name => {
            let text = std::str::from_utf8(key).ok()?.trim_end_matches('\0');
            Element::Numbered(InterfaceName::new(text)?)
        }
        _ => return None,
    })
}

fn octets(address: IpAddr) -> Vec<u8> {
    bytes::octets(address).as_ref().to_vec()
}

fn padded_port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn entry_point(server: &VirtualServerKey) -> Vec<u8> {
    let mut key = octets(server.address);
    key.extend([server.protocol.number(), 0, 0, 0]);
    key.extend(padded_port(server.port));
    key
}

fn address_length(family: Family) -> usize {
    bytes::address_length(family).into()
}

/// The address that consists of exactly these bytes.
fn address_of(family: Family, octets: &[u8]) -> Option<IpAddr> {
    bytes::read_octets(octets, family).filter(|_| octets.len() == address_length(family))
}

fn port_of(padded: &[u8]) -> Option<u16> {
    match padded {
        [high, low, 0, 0] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

/// The entry point at the start of a key, and what follows.
fn entry_point_of(family: Family, key: &[u8]) -> Option<(VirtualServerKey, &[u8])> {
    let (address, rest) = key.split_at_checked(address_length(family))?;
    let (protocol, rest) = rest.split_at_checked(4)?;
    let (port, rest) = rest.split_at_checked(4)?;
    let [number, 0, 0, 0] = protocol else { return None };
    let server = VirtualServerKey {
        address: address_of(family, address)?,
        protocol: Protocol::from_number(*number)?,
        port: port_of(port)?,
    };
    Some((server, rest))
}

/// The network with this first and last address.
fn network_of(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let bits = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        _ => return None,
    };
    let network = IpNet::new(first, u8::try_from(bits).ok()?).ok()?;
    (network.network() == first && network.broadcast() == last).then_some(network)
}

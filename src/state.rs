//! What the kernel holds for this program: one type for both the wanted and the actual state.
//!
//! Everything that this program writes to the kernel has a [`Key`]; [`State`] maps keys to values. The memory
//! kernel *is* a `State`, `desired` produces one, the real kernel is read back into one, and `diff` compares two.

pub(crate) mod ownership;
pub mod part;
mod real_servers;
mod virtual_server;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

pub use self::real_servers::RealServers;
pub use self::virtual_server::{RealServer, RealServerKey, VirtualServer, VirtualServerKey, Weight};
use crate::cluster::types::Family;

/// The name of the device that carries the service addresses (contract 4.6).
pub const DEVICE: &str = "kube-ipvs0";

/// Names one thing in the kernel. The order is that of [`State`]'s fields.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The device [`DEVICE`].
    Device,
    /// A kernel parameter.
    Sysctl(Sysctl),
    /// The three IPVS timeouts of the network namespace.
    Timeouts,
    /// The fixed rules of our nftables table of one family.
    Rules(Family),
    /// An element of a set in our nftables tables.
    Element(Element),
    /// A virtual server with all its real servers.
    VirtualServer(VirtualServerKey),
    /// An address on the device, with its route in table local.
    Address(IpAddr),
}

impl Key {
    /// The IP family that this key belongs to; `None` for a key that both families share.
    pub fn family(&self) -> Option<Family> {
        match self {
            Self::Device | Self::Sysctl(_) | Self::Timeouts => None,
            Self::Rules(family) => Some(*family),
            Self::Element(element) => Some(element.family()),
            Self::VirtualServer(key) => Some(Family::of(key.address)),
            Self::Address(address) => Some(Family::of(*address)),
        }
    }

    /// Whether a thing of this kind is removed when it is not wanted. Settings are only set, never removed.
    pub fn is_removable(&self) -> bool {
        match self {
            Self::Device | Self::Sysctl(_) | Self::Timeouts | Self::Rules(_) => false,
            Self::Element(_) | Self::VirtualServer(_) | Self::Address(_) => true,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device => write!(f, "device {DEVICE}"),
            Self::Sysctl(sysctl) => write!(f, "sysctl {sysctl}"),
            Self::Timeouts => f.write_str("IPVS timeouts"),
            Self::Rules(family) => write!(f, "{family} rules"),
            Self::Element(element) => write!(f, "element {element}"),
            Self::VirtualServer(key) => write!(f, "virtual server {key}"),
            Self::Address(address) => write!(f, "address {address}"),
        }
    }
}

/// A set of keys: those whose wanted value may have changed, or those to be read.
pub type Scope = BTreeSet<Key>;

/// What the kernel holds, or should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Whether the device [`DEVICE`] exists.
    pub device: bool,
    /// Kernel parameters and their values. A wanted state holds only those that we set; all others are left alone.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// The IPVS timeouts. In a wanted state, a timeout of zero keeps the kernel's value.
    pub timeouts: Timeouts,
    /// The fixed rules of our nftables table of each family.
    pub rules: BTreeMap<Family, Rules>,
    /// The elements of the sets in our nftables tables.
    pub elements: BTreeSet<Element>,
    /// The virtual servers with their real servers.
    pub virtual_servers: BTreeMap<VirtualServerKey, VirtualServer>,
    /// The addresses on the device with their routes.
    pub addresses: BTreeMap<IpAddr, Address>,
}

impl State {
    /// The virtual servers at an address, in order.
    pub(crate) fn virtual_servers_at(&self, address: IpAddr) -> impl Iterator<Item = VirtualServerKey> {
        self.virtual_servers.range(VirtualServerKey::all_at(address)).map(|(server, _)| *server)
    }

    /// Whether this node serves the clients of a virtual server: the address is local to the node, and at least one
    /// real server gets new connections.
    pub(crate) fn serves(&self, server: &VirtualServerKey) -> bool {
        let known = self.virtual_servers.get(server);
        let is_local = self.addresses.get(&server.address).is_some_and(|address| address.routed)
            || self.elements.contains(&Element::SharedAddress(server.address));
        is_local
            && known.is_some_and(|known| {
                known.real_servers.values().any(|real| real.weight != Weight::Exactly(0))
            })
    }

    /// As many of these virtual servers, from the first on, as have at most `real_servers` real servers in total; at
    /// least one, if there is any. A virtual server without real servers counts as if it had one.
    pub(crate) fn up_to(
        &self,
        real_servers: usize,
        servers: impl Iterator<Item = VirtualServerKey>,
    ) -> Vec<VirtualServerKey> {
        let mut sum = 0;
        let is_room = |server: &VirtualServerKey| {
            let is_first = sum == 0;
            sum += self.virtual_servers.get(server).map_or(1, |known| known.real_servers.len().max(1));
            is_first || sum <= real_servers
        };
        servers.take_while(is_room).collect()
    }

    /// The keys of everything in the state, in order.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        let device = self.device.then_some(Key::Device);
        let sysctls = self.sysctls.keys().map(|sysctl| Key::Sysctl(*sysctl));
        let timeouts = (self.timeouts != Timeouts::default()).then_some(Key::Timeouts);
        let rules = self.rules.keys().map(|family| Key::Rules(*family));
        let elements = self.elements.iter().map(|element| Key::Element(*element));
        let servers = self.virtual_servers.keys().map(|server| Key::VirtualServer(*server));
        let addresses = self.addresses.keys().map(|address| Key::Address(*address));
        device
            .into_iter()
            .chain(sysctls)
            .chain(timeouts)
            .chain(rules)
            .chain(elements)
            .chain(servers)
            .chain(addresses)
    }

    /// Whether the state has a value for the key.
    pub fn contains(&self, key: &Key) -> bool {
        match key {
            Key::Device => self.device,
            Key::Sysctl(sysctl) => self.sysctls.contains_key(sysctl),
            Key::Timeouts => self.timeouts != Timeouts::default(),
            Key::Rules(family) => self.rules.contains_key(family),
            Key::Element(element) => self.elements.contains(element),
            Key::VirtualServer(server) => self.virtual_servers.contains_key(server),
            Key::Address(address) => self.addresses.contains_key(address),
        }
    }

    /// Whether both states have the same value, or none, for the key.
    pub fn same(&self, other: &Self, key: &Key) -> bool {
        match key {
            Key::Device => self.device == other.device,
            Key::Sysctl(sysctl) => self.sysctls.get(sysctl) == other.sysctls.get(sysctl),
            Key::Timeouts => self.timeouts == other.timeouts,
            Key::Rules(family) => self.rules.get(family) == other.rules.get(family),
            Key::Element(element) => self.elements.contains(element) == other.elements.contains(element),
            Key::VirtualServer(server) => {
                self.virtual_servers.get(server) == other.virtual_servers.get(server)
            }
            Key::Address(address) => self.addresses.get(address) == other.addresses.get(address),
        }
    }

    /// Copies the value of a key, or its absence, from another state.
    pub fn copy(&mut self, key: &Key, from: &Self) {
        match key {
            Key::Device => self.device = from.device,
            Key::Sysctl(sysctl) => put(&mut self.sysctls, *sysctl, from.sysctls.get(sysctl)),
            Key::Timeouts => self.timeouts = from.timeouts,
            Key::Rules(family) => put(&mut self.rules, *family, from.rules.get(family)),
            Key::Element(element) => {
                if from.elements.contains(element) {
                    self.elements.insert(*element);
                } else {
                    self.elements.remove(element);
                }
            }
            Key::VirtualServer(server) => {
                put(&mut self.virtual_servers, *server, from.virtual_servers.get(server));
            }
            Key::Address(address) => put(&mut self.addresses, *address, from.addresses.get(address)),
        }
    }
}

/// Sets the value of a key, or removes it.
fn put<K: Ord, V: Clone>(map: &mut BTreeMap<K, V>, key: K, value: Option<&V>) {
    match value {
        Some(value) => {
            map.insert(key, value.clone());
        }
        None => {
            map.remove(&key);
        }
    }
}

/// A kernel parameter that this program may set; `Display` gives its path below `/proc/sys`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sysctl {
    /// IPVS connections get conntrack entries: needed for masquerading them.
    VsConntrack,
    /// What happens to a new connection from a client port for which an old connection entry still exists.
    VsConnReuseMode,
    /// Connection entries of a deleted real server expire at once.
    VsExpireNodestConn,
    /// Persistence templates of a real server of weight 0 expire at once.
    VsExpireQuiescentTemplate,
    /// IPv4 forwarding.
    Ipv4Forward,
    /// An SCTP association may begin with any packet.
    VsSloppySctp,
    /// Whether the kernel estimates the rates of virtual and real servers. Older kernels lack this parameter.
    VsRunEstimation,
    /// At 1: an ARP request is answered only if the requested address is on the interface that received the request.
    ArpIgnore,
    /// At 2: an ARP request is sent from the best address of the interface that it leaves by.
    ArpAnnounce,
}

impl Sysctl {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::VsConntrack,
        Self::VsConnReuseMode,
        Self::VsExpireNodestConn,
        Self::VsExpireQuiescentTemplate,
        Self::Ipv4Forward,
        Self::VsSloppySctp,
        Self::VsRunEstimation,
        Self::ArpIgnore,
        Self::ArpAnnounce,
    ];

    /// Whether masquerading or forwarding fails without this parameter. All other parameters are optional.
    pub fn is_needed(self) -> bool {
        matches!(self, Self::VsConntrack | Self::Ipv4Forward)
    }

    /// The path below `/proc/sys`.
    pub fn path(self) -> &'static str {
        match self {
            Self::VsConntrack => "net/ipv4/vs/conntrack",
            Self::VsConnReuseMode => "net/ipv4/vs/conn_reuse_mode",
            Self::VsExpireNodestConn => "net/ipv4/vs/expire_nodest_conn",
            Self::VsExpireQuiescentTemplate => "net/ipv4/vs/expire_quiescent_template",
            Self::Ipv4Forward => "net/ipv4/ip_forward",
            Self::VsSloppySctp => "net/ipv4/vs/sloppy_sctp",
            Self::VsRunEstimation => "net/ipv4/vs/run_estimation",
            Self::ArpIgnore => "net/ipv4/conf/all/arp_ignore",
            Self::ArpAnnounce => "net/ipv4/conf/all/arp_announce",
        }
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())
    }
}

/// The IPVS timeouts of the network namespace, in seconds (`IPVS_CMD_SET_CONFIG`); zero in a wanted state leaves
/// the kernel's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// The timeout of an established TCP connection without traffic.
    pub tcp_seconds: u32,
    /// The timeout of a TCP connection after a FIN.
    pub tcp_fin_seconds: u32,
    /// The timeout of a UDP flow without traffic.
    pub udp_seconds: u32,
}

impl fmt::Display for Timeouts {
    /// `tcp 900 tcpfin kept udp 300`: `kept` stands for zero, a timeout that is not set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |seconds: u32| if seconds == 0 { "kept".to_owned() } else { seconds.to_string() };
        let Self { tcp_seconds, tcp_fin_seconds, udp_seconds } = *self;
        write!(f, "tcp {} tcpfin {} udp {}", shown(tcp_seconds), shown(tcp_fin_seconds), shown(udp_seconds))
    }
}

/// The fixed rules of our nftables table of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Complete, made by this version of the program from these settings. A wanted state holds only this form.
    Intact(RuleSettings),
    /// A table of our name exists, but some or all of its rules are not those that this version makes: text for the
    /// log.
    Other(String),
}

/// What the fixed rules of one family depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSettings {
    /// The one bit of the packet mark that stands for "masquerade this": `1 << masqueradeBit` (contract 6.1).
    pub masquerade_mark: u32,
    /// Whether everything that goes to a cluster IP is masqueraded (`--masquerade-all`).
    pub masquerade_all: bool,
    /// How clients inside the cluster are told apart from others. `None`: only the node itself is inside.
    pub inside: Option<Inside>,
    /// The node's own address, for connections that leave by a device without an address of its own; `None`: the
    /// kernel chooses. IPv4 only.
    pub node_address: Option<Ipv4Addr>,
}

/// How a packet from a pod is recognised (contract 3.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inside {
    /// By its source address (detection modes `ClusterCIDR` and `NodeCIDR`).
    Network(IpNet),
    /// By the device that the packet arrives on (mode `BridgeInterface`).
    Interface(InterfaceName),
    /// By the prefix of that device's name (mode `InterfaceNamePrefix`).
    InterfacePrefix(InterfaceName),
}

/// The name of a network device, 1 to 15 bytes (`IFNAMSIZ`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName([u8; 16]);

impl InterfaceName {
    /// Validates a name; `None` if no device can have it.
    pub fn new(name: &str) -> Option<Self> {
        let printable = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'"');
        if !printable || !(1..16).contains(&name.len()) {
            return None;
        }
        let mut bytes = [0; 16];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Some(Self(bytes))
    }

    /// The name as the kernel keeps it: padded with zeros.
    pub fn padded(&self) -> &[u8; 16] {
        &self.0
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        std::str::from_utf8(&self.0[..length]).unwrap_or_default()
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// An element of one of the sets in our nftables tables; its address determines the table's family.
///
/// When there are many elements, they are written in this order and removed in the reverse order, and time may pass
/// between two of them. An element that makes an exception therefore comes before the elements that it is an exception
/// to. (At a start, some elements wait for virtual servers.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// Set `shared-addresses`: a service address that another device of the node also has. Only the Services' ports at
    /// this address are ours.
    SharedAddress(IpAddr),
    /// Set `cluster-addresses`: a cluster IP. Traffic to it either belongs to a Service or is refused; traffic from a
    /// source outside the cluster is masqueraded.
    ClusterAddress(IpAddr),
    /// Set `external-addresses`: an external IP or a load balancer's. Traffic to it either belongs to a Service or is
    /// refused.
    ExternalAddress(IpAddr),
    /// Set `health-checks`: a service address with the health check node port that load balancers query there; always
    /// TCP. Not an entry point: this program itself answers there.
    HealthCheck(VirtualServerKey),
    /// Set `hairpin`: an endpoint that may reach itself through this node; such a connection is masqueraded.
    Hairpin(IpAddr),
    /// Set `owned`: a virtual server of ours whose address is not on our device.
    Owned(VirtualServerKey),
    /// Set `masqueraded`: an entry point from outside that leads to endpoints of the whole cluster.
    Masquerade(VirtualServerKey),
    /// Map `in-cluster`: an entry point from outside that leads to this node's endpoints only, and the entry point, of
    /// the same protocol, that clients inside the cluster are sent to instead.
    InCluster(VirtualServerKey, IpAddr, u16),
    /// Set `internal`: a virtual server that only connections by way of `in-cluster` may use.
    Internal(VirtualServerKey),
    /// Set `dropped`: an entry point whose endpoints are all on other nodes.
    Dropped(VirtualServerKey),
    /// Set `refused`: an entry point without endpoints whose address is not on our device.
    Refused(VirtualServerKey),
    /// Set `allowed`: a network that may use a restricted entry point. The networks of one entry point do not overlap.
    Allowed(VirtualServerKey, IpNet),
    /// Set `restricted`: an entry point that not everybody may use.
    Restricted(VirtualServerKey),
    /// Set `numbered`: a device that has an IPv4 address of its own, which masquerading can use.
    Numbered(InterfaceName),
}

impl Element {
    /// The service address or endpoint address that the element is about; `None` if it is about a device.
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Self::ClusterAddress(address)
            | Self::ExternalAddress(address)
            | Self::SharedAddress(address)
            | Self::Hairpin(address) => Some(address),
            Self::HealthCheck(server) => Some(server.address),
            Self::Numbered(_) => None,
            _ => self.entry_point().map(|server| server.address),
        }
    }

    /// The entry point that the element is about, if any. The Service that has the entry point decides whether there is
    /// such an element.
    pub fn entry_point(self) -> Option<VirtualServerKey> {
        match self {
            Self::Owned(server)
            | Self::Masquerade(server)
            | Self::InCluster(server, ..)
            | Self::Internal(server)
            | Self::Dropped(server)
            | Self::Refused(server)
            | Self::Restricted(server)
            | Self::Allowed(server, _) => Some(server),
            Self::ClusterAddress(_)
            | Self::ExternalAddress(_)
            | Self::SharedAddress(_)
            | Self::Hairpin(_)
            | Self::HealthCheck(_)
            | Self::Numbered(_) => None,
        }
    }

    /// The virtual server that clients inside the cluster are sent to instead; `None` if the element is not about that.
    pub(crate) fn leads_to(self) -> Option<VirtualServerKey> {
        match self {
            Self::InCluster(from, address, port) => Some(VirtualServerKey { address, port, ..from }),
            _ => None,
        }
    }

    /// Whether a set cannot hold both elements: two targets of one entry point, or two overlapping networks of one.
    pub fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::InCluster(server, ..), Self::InCluster(of, ..)) => server == of && self != other,
            (Self::Allowed(server, network), Self::Allowed(of, known)) => {
                server == of && self != other && (network.contains(known) || known.contains(network))
            }
            _ => false,
        }
    }

    /// Whether the element is of a kind for which [`Element::excludes`] can hold.
    pub(crate) fn is_exclusive(&self) -> bool {
        matches!(self, Self::InCluster(..) | Self::Allowed(..))
    }

    /// The name of the set, or map, that the element belongs to.
    pub fn set_name(self) -> &'static str {
        match self {
            Self::ClusterAddress(_) => "cluster-addresses",
            Self::ExternalAddress(_) => "external-addresses",
            Self::SharedAddress(_) => "shared-addresses",
            Self::HealthCheck(_) => "health-checks",
            Self::Hairpin(_) => "hairpin",
            Self::Owned(_) => "owned",
            Self::Masquerade(_) => "masqueraded",
            Self::InCluster(..) => "in-cluster",
            Self::Internal(_) => "internal",
            Self::Dropped(_) => "dropped",
            Self::Refused(_) => "refused",
            Self::Restricted(_) => "restricted",
            Self::Allowed(..) => "allowed",
            Self::Numbered(_) => "numbered",
        }
    }

    /// The family of the table that the element belongs to.
    pub fn family(self) -> Family {
        self.address().map_or(Family::V4, Family::of)
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.set_name();
        match self {
            Self::ClusterAddress(address)
            | Self::ExternalAddress(address)
            | Self::SharedAddress(address)
            | Self::Hairpin(address) => write!(f, "{set} {address}"),
            Self::InCluster(server, address, port) => {
                write!(f, "{set} {server} -> {}", std::net::SocketAddr::new(*address, *port))
            }
            Self::HealthCheck(server)
            | Self::Owned(server)
            | Self::Masquerade(server)
            | Self::Internal(server)
            | Self::Dropped(server)
            | Self::Refused(server)
            | Self::Restricted(server) => write!(f, "{set} {server}"),
            Self::Allowed(server, network) => write!(f, "{set} {server} from {network}"),
            Self::Numbered(name) => write!(f, "{set} {name}"),
        }
    }
}

/// An address on the device, /32 or /128, with its route in table local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Whether its preferred lifetime is 0, so that the kernel never chooses it as the source of a connection. Wanted
    /// for IPv6, where masquerading could otherwise choose a service address; `false` for IPv4, which makes no such
    /// choice.
    pub deprecated: bool,
    /// Whether `local ADDRESS dev kube-ipvs0` is in table local: without this route, the node does not accept packets
    /// to the address. The kernel creates the route together with the address.
    pub routed: bool,
}

impl Address {
    /// An address as we make it.
    pub fn wanted(address: IpAddr) -> Self {
        Self { deprecated: address.is_ipv6(), routed: true }
    }
}

//! Virtual servers of IPVS, and the real servers that they lead to.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::RealServers;
use crate::cluster::types::Protocol;

/// What identifies a virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualServerKey {
    /// The service address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl VirtualServerKey {
    /// The range of all keys with this address, in the order of keys.
    pub(crate) fn all_at(address: IpAddr) -> RangeInclusive<Self> {
        let first = Self { address, protocol: Protocol::Tcp, port: 0 };
        first..=Self { address, protocol: Protocol::Sctp, port: u16::MAX }
    }

    /// The number of the kernel's hash chain, of 256, that holds the virtual server, up to a value that is constant
    /// within a network namespace (`ip_vs_svc_hashkey` of `net/netfilter/ipvs/ip_vs_ctl.c`, Linux 6.12).
    ///
    /// The kernel walks a chain for each message about a virtual server or a real server. With 10,000 virtual servers,
    /// that is a walk past 40 of them, which come from main memory unless the previous message was about the same
    /// chain; in the order of addresses, it never is. For a kernel with another table (the one of 7.3 grows), this
    /// order is as good as any other.
    pub fn chain(&self) -> u8 {
        let [high, low] = self.port.to_be_bytes();
        let address = match self.address {
            IpAddr::V4(address) => address.octets()[3],
            // The last byte of each of its four words.
            IpAddr::V6(address) => address.octets().iter().skip(3).step_by(4).fold(0, |all, byte| all ^ byte),
        };
        address ^ self.protocol.number() ^ high ^ low
    }
}

impl fmt::Display for VirtualServerKey {
    /// As `ipvsadm -ln` writes it: `TCP 10.96.0.1:443`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, std::net::SocketAddr::new(self.address, self.port))
    }
}

/// A virtual server (`struct ip_vs_service` of the kernel).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualServer {
    /// The scheduler's name: `rr`, ...
    pub scheduler: Arc<str>,
    /// `IP_VS_SVC_F_*`, without `HASHED`, which is the kernel's own flag.
    pub flags: u32,
    /// Seconds for which a client stays with its real server; 0 without [`VirtualServer::PERSISTENT`]. (Without this
    /// flag the kernel reports whatever was set, and reading back folds that to 0.)
    pub timeout_seconds: u32,
    /// The number of leading bits of a client's address that persistence looks at: 32, or 128.
    pub netmask_bits: u8,
    /// The real servers.
    pub real_servers: RealServers,
}

impl fmt::Display for VirtualServer {
    /// `rr flags 0x1 timeout 10800`, without its real servers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} flags {:#x} timeout {}", self.scheduler, self.flags, self.timeout_seconds)
    }
}

impl VirtualServer {
    /// `IP_VS_SVC_F_PERSISTENT`: clients stay with their real server.
    pub const PERSISTENT: u32 = 0x1;
    /// `IP_VS_SVC_F_SCHED2`, which `mh` reads as `mh-port`: the client's port is hashed too.
    pub const MH_PORT: u32 = 0x10;

    /// Whether the scheduler chooses by a hash alone.
    ///
    /// `ip_vs_mh`, `_sh` and `_dh` keep real servers of weight 0 in their tables and refuse the clients that hash to
    /// one of those (Linux 6.12; kube-proxy does not set the fallback flags of the first two, contract 4.4).
    pub fn hashes(&self) -> bool {
        matches!(&*self.scheduler, "mh" | "sh" | "dh")
    }

    /// Whether clients stay with their real server.
    pub fn is_persistent(&self) -> bool {
        self.flags & Self::PERSISTENT != 0
    }

    /// A copy without its real servers.
    #[must_use]
    pub fn without_real_servers(&self) -> Self {
        Self { real_servers: RealServers::default(), scheduler: Arc::clone(&self.scheduler), ..*self }
    }

    /// Whether everything but the real servers is equal.
    pub fn same_settings(&self, other: &Self) -> bool {
        self.scheduler == other.scheduler
            && self.flags == other.flags
            && self.timeout_seconds == other.timeout_seconds
            && self.netmask_bits == other.netmask_bits
    }
}

/// What identifies a real server within its virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealServerKey {
    /// The endpoint's address.
    pub address: IpAddr,
    /// The endpoint's port.
    pub port: u16,
}

impl RealServerKey {
    /// The first key in order: with [`RealServerKey::LAST`], the range of all real servers of a virtual server.
    pub const FIRST: Self = Self { address: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), port: 0 };
    /// The last key in order.
    pub const LAST: Self =
        Self { address: IpAddr::V6(std::net::Ipv6Addr::from_bits(u128::MAX)), port: u16::MAX };
}

impl fmt::Display for RealServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::net::SocketAddr::new(self.address, self.port))
    }
}

/// A real server (`struct ip_vs_dest` of the kernel), reached by masquerading (NAT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealServer {
    /// Its weight.
    pub weight: Weight,
    /// The forwarding method (`IP_VS_CONN_F_FWD_MASK` of its connection flags): [`RealServer::MASQUERADE`] is what we
    /// use.
    pub forwarding: u8,
    /// Whether it has a connection threshold, at which new connections pass it over. We never set one (contract 5.3),
    /// and any write to a real server removes a threshold that somebody else has set.
    pub is_limited: bool,
}

impl RealServer {
    /// `IP_VS_CONN_F_MASQ`: forwarding by address translation.
    pub const MASQUERADE: u8 = 0;

    /// A real server as we make it.
    pub fn with(weight: Weight) -> Self {
        Self { weight, forwarding: Self::MASQUERADE, is_limited: false }
    }
}

/// The weight of a real server: its share of new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// This weight. A state read from the kernel holds only this form.
    Exactly(u32),
    /// Only in a wanted state: the endpoint is no longer used. The real server has weight 0 while its connections last,
    /// but its absence is just as good: never a reason to add one.
    DrainIfPresent,
}

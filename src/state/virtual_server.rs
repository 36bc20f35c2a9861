//! Virtual servers of IPVS, and the real servers that they lead to.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::RealServers;
use crate::cluster::types::Protocol;

/// What a virtual server is known by.
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
    /// From the first to the last of all keys with this address, as they are ordered.
    pub(crate) fn all_at(address: IpAddr) -> RangeInclusive<Self> {
        let first = Self { address, protocol: Protocol::Tcp, port: 0 };
        first..=Self { address, protocol: Protocol::Sctp, port: u16::MAX }
    }

    /// On which of its 256 chains the kernel keeps the virtual server, but for a number that is the same for all of a network
    /// namespace (`ip_vs_svc_hashkey` of `net/netfilter/ipvs/ip_vs_ctl.c`, Linux 6.12).
    ///
    /// It walks a chain for each message about a virtual server or a real server: with 10,000 of them past 40, which come from
    /// memory, unless the message before was about the same chain. In the order of addresses it never is. Where the kernel
    /// has another table (that of 7.3 grows), this is an order like any other.
    pub fn chain(&self) -> u8 {
        let [high, low] = self.port.to_be_bytes();
        let address = match self.address {
            IpAddr::V4(address) => address.octets()[3],
            // Of each of its four words the last byte.
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
    /// `IP_VS_SVC_F_*`, without `HASHED`, which is the kernel's own mark.
    pub flags: u32,
    /// Seconds for which a client stays with its real server. 0 without [`VirtualServer::PERSISTENT`] (the kernel
    /// reports whatever was set; reading back folds it to 0 where the flag is not set).
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

    /// Whether its scheduler chooses by a hash alone: `ip_vs_mh`, `_sh` and `_dh` have real servers of weight 0 in their
    /// tables, and refuse whom they are chosen for (Linux 6.12; the flags for a fallback of the first two are not what
    /// kube-proxy sets, contract 4.4).
    pub fn hashes(&self) -> bool {
        matches!(&*self.scheduler, "mh" | "sh" | "dh")
    }

    /// Whether clients stay with their real server.
    pub fn is_persistent(&self) -> bool {
        self.flags & Self::PERSISTENT != 0
    }

    /// The same without its real servers.
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

/// What a real server is known by inside its virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealServerKey {
    /// The endpoint's address.
    pub address: IpAddr,
    /// The endpoint's port.
    pub port: u16,
}

impl RealServerKey {
    /// The first in order: with [`RealServerKey::LAST`] the range of all real servers of a virtual server.
    pub const FIRST: Self = Self { address: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), port: 0 };
    /// The last in order.
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
    /// `IP_VS_CONN_F_FWD_MASK` of its connection flags; [`RealServer::MASQUERADE`] is what we use.
    pub forwarding: u8,
    /// Whether it has a threshold of connections, at which new ones pass it over. We never set one (contract 5.3), and whatever
    /// is written of a real server takes away what somebody else has set.
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

/// The weight of a real server: what share of new connections it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// This weight. A state read from the kernel holds only this form.
    Exactly(u32),
    /// Only in a wanted state: its endpoint is not used any more. Weight 0 while its connections last, but absence is as
    /// good: never a reason to add one.
    DrainIfPresent,
}

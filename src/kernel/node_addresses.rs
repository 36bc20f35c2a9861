//! Follows the addresses of this node: node ports are served on them, and a service address that is among them is for
//! others to announce.
//!
//! The kernel lists addresses and reports changes in the same kind of message, so one fold handles both. The multicast
//! groups are joined before the list is requested: changes that happen meanwhile wait in the socket, and processing a
//! change twice does no harm. So a change costs one message, and no new list: on most nodes every new pod brings an
//! interface with a link-local address. The list is requested anew only if messages were lost.
//!
//! Addresses on [`DEVICE`] are our own, and there are thousands: as soon as the number of the interface is seen, the
//! kernel is told to leave them out, since each would wake up the thread. An address that is still being checked for
//! duplicates counts: a node port there hurts nobody.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::address;
use super::bytes::{family_of, read_octets};
use super::link;
use super::netlink::multicast::{Heard, Multicast};
use super::netlink::{Attribute, Message, Protocol, Socket, settled};
use crate::cluster::types::{AddressScope, Family, NodeAddress, NodeAddresses};
use crate::state::DEVICE;
use crate::telemetry::Said;

/// `AF_UNSPEC`: messages of other families are about a port of a bridge, not about an interface.
const UNSPECIFIED: u8 = 0;
/// `RT_SCOPE_LINK`, `RT_SCOPE_HOST`; the number grows as the scope narrows.
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV6_IFADDR`.
const GROUPS: [u32; 3] = [1, 5, 9];
/// The offset of the interface's number in a message about an address.
const INTERFACE_OFFSET: u32 = 20;

/// How long to wait after the first of several changes, so that they are looked at together: they come in bursts (an
/// interface with its addresses, a daemon that moves some).
const BURST: Duration = Duration::from_millis(5);
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Follows the addresses of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Monitor {
    news: Multicast,
    socket: Socket,
    interfaces: Interfaces,
    /// The interface whose addresses the kernel leaves out.
    ignored: Option<u32>,
    /// Whether the list must be requested anew: messages were lost or left out since the last one.
    stale: bool,
    /// The addresses that were reported last.
    told: NodeAddresses,
}

impl Monitor {
    /// Lists the addresses, and receives changes from now on.
    ///
    /// # Errors
    /// If the kernel could not be asked, or its messages could not be received.
    pub fn open() -> io::Result<Self> {
        Self::hearing(Multicast::join(Protocol::Route, &GROUPS)?)
    }

    /// As [`Monitor::open`], with a receive buffer of this many bytes, for tests that provoke an overrun.
    ///
    /// # Errors
    /// As for [`Monitor::open`].
    pub fn with_receive_buffer(bytes: usize) -> io::Result<Self> {
        Self::hearing(Multicast::with_receive_buffer(Protocol::Route, &GROUPS, bytes)?)
    }

    fn hearing(news: Multicast) -> io::Result<Self> {
        let socket = Socket::open(Protocol::Route)?;
        let (interfaces, told) = (Interfaces::default(), NodeAddresses::new());
        let mut monitor = Self { news, socket, interfaces, ignored: None, stale: true, told };
        monitor.catch_up()?;
        monitor.told = monitor.interfaces.addresses();
        Ok(monitor)
    }

    /// The addresses that were reported last.
    pub fn addresses(&self) -> &NodeAddresses {
        &self.told
    }

    /// Waits until the addresses differ from those reported last, and returns them.
    ///
    /// # Errors
    /// If the kernel could not be asked. Nothing is lost then: the next call asks again.
    pub fn changed(&mut self) -> io::Result<NodeAddresses> {
        loop {
            // After a failure there is work to do without waiting.
            if self.stale || self.hear(true)? {
                thread::sleep(BURST);
                self.catch_up()?;
                let addresses = self.interfaces.addresses();
                if addresses != self.told {
                    self.told.clone_from(&addresses);
                    return Ok(addresses);
                }
            }
        }
    }

    /// Processes everything that waits, and requests the list again if that is not enough.
    fn catch_up(&mut self) -> io::Result<()> {
        while self.stale || self.hear(false)? {
            if self.stale {
                self.interfaces = list(&mut self.socket)?;
                self.stale = false;
                self.ignore_ours()?;
            }
        }
        Ok(())
    }

    /// Tells the kernel to leave out the addresses of our own device.
    fn ignore_ours(&mut self) -> io::Result<()> {
        let ours = self.interfaces.ours;
        if self.ignored != ours {
            let field = ours.map(|interface| (INTERFACE_OFFSET, interface));
            self.news.ignore([address::NEW_ADDRESS, address::DELETE_ADDRESS], field)?;
            // If the old number now belongs to another interface, messages about that interface were left out.
            self.stale |= self.ignored.is_some();
            self.ignored = ours;
        }
        Ok(())
    }

    /// Processes the next datagram. Returns whether it contained anything relevant, or whether there may be more.
    fn hear(&mut self, wait: bool) -> io::Result<bool> {
        match self.news.next(wait)? {
            Heard::Nothing => Ok(false),
            Heard::Overrun => {
                self.stale = true;
                Ok(true)
            }
            heard @ Heard::Messages(_) => {
                let mut matters = false;
                for message in heard.messages() {
                    if let Some(change) = decode(message, self.interfaces.ours) {
                        matters = true;
                        self.stale |= self.interfaces.take_in(change);
                    }
                }
                self.ignore_ours()?;
                Ok(matters || !wait)
            }
        }
    }
}

/// Calls `tell` with all addresses whenever they have changed, until it returns `false`: nobody listens any more.
pub fn follow(mut monitor: Monitor, mut tell: impl FnMut(NodeAddresses) -> bool) {
    // Without a change of the addresses, nothing shows that an error is over: the same error is logged again only after
    // an hour.
    let mut said = Said::default();
    loop {
        match monitor.changed() {
            Ok(addresses) => {
                said.over();
                if !tell(addresses) {
                    return;
                }
            }
            Err(error) => {
                let error = error.to_string();
                if said.is_news(&error, Instant::now()) {
                    tracing::error!(err = error, "Cannot list the node's addresses; trying again");
                }
                thread::sleep(RETRY);
            }
        }
    }
}

/// What a message reports.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// An interface exists and has this name.
    Interface(u32, Arc<str>),
    /// An interface is gone.
    NoInterface(u32),
    /// An address exists.
    Address(AddressKey, AddressScope),
    /// An address is gone.
    NoAddress(AddressKey),
}

/// What identifies an address for the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct AddressKey {
    interface: u32,
    address: IpAddr,
    prefix: u8,
    /// The other end of a point-to-point link; otherwise the address itself. For IPv6 always the address itself: a
    /// device has each IPv6 address only once, and when its other end changes, the kernel sends one message, about the
    /// new end.
    peer: IpAddr,
}

/// All interfaces and their addresses, except for the addresses of our own device.
#[derive(Debug, Default)]
struct Interfaces {
    names: BTreeMap<u32, Arc<str>>,
    addresses: BTreeMap<AddressKey, AddressScope>,
    /// The number of our own device.
    ours: Option<u32>,
}

impl Interfaces {
    /// Processes a change. `true`: messages that were left out matter now, so list again.
    fn take_in(&mut self, change: Change) -> bool {
        match change {
            Change::Interface(index, name) => {
                if *name == *DEVICE {
                    self.ours = Some(index);
                    self.forget_addresses(index);
                } else if self.ours == Some(index) {
                    self.ours = None;
                    self.names.insert(index, name);
                    return true;
                }
                self.names.insert(index, name);
            }
            Change::NoInterface(index) => {
                self.ours = self.ours.filter(|ours| *ours != index);
                self.names.remove(&index);
                self.forget_addresses(index);
            }
            Change::Address(key, scope) => {
                self.addresses.insert(key, scope);
            }
            Change::NoAddress(key) => {
                self.addresses.remove(&key);
            }
        }
        false
    }

    fn forget_addresses(&mut self, interface: u32) {
        self.addresses.retain(|key, _| key.interface != interface);
    }

    /// The addresses to report. An address whose interface has no name yet belongs to an interface that was made during
    /// the listing: the message about that interface is waiting.
    fn addresses(&self) -> NodeAddresses {
        let named = |(key, scope): (&AddressKey, &AddressScope)| {
            let interface = self.names.get(&key.interface)?.clone();
            Some(NodeAddress { address: key.address, interface, scope: *scope })
        };
        self.addresses.iter().filter_map(named).collect()
    }
}

/// Lists all interfaces and addresses. The lists are repeated until two agree: the kernel marks a change a little after
/// it made it, and walks by position.
fn list(socket: &mut Socket) -> io::Result<Interfaces> {
    let mut interfaces = Interfaces::default();
    let links = settled(
        || {
            socket.dump(
                link::GET_LINK,
                |body| body.fixed(&[0; link::HEADER_LENGTH]),
                |message| Ok(decode(message, None)),
            )
        },
        PartialEq::eq,
    )?;
    for link in links {
        interfaces.take_in(link);
    }
    let ours = interfaces.ours;
    for family in Family::ALL {
        let read = || {
            socket.dump(
                address::GET_ADDRESS,
                |body| body.fixed(&address::fixed(family, 0, 0)),
                |message| Ok(decode(message, ours)),
            )
        };
        for address in settled(read, PartialEq::eq)? {
            interfaces.take_in(address);
        }
    }
    Ok(interfaces)
}

/// What a message reports; `None`: nothing relevant. `ours`: the number of our own device.
fn decode(message: Message<'_>, ours: Option<u32>) -> Option<Change> {
    match message.kind {
        link::NEW_LINK | link::DELETE_LINK => {
            let header: &[u8; link::HEADER_LENGTH] = message.payload.first_chunk()?;
            let index = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
            if header[0] != UNSPECIFIED {
                return None;
            }
            if message.kind == link::DELETE_LINK {
                return Some(Change::NoInterface(index));
            }
            let name = message.attributes(link::HEADER_LENGTH).get(link::NAME)?.name();
            Some(Change::Interface(index, name.into()))
        }
        address::NEW_ADDRESS | address::DELETE_ADDRESS => {
            let &[family, prefix, _flags, scope, a, b, c, d] =
                message.payload.first_chunk::<{ address::HEADER_LENGTH }>()?;
            let interface = u32::from_ne_bytes([a, b, c, d]);
            if Some(interface) == ours {
                return None;
            }
            let family = family_of(family)?;
            let attributes = message.attributes(address::HEADER_LENGTH);
            let read = |attribute: Attribute<'_>| read_octets(attribute.value, family);
            let peer = attributes.get(address::ADDRESS).and_then(read);
            let local = attributes.get(address::LOCAL).and_then(read);
            let (address, peer) = (local.or(peer)?, peer.or(local)?);
            let peer = if family == Family::V6 { address } else { peer };
            let key = AddressKey { interface, address, prefix, peer };
            Some(if message.kind == address::NEW_ADDRESS {
                Change::Address(key, scope_of(scope))
            } else {
                Change::NoAddress(key)
            })
        }
        _ => None,
    }
}

fn scope_of(number: u8) -> AddressScope {
    match number {
        ..SCOPE_LINK => AddressScope::Global,
        SCOPE_LINK => AddressScope::Link,
        SCOPE_HOST.. => AddressScope::Host,
    }
}

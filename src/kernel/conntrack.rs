//! Connection tracking: stale UDP entries are found and deleted (`linux/netfilter/nfnetlink_conntrack.h`).
//!
//! The kernel walks its whole table for a list, whatever is asked for. So all that is stale is looked for in one walk,
//! which copies UDP entries only, and of IPv4 those to one address only where that is enough (kernels before 5.8 do not
//! filter: what they copy too much is left out here). The walk is by hash value: an entry that comes or goes meanwhile
//! may be missed, others are not.
//!
//! An entry is deleted by its tuple *and* its number, so that a new one that took its place stays. Entries in zones are
//! others' (Open vSwitch, some CNI plugins): IPVS works outside of zones.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use rustix::io::Errno;

use super::Purged;
use super::bytes::{octets, read_octets};
use super::netlink::{Attribute, Body, Frames, Message, Socket, Verdict, lost};
use super::nfnetlink::{self, header, is_of_family, kind};
use crate::cluster::types::{Family, Protocol};
use crate::diff::purge::{Flow, Purge};
use crate::state::{RealServerKey, VirtualServerKey};

/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u16 = 1;
/// `IPCTNL_MSG_CT_GET`, `IPCTNL_MSG_CT_DELETE`. (A request to delete that names no tuple deletes everything.)
const GET: u16 = kind(SUBSYSTEM, 1);
const DELETE: u16 = kind(SUBSYSTEM, 2);
/// `CTA_*`.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
/// `CTA_TUPLE_*`.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const TUPLE_ZONE: u16 = 3;
/// `CTA_PROTO_*`.
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
/// `CTA_FILTER_ORIG_FLAGS`, and which parts of the tuple it makes count (`CTA_FILTER_F_*`, of the kernel's
/// `nf_internals.h`).
const FILTER_ORIGINAL: u16 = 1;
const FILTER_DESTINATION: u32 = 1 << 1;
const FILTER_PROTOCOL: u32 = 1 << 3;

/// How many messages are encoded before they are sent.
const PART: usize = 1024;

/// A flow, and what it is deleted by.
pub(super) struct Entry {
    flow: Flow,
    /// The value of its attribute `CTA_TUPLE_ORIG`, as the kernel wrote it.
    tuple: Vec<u8>,
    id: u32,
}

/// Finds the stale entries of one family, and deletes them. What went wrong is in the result.
pub(crate) fn purge(socket: &mut Socket, family: Family, purge: &Purge) -> Purged {
    let started = Instant::now();
    let (deleted, failure) = match stale(socket, family, purge) {
        Ok(entries) => delete(socket, family, &entries),
        Err(error) => (0, Some(format!("listing entries: {error}"))),
    };
    Purged { deleted, took: started.elapsed(), failure }
}

/// Finds the stale entries of one family.
pub(super) fn stale(socket: &mut Socket, family: Family, purge: &Purge) -> io::Result<Vec<Entry>> {
    let only = only_address(family, purge);
    let dump = socket.dump(
        GET,
        |body| request(body, family, only),
        |message| Ok(decode(message, family).filter(|entry| purge.is_stale(&entry.flow))),
    )?;
    Ok(dump.items)
}

/// The address that all entries to be looked at were sent to, if it is one and the kernel can be asked for it.
fn only_address(family: Family, purge: &Purge) -> Option<IpAddr> {
    let addresses = purge.live.keys().map(|server| server.address);
    let addresses: BTreeSet<IpAddr> = addresses.filter(|address| Family::of(*address) == family).collect();
    // Kernels up to 6.1 at least compare IPv6 addresses the wrong way round: they leave out what was asked for.
    addresses.first().copied().filter(|address| addresses.len() == 1 && address.is_ipv4())
}

fn delete(socket: &mut Socket, family: Family, entries: &[Entry]) -> (u64, Option<String>) {
    let (mut deleted, mut failure) = (0, None);
    let mut frames = Frames::new();
    for part in entries.chunks(PART) {
        frames.clear();
        for entry in part {
            frames.push(DELETE, 0, |body| {
                header(body, family);
                body.attribute(TUPLE_ORIGINAL, &entry.tuple);
                body.be32(ID, entry.id);
            });
        }
        for verdict in socket.batch(&mut frames) {
            match verdict {
                Verdict::Done => deleted += 1,
                // It went by itself.
                Verdict::Errno(refusal) if refusal.is(Errno::NOENT) => {}
                Verdict::Errno(refusal) => failure = Some(format!("deleting an entry: {refusal}")),
                Verdict::Unknown => failure = Some(format!("deleting an entry: {}", lost())),
            }
        }
    }
    (deleted, failure)
}

/// Asks for the entries of UDP; `only`: those that were sent to this address.
fn request(body: &mut Body<'_>, family: Family, only: Option<IpAddr>) {
    header(body, family);
    body.nest(TUPLE_ORIGINAL, |body| {
        if let Some(address) = only {
            body.nest(TUPLE_IP, |body| body.attribute(destination(family), octets(address).as_ref()));
        }
        body.nest(TUPLE_PROTOCOL, |body| body.u8(PROTOCOL_NUMBER, Protocol::Udp.number()));
    });
    let flags = if only.is_some() { FILTER_PROTOCOL | FILTER_DESTINATION } else { FILTER_PROTOCOL };
    body.nest(FILTER, |body| body.u32(FILTER_ORIGINAL, flags));
}

/// `CTA_IP_V4_SRC`, `CTA_IP_V6_SRC`.
fn source(family: Family) -> u16 {
    match family {
        Family::V4 => 1,
        Family::V6 => 3,
    }
}

/// `CTA_IP_V4_DST`, `CTA_IP_V6_DST`.
fn destination(family: Family) -> u16 {
    match family {
        Family::V4 => 2,
        Family::V6 => 4,
    }
}

/// An entry of UDP outside of zones; `None`: another.
fn decode(message: Message<'_>, family: Family) -> Option<Entry> {
    let attributes = nfnetlink::attributes(&message);
    let original = attributes.get(TUPLE_ORIGINAL)?;
    let reply = attributes.get(TUPLE_REPLY)?;
    if !is_of_family(&message, family)
        || attributes.get(ZONE).is_some()
        || original.nested().get(TUPLE_ZONE).is_some()
    {
        return None;
    }
    let (address, port) = end(original, family, destination(family), DESTINATION_PORT)?;
    let destination = VirtualServerKey { address, protocol: Protocol::Udp, port };
    let (address, port) = end(reply, family, source(family), SOURCE_PORT)?;
    let replies_from = RealServerKey { address, port };
    let id = attributes.get(ID)?.be32()?;
    Some(Entry { flow: Flow { destination, replies_from }, tuple: original.value.to_vec(), id })
}

/// One end of a tuple of UDP.
fn end(tuple: Attribute<'_>, family: Family, address: u16, port: u16) -> Option<(IpAddr, u16)> {
    let protocol = tuple.nested().get(TUPLE_PROTOCOL)?.nested();
    if protocol.get(PROTOCOL_NUMBER)?.u8() != Some(Protocol::Udp.number()) {
        return None;
    }
    let address = tuple.nested().get(TUPLE_IP)?.nested().get(address)?;
    Some((read_octets(address.value, family)?, protocol.get(port)?.be16()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry that the kernel could send: from 192.0.2.1:1024 to 10.96.0.10:53, with replies from 10.244.1.2:5353.
    fn entry(protocol: Protocol, more: impl FnOnce(&mut Body<'_>)) -> Frames {
        let tuple = |body: &mut Body<'_>, kind, from: ([u8; 4], u16), to: ([u8; 4], u16)| {
            body.nest(kind, |body| {
                body.nest(TUPLE_IP, |body| {
                    body.attribute(source(Family::V4), &from.0);
                    body.attribute(destination(Family::V4), &to.0);
                });
                body.nest(TUPLE_PROTOCOL, |body| {
                    body.u8(PROTOCOL_NUMBER, protocol.number());
                    body.be16(SOURCE_PORT, from.1);
                    body.be16(DESTINATION_PORT, to.1);
                });
            });
        };
        let mut frames = Frames::new();
        frames.push(0, 0, |body| {
            header(body, Family::V4);
            tuple(body, TUPLE_ORIGINAL, ([192, 0, 2, 1], 1024), ([10, 96, 0, 10], 53));
            tuple(body, TUPLE_REPLY, ([10, 244, 1, 2], 5353), ([192, 0, 2, 1], 1024));
            body.be32(ID, 7);
            more(body);
        });
        frames
    }

    #[test]
    fn one_address_of_ipv4_is_asked_for_alone() {
        let only = |servers: &[&str]| {
            let key = |server: &&str| {
                let server: std::net::SocketAddr = server.parse().expect("an address and a port");
                VirtualServerKey { address: server.ip(), protocol: Protocol::Udp, port: server.port() }
            };
            let live = servers.iter().map(|server| (key(server), BTreeSet::new())).collect();
            let address = only_address(Family::of(key(&servers[0]).address), &Purge { live });
            address.map(|address| address.to_string())
        };
        let one = Some("10.96.0.10".to_owned());
        assert_eq!(only(&["10.96.0.10:53"]), one);
        assert_eq!(only(&["10.96.0.10:53", "10.96.0.10:54", "[fd00::10]:53"]), one, "ports, another family");
        assert_eq!(only(&["10.96.0.10:53", "10.96.0.11:53", "10.96.0.10:54"]), None, "two addresses");
        assert_eq!(only(&["[fd00::10]:53"]), None, "IPv6");
    }

    fn decoded(frames: &Frames, family: Family) -> Option<Entry> {
        decode(Message { kind: 0, flags: 0, sequence: 1, payload: frames.payload(0) }, family)
    }

    #[test]
    fn an_entry_of_udp_outside_of_zones_is_a_flow() {
        let udp = entry(Protocol::Udp, |_| {});
        let found = decoded(&udp, Family::V4).expect("a flow");
        assert_eq!(found.id, 7);
        let flow = Flow {
            destination: VirtualServerKey {
                address: [10, 96, 0, 10].into(),
                protocol: Protocol::Udp,
                port: 53,
            },
            replies_from: RealServerKey { address: [10, 244, 1, 2].into(), port: 5353 },
        };
        assert_eq!(found.flow, flow);
        assert!(decoded(&udp, Family::V6).is_none(), "another family");
        assert!(decoded(&entry(Protocol::Tcp, |_| {}), Family::V4).is_none(), "another protocol");
        assert!(decoded(&entry(Protocol::Udp, |body| body.be16(ZONE, 7)), Family::V4).is_none(), "a zone");
    }
}

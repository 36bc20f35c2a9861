//! Connection tracking: finds and deletes stale UDP entries (`linux/netfilter/nfnetlink_conntrack.h`).
//!
//! The kernel walks its whole table for a list, whatever is asked for. So one walk looks for everything that is stale.
//! The walk is by hash value: it may miss an entry that comes or goes meanwhile, but no other one.
//!
//! The kernel could filter by family, and since 5.8 by protocol and address. No filter is used: the kernel walks with
//! software interrupts off until an answer is full (`ctnetlink_dump_table`, the same from 5.10 to 7.3). With a filter
//! that lets little pass, one processor receives no packets during the whole walk: by estimate a quarter of a second
//! for a million entries.
//!
//! An entry is deleted by its tuple *and* its number, so that a new entry that took its place stays. Entries in zones
//! belong to others (Open vSwitch, some CNI plugins): IPVS does not use zones.

use std::io;
use std::net::IpAddr;
use std::time::Instant;

use rustix::io::Errno;

use super::bytes::read_octets;
use super::netlink::{Attribute, Frames, Message, Socket, Verdict, lost};
use super::nfnetlink::{self, header, is_of_family, kind};
use super::{Found, Purged, Refusal, StaleEntry};
use crate::cluster::types::{Family, Protocol};
use crate::diff::purge::{Flow, Purge};
use crate::state::{RealServerKey, VirtualServerKey};

/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u16 = 1;
/// `IPCTNL_MSG_CT_GET`, `IPCTNL_MSG_CT_DELETE`. (A delete request without a tuple deletes everything.)
const GET: u16 = kind(SUBSYSTEM, 1);
const DELETE: u16 = kind(SUBSYSTEM, 2);
/// `IPCTNL_MSG_CT_GET_STATS`: how many entries there are. The kernel has that number at hand.
const COUNT: u16 = kind(SUBSYSTEM, 5);
/// `CTA_*`.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// `CTA_TUPLE_*`.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const TUPLE_ZONE: u16 = 3;
/// `CTA_PROTO_*`.
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

/// Why the kernel does not understand questions about connection tracking: it has no `nf_conntrack_netlink`, and could
/// not load it. `None`: it understands them, as far as can be told.
pub(super) fn lack(socket: &mut Socket) -> Option<Refusal> {
    let answer = socket.get(COUNT, |body| header(body, None), |_| Ok(Some(())));
    answer.err().as_ref().and_then(lack_of)
}

/// Whether this error means that the kernel does not know the question. Nothing else can be wrong with the question.
fn lack_of(error: &io::Error) -> Option<Refusal> {
    let refusal = Refusal::of(error);
    refusal.is_one_of(&[Errno::INVAL, Errno::OPNOTSUPP]).then_some(refusal)
}

/// Finds the stale entries.
pub(crate) fn find(socket: &mut Socket, purge: &Purge) -> Found {
    let started = Instant::now();
    let stale = |message: Message<'_>| Ok(decode(message).filter(|entry| purge.is_stale(&entry.flow)));
    let (entries, failure) = match socket.dump(GET, |body| header(body, None), stale) {
        Ok(dump) => (dump.items, None),
        Err(error) => (Vec::new(), Some(format!("cannot list entries: {error}"))),
    };
    Found { entries, took: started.elapsed(), failure }
}

/// Deletes entries; callers pass as many as may be deleted at once.
pub(crate) fn delete(socket: &mut Socket, entries: &[StaleEntry]) -> Purged {
    let started = Instant::now();
    let mut purged = Purged::default();
    let mut frames = Frames::new();
    for StaleEntry { flow, id: (tuple, number) } in entries {
        frames.push(DELETE, 0, |body| {
            header(body, flow.family());
            body.attribute(TUPLE_ORIGINAL, tuple);
            body.be32(ID, *number);
        });
    }
    for verdict in socket.batch(&mut frames) {
        match verdict {
            Verdict::Done => purged.deleted += 1,
            // It went by itself.
            Verdict::Errno(refusal) if refusal.is(Errno::NOENT) => {}
            Verdict::Errno(refusal) => purged.failure = Some(format!("cannot delete an entry: {refusal}")),
            Verdict::Unknown => purged.failure = Some(format!("cannot delete an entry: {}", lost())),
        }
    }
    purged.took = started.elapsed();
    purged
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
fn decode(message: Message<'_>) -> Option<StaleEntry> {
    let family = Family::ALL.into_iter().find(|family| is_of_family(&message, *family))?;
    let attributes = nfnetlink::attributes(&message);
    let original = attributes.get(TUPLE_ORIGINAL)?;
    let reply = attributes.get(TUPLE_REPLY)?;
    if attributes.get(ZONE).is_some() || original.nested().get(TUPLE_ZONE).is_some() {
        return None;
    }
    let (address, port) = end(original, family, destination(family), DESTINATION_PORT)?;
    let destination = VirtualServerKey { address, protocol: Protocol::Udp, port };
    let (address, port) = end(reply, family, source(family), SOURCE_PORT)?;
    let replies_from = RealServerKey { address, port };
    let id = (original.value.into(), attributes.get(ID)?.be32()?);
    Some(StaleEntry { flow: Flow { destination, replies_from }, id })
}

/// One end of a UDP tuple.
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
    use crate::kernel::netlink::Body;

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

    fn decoded(frames: &Frames) -> Option<StaleEntry> {
        decode(frames.message(0))
    }

    #[test]
    fn a_kernel_without_the_module_is_told_from_one_that_cannot_answer() {
        for errno in [Errno::INVAL, Errno::OPNOTSUPP] {
            assert_eq!(lack_of(&errno.into()), Some(Refusal::of(&errno.into())));
        }
        for errno in [Errno::PERM, Errno::NOMEM, Errno::NOBUFS] {
            assert_eq!(lack_of(&errno.into()), None, "{errno}");
        }
        assert_eq!(lack_of(&lost()), None);
    }

    #[test]
    fn an_entry_of_udp_outside_of_zones_is_a_flow() {
        let udp = entry(Protocol::Udp, |_| {});
        let found = decoded(&udp).expect("a flow");
        assert_eq!(found.id.1, 7);
        let flow = Flow {
            destination: VirtualServerKey {
                address: [10, 96, 0, 10].into(),
                protocol: Protocol::Udp,
                port: 53,
            },
            replies_from: RealServerKey { address: [10, 244, 1, 2].into(), port: 5353 },
        };
        assert_eq!(found.flow, flow);
        assert!(decoded(&entry(Protocol::Tcp, |_| {})).is_none(), "another protocol");
        assert!(decoded(&entry(Protocol::Udp, |body| body.be16(ZONE, 7))).is_none(), "a zone");
    }
}

//! The routes in table local that make the node accept packets to service addresses.
//!
//! The kernel adds them together with the addresses; this program writes one only if somebody has removed it. For IPv4
//! the kernel accepts the same route again. For IPv6 it does not on a device that is down ("Nexthop device is not up"):
//! there the address is removed and put back, which disturbs nothing, since nothing reaches the address without its
//! route.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use rustix::io::Errno;

use super::bytes::{family_number, octets, read_octets};
use super::netlink::{APPEND, Attribute, CREATE, Frames, Message, Socket};
use crate::cluster::types::Family;

/// `RTM_NEWROUTE`, `RTM_GETROUTE` (`linux/rtnetlink.h`).
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
/// Length of `struct rtmsg`.
const HEADER_LENGTH: usize = 12;
/// `RTA_*`.
const DESTINATION: u16 = 1;
const DEVICE: u16 = 4;
const SOURCE: u16 = 7;
/// `RT_TABLE_LOCAL`.
const TABLE_LOCAL: u8 = 255;
/// `RTPROT_KERNEL`.
const PROTOCOL_KERNEL: u8 = 2;
/// `RT_SCOPE_HOST`.
const SCOPE_HOST: u8 = 254;
/// `RTM_F_FIB_MATCH`: answer with the matching route itself, not with the result of the lookup.
const MATCH: u32 = 0x2000;
/// `RTN_LOCAL`.
const TYPE_LOCAL: u8 = 2;

/// Appends the message that adds the route of an IPv4 address on the device, as the kernel adds it with the address:
/// appended, since another device may have the address too.
pub(crate) fn push_add(frames: &mut Frames, device: u32, address: Ipv4Addr) {
    frames.push(NEW_ROUTE, CREATE | APPEND, |body| {
        let family = family_number(Family::V4);
        body.fixed(&[family, 32, 0, 0, TABLE_LOCAL, PROTOCOL_KERNEL, SCOPE_HOST, TYPE_LOCAL, 0, 0, 0, 0]);
        body.attribute(DESTINATION, &address.octets());
        body.attribute(SOURCE, &address.octets());
        body.u32(DEVICE, device);
    });
}

/// The addresses of one family to which table local has a route through the device. A missing address proves nothing:
/// if the table changes during a dump of IPv6 routes, the dump goes on by counting, without a mark, and so may miss
/// routes that existed all along. [`exists`] is reliable.
pub(crate) fn dump(socket: &mut Socket, device: u32, family: Family) -> io::Result<BTreeSet<IpAddr>> {
    let dump = socket.dump(
        GET_ROUTE,
        |body| {
            body.fixed(&[family_number(family), 0, 0, 0, TABLE_LOCAL, 0, 0, TYPE_LOCAL, 0, 0, 0, 0]);
            body.u32(DEVICE, device);
        },
        |message| {
            // Kernels without strict checking (before 4.20) list all tables.
            let in_local = |&(_, table): &(IpAddr, u8)| table == TABLE_LOCAL;
            Ok(decode(message, device, family).filter(in_local).map(|(address, _)| address))
        },
    )?;
    Ok(dump.items.into_iter().collect())
}

/// Whether a local route through the device takes in packets to this address.
pub(crate) fn exists(socket: &mut Socket, device: u32, address: IpAddr) -> io::Result<bool> {
    let family = Family::of(address);
    let [a, b, c, d] = MATCH.to_ne_bytes();
    let found = socket.get(
        GET_ROUTE,
        |body| {
            body.fixed(&[family_number(family), family.host_prefix(), 0, 0, 0, 0, 0, 0, a, b, c, d]);
            body.attribute(DESTINATION, octets(address).as_ref());
        },
        // For IPv4 the answer always names table main, whichever it was; local routes are in table local.
        |message| Ok(Some(decode(message, device, family).is_some_and(|(found, _)| found == address))),
    );
    match found {
        Ok(found) => Ok(found == Some(true)),
        Err(error) if Errno::from_io_error(&error).is_some_and(leads_nowhere) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether this error means that packets are sent nowhere: there is no route at all, or the route is of another kind
/// and covers a wider network, as an administrator's guard does: `unreachable`, `blackhole`, `prohibit`, `throw`
/// (`fib_props` in `net/ipv4/fib_semantics.c`, `ip6_rt_type_to_error` in `net/ipv6/route.c`).
fn leads_nowhere(errno: Errno) -> bool {
    matches!(errno, Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::INVAL | Errno::ACCESS | Errno::AGAIN)
}

/// The address that a local route through the device accepts, and the route's table; `None`: another kind of route.
fn decode(message: Message<'_>, device: u32, family: Family) -> Option<(IpAddr, u8)> {
    let &[number, prefix, _, _, table, _, _, kind, ..] = message.payload.first_chunk::<HEADER_LENGTH>()?;
    let attributes = message.attributes(HEADER_LENGTH);
    let ours = number == family_number(family)
        && prefix == family.host_prefix()
        && kind == TYPE_LOCAL
        && attributes.get(DEVICE).and_then(Attribute::u32) == Some(device);
    ours.then(|| Some((read_octets(attributes.get(DESTINATION)?.value, family)?, table))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_as_it_was_written() {
        let mut frames = Frames::new();
        let address = Ipv4Addr::new(10, 96, 0, 10);
        push_add(&mut frames, 7, address);
        let payload = frames.payload(0);
        let message = Message { kind: NEW_ROUTE, flags: 0, sequence: 1, payload };
        assert_eq!(decode(message, 7, Family::V4), Some((address.into(), TABLE_LOCAL)));
        assert_eq!(decode(message, 8, Family::V4), None, "another device");
        assert_eq!(decode(message, 7, Family::V6), None, "another family");
        assert_eq!(
            message.attributes(HEADER_LENGTH).get(SOURCE).map(|a| a.value),
            Some(&address.octets()[..])
        );
    }
}

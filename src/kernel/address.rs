//! Service addresses on the device, each as a single address (/32, /128).
//!
//! Measured on Linux 6.12, on a dummy device that is down: in both families the kernel adds the route in table local
//! together with the address, and removes it together with the address. For IPv4 both happen at once; for IPv6 the
//! route comes a moment later, from a work queue (`addrconf_dad_work`), and no flag changes that. `IFA_F_NODAD` spares
//! the address duplicate address detection, should somebody set the device up.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use super::bytes::{family_number, octets, read_octets};
use super::netlink::{Attribute, Body, CREATE, EXCLUSIVE, Frames, Message, REPLACE, Socket, settled};
use crate::cluster::types::Family;

/// `RTM_NEWADDR`, `RTM_DELADDR`, `RTM_GETADDR` (`linux/rtnetlink.h`).
pub(super) const NEW_ADDRESS: u16 = 20;
pub(super) const DELETE_ADDRESS: u16 = 21;
pub(super) const GET_ADDRESS: u16 = 22;
/// Length of `struct ifaddrmsg`.
pub(super) const HEADER_LENGTH: usize = 8;
/// `IFA_*` (`linux/if_addr.h`).
pub(super) const ADDRESS: u16 = 1;
pub(super) const LOCAL: u16 = 2;
const BROADCAST: u16 = 4;
const CACHE_INFO: u16 = 6;
const FLAGS: u16 = 8;
/// `IFA_F_NODAD`.
const NO_DUPLICATE_DETECTION: u32 = 0x02;
/// `IFA_F_DEPRECATED`.
const DEPRECATED: u32 = 0x20;
/// `INFINITY_LIFE_TIME`.
const FOREVER: u32 = u32::MAX;

/// `RT_SCOPE_UNIVERSE`: scope global.
const SCOPE_GLOBAL: u8 = 0;

/// Appends the message that puts an address on the device.
pub(crate) fn push_add(frames: &mut Frames, device: u32, address: IpAddr) {
    frames.push(NEW_ADDRESS, CREATE | EXCLUSIVE, |body| attributes(body, device, address));
}

/// Appends the message that gives an existing address on the device the attributes that our addresses have.
pub(crate) fn push_edit(frames: &mut Frames, device: u32, address: IpAddr) {
    frames.push(NEW_ADDRESS, REPLACE, |body| attributes(body, device, address));
}

/// Appends the message that removes an address from the device.
pub(crate) fn push_delete(frames: &mut Frames, device: u32, address: IpAddr) {
    frames.push(DELETE_ADDRESS, 0, |body| {
        header(body, device, address);
        body.attribute(LOCAL, octets(address).as_ref());
        body.attribute(ADDRESS, octets(address).as_ref());
    });
}

/// The single addresses (/32, /128) of one family on the device, and whether they are deprecated. Addresses with a
/// shorter prefix (link-local ones, an administrator's) are not ours and are left out.
///
/// The request covers all devices: if it is restricted to one, the kernel does not mark answers that changed under it
/// (`inet6_dump_addr` returns before the generation is noted; the same for IPv4). And since the kernel notes changes a
/// little after it makes them, the dump must be repeated.
pub(crate) fn dump(socket: &mut Socket, device: u32, family: Family) -> io::Result<BTreeMap<IpAddr, bool>> {
    let read = || {
        socket.dump(
            GET_ADDRESS,
            |body| body.fixed(&fixed(family, 0, 0)),
            |message| Ok(decode(message, device, family)),
        )
    };
    Ok(settled(read, PartialEq::eq)?.into_iter().collect())
}

/// The attributes that kube-proxy gives its addresses (`brd` is the address itself), and for IPv6 a preferred lifetime
/// of 0, so that the kernel does not choose the address as a source: for masquerading it would, by longest prefix.
fn attributes(body: &mut Body<'_>, device: u32, address: IpAddr) {
    header(body, device, address);
    body.attribute(LOCAL, octets(address).as_ref());
    body.attribute(ADDRESS, octets(address).as_ref());
    match address {
        IpAddr::V4(address) => body.attribute(BROADCAST, &address.octets()),
        IpAddr::V6(_) => {
            body.u32(FLAGS, NO_DUPLICATE_DETECTION);
            // `struct ifa_cacheinfo`: preferred and valid lifetime, then two times that only the kernel sets.
            let mut lifetimes = [0; 16];
            lifetimes[4..8].copy_from_slice(&FOREVER.to_ne_bytes());
            body.attribute(CACHE_INFO, &lifetimes);
        }
    }
}

fn header(body: &mut Body<'_>, device: u32, address: IpAddr) {
    let family = Family::of(address);
    body.fixed(&fixed(family, family.host_prefix(), device));
}

/// `struct ifaddrmsg`.
pub(super) fn fixed(family: Family, prefix: u8, device: u32) -> [u8; HEADER_LENGTH] {
    let [a, b, c, d] = device.to_ne_bytes();
    [family_number(family), prefix, 0, SCOPE_GLOBAL, a, b, c, d]
}

fn decode(message: Message<'_>, device: u32, family: Family) -> Option<(IpAddr, bool)> {
    let &[number, prefix, old_flags, _scope, a, b, c, d] = message.payload.first_chunk::<HEADER_LENGTH>()?;
    if number != family_number(family) || u32::from_ne_bytes([a, b, c, d]) != device {
        return None;
    }
    let attributes = message.attributes(HEADER_LENGTH);
    let address = read_octets(attributes.get(LOCAL).or_else(|| attributes.get(ADDRESS))?.value, family)?;
    let flags = attributes.get(FLAGS).and_then(Attribute::u32).unwrap_or(u32::from(old_flags));
    let deprecated = family == Family::V6 && flags & DEPRECATED != 0;
    (prefix == family.host_prefix()).then_some((address, deprecated))
}

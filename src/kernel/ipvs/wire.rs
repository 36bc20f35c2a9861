//! IPVS messages of generic netlink: bytes in, bytes out (`linux/ip_vs.h`, `net/netfilter/ipvs/ip_vs_ctl.c`).
//!
//! An address is the 16 bytes of the kernel's `union nf_inet_addr`, next to an attribute that names its family; ports
//! are in network byte order; everything else is in the host's.

use std::io;
use std::net::IpAddr;

use crate::cluster::types::{Family, Protocol};
use crate::diff::Step;
use crate::kernel::bytes;
use crate::kernel::netlink::{Attribute, Body, Frames, Message, malformed};
use crate::state::{
    RealServer, RealServerKey, RealServers, Timeouts, VirtualServer, VirtualServerKey, Weight,
};

/// Length of `struct genlmsghdr`.
const GENERIC_HEADER_LENGTH: usize = 4;
/// `CTRL_CMD_GETFAMILY` of family `GENL_ID_CTRL`.
pub(super) const CONTROL_FAMILY: u16 = 0x10;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;
/// `IPVS_GENL_NAME`.
const FAMILY_NAME: &str = "IPVS";
/// `IPVS_GENL_VERSION`.
const VERSION: u8 = 1;

/// `IPVS_CMD_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    NewService = 1,
    SetService = 2,
    DelService = 3,
    GetService = 4,
    NewDest = 5,
    SetDest = 6,
    DelDest = 7,
    GetDest = 8,
    SetConfig = 12,
    GetConfig = 13,
    GetInfo = 15,
}

/// `IPVS_CMD_ATTR_*`.
const SERVICE: u16 = 1;
const DEST: u16 = 2;
const TIMEOUT_TCP: u16 = 4;
const TIMEOUT_TCP_FIN: u16 = 5;
const TIMEOUT_UDP: u16 = 6;

/// `IPVS_INFO_ATTR_VERSION`.
const INFO_VERSION: u16 = 1;

/// `IPVS_SVC_ATTR_*`.
const SERVICE_FAMILY: u16 = 1;
const SERVICE_PROTOCOL: u16 = 2;
const SERVICE_ADDRESS: u16 = 3;
const SERVICE_PORT: u16 = 4;
const SERVICE_MARK: u16 = 5;
const SERVICE_SCHEDULER: u16 = 6;
const SERVICE_FLAGS: u16 = 7;
const SERVICE_TIMEOUT: u16 = 8;
const SERVICE_NETMASK: u16 = 9;

/// `IPVS_DEST_ATTR_*`.
const DEST_ADDRESS: u16 = 1;
const DEST_PORT: u16 = 2;
const DEST_FORWARDING: u16 = 3;
const DEST_WEIGHT: u16 = 4;
const DEST_UPPER_THRESHOLD: u16 = 5;
const DEST_LOWER_THRESHOLD: u16 = 6;
const DEST_ACTIVE_CONNECTIONS: u16 = 7;
const DEST_INACTIVE_CONNECTIONS: u16 = 8;
const DEST_FAMILY: u16 = 11;

/// `IP_VS_SVC_F_HASHED`: the kernel's own mark for a virtual server in its table.
const HASHED: u32 = 0x2;

/// Writes the request for the number of the family, which the kernel assigns as modules are loaded. If the family does
/// not exist, the kernel tries to load its module (`net-pf-16-proto-16-family-IPVS`).
pub(super) fn get_family(body: &mut Body<'_>) {
    body.fixed(&[CONTROL_GET_FAMILY, 1, 0, 0]);
    body.text(CONTROL_FAMILY_NAME, FAMILY_NAME);
}

/// The number of the family.
pub(super) fn decode_family(message: Message<'_>) -> Option<u16> {
    message.attributes(GENERIC_HEADER_LENGTH).get(CONTROL_FAMILY_ID)?.u16()
}

/// Appends the message that carries out this step; `false`: the step is not about IPVS.
pub(super) fn push(frames: &mut Frames, family: u16, step: &Step) -> bool {
    let command = match step {
        Step::AddVirtualServer(..) => Command::NewService,
        Step::EditVirtualServer(..) => Command::SetService,
        Step::DeleteVirtualServer(..) => Command::DelService,
        Step::AddRealServer(..) => Command::NewDest,
        Step::EditRealServer(..) => Command::SetDest,
        Step::DeleteRealServer(..) => Command::DelDest,
        Step::SetTimeouts(_) => Command::SetConfig,
        _ => return false,
    };
    frames.push(family, 0, |out| {
        self::command(out, command);
        match step {
            Step::AddVirtualServer(key, server) | Step::EditVirtualServer(key, server) => {
                service(out, key, Some(server));
            }
            Step::DeleteVirtualServer(key) => service(out, key, None),
            Step::AddRealServer(key, real, value) | Step::EditRealServer(key, real, value) => {
                dest(out, key, real, Some(value));
            }
            Step::DeleteRealServer(key, real) => dest(out, key, real, None),
            Step::SetTimeouts(timeouts) => config(out, *timeouts),
            _ => unreachable!("such a step has no command"),
        }
    });
    true
}

/// Writes `struct genlmsghdr`.
pub(super) fn command(out: &mut Body<'_>, command: Command) {
    out.fixed(&[command as u8, VERSION, 0, 0]);
}

/// Writes the virtual server that a message is about, with its settings if it is to be made or changed.
pub(super) fn service(out: &mut Body<'_>, key: &VirtualServerKey, settings: Option<&VirtualServer>) {
    out.nest(SERVICE, |out| {
        out.u16(SERVICE_FAMILY, family_number(key.address));
        out.u16(SERVICE_PROTOCOL, u16::from(key.protocol.number()));
        out.attribute(SERVICE_ADDRESS, &address_bytes(key.address));
        out.be16(SERVICE_PORT, key.port);
        if let Some(server) = settings {
            out.text(SERVICE_SCHEDULER, &server.scheduler);
            // `struct ip_vs_flags`: the flags, and a mask of those that the message sets: all.
            let mut flags = [0xff; 8];
            flags[..4].copy_from_slice(&server.flags.to_ne_bytes());
            out.attribute(SERVICE_FLAGS, &flags);
            out.u32(SERVICE_TIMEOUT, server.timeout_seconds);
            out.attribute(SERVICE_NETMASK, &netmask(Family::of(key.address), server.netmask_bits));
        }
    });
}

/// Writes a real server and its virtual server, with the real server's settings if it is to be made or changed.
fn dest(out: &mut Body<'_>, key: &VirtualServerKey, real: &RealServerKey, settings: Option<&RealServer>) {
    service(out, key, None);
    out.nest(DEST, |out| {
        out.attribute(DEST_ADDRESS, &address_bytes(real.address));
        out.be16(DEST_PORT, real.port);
        out.u16(DEST_FAMILY, family_number(real.address));
        if let Some(server) = settings {
            let weight = match server.weight {
                Weight::Exactly(weight) => weight,
                // Plans never contain this value; if written, it means weight 0.
                Weight::DrainIfPresent => 0,
            };
            out.u32(DEST_FORWARDING, server.forwarding.into());
            out.u32(DEST_WEIGHT, weight);
            // Mandatory attributes; 0: no limit.
            out.u32(DEST_UPPER_THRESHOLD, 0);
            out.u32(DEST_LOWER_THRESHOLD, 0);
        }
    });
}

/// Writes the timeouts to be set; the kernel keeps those that are not named.
fn config(out: &mut Body<'_>, timeouts: Timeouts) {
    let Timeouts { tcp_seconds, tcp_fin_seconds, udp_seconds } = timeouts;
    for (kind, seconds) in
        [(TIMEOUT_TCP, tcp_seconds), (TIMEOUT_TCP_FIN, tcp_fin_seconds), (TIMEOUT_UDP, udp_seconds)]
    {
        if seconds != 0 {
            out.u32(kind, seconds);
        }
    }
}

/// The timeouts in the answer to `GetConfig`; 0 for those of protocols that the kernel was built without.
pub(super) fn decode_config(message: Message<'_>) -> Timeouts {
    let attributes = message.attributes(GENERIC_HEADER_LENGTH);
    let seconds = |kind| attributes.get(kind).and_then(Attribute::u32).unwrap_or(0);
    Timeouts {
        tcp_seconds: seconds(TIMEOUT_TCP),
        tcp_fin_seconds: seconds(TIMEOUT_TCP_FIN),
        udp_seconds: seconds(TIMEOUT_UDP),
    }
}

/// The version of IPVS in the answer to `GetInfo`: `0x010201` is 1.2.1.
pub(super) fn decode_info(message: Message<'_>) -> Option<u32> {
    message.attributes(GENERIC_HEADER_LENGTH).get(INFO_VERSION)?.u32()
}

/// A virtual server, without its real servers. `None`: it is identified by a firewall mark, or has a protocol that this
/// program does not know; such virtual servers are never ours.
pub(super) fn decode_service(message: Message<'_>) -> io::Result<Option<(VirtualServerKey, VirtualServer)>> {
    let outer = message.attributes(GENERIC_HEADER_LENGTH);
    let attributes = outer.get(SERVICE).ok_or_else(|| malformed("a virtual server"))?.nested();
    if attributes.get(SERVICE_MARK).is_some() {
        return Ok(None);
    }
    let key = || {
        let family = decode_family_number(attributes.get(SERVICE_FAMILY)?)?;
        let address = bytes::read_octets(attributes.get(SERVICE_ADDRESS)?.value, family)?;
        let protocol = attributes.get(SERVICE_PROTOCOL)?.u16()?;
        Some((address, protocol, attributes.get(SERVICE_PORT)?.be16()?))
    };
    let (address, protocol, port) = key().ok_or_else(|| malformed("a virtual server"))?;
    let Some(protocol) = u8::try_from(protocol).ok().and_then(Protocol::from_number) else { return Ok(None) };
    let server = || {
        let flags = attributes.get(SERVICE_FLAGS)?.u32()? & !HASHED;
        let timeout = attributes.get(SERVICE_TIMEOUT)?.u32()?;
        let netmask = attributes.get(SERVICE_NETMASK)?;
        Some(VirtualServer {
            scheduler: attributes.get(SERVICE_SCHEDULER)?.text()?.into(),
            flags,
            timeout_seconds: if flags & VirtualServer::PERSISTENT == 0 { 0 } else { timeout },
            netmask_bits: match Family::of(address) {
                Family::V4 => u8::try_from(netmask.be32()?.leading_ones()).ok()?,
                Family::V6 => u8::try_from(netmask.u32()?).ok()?,
            },
            real_servers: RealServers::default(),
        })
    };
    let server = server().ok_or_else(|| malformed("a virtual server"))?;
    Ok(Some((VirtualServerKey { address, protocol, port }, server)))
}

/// A real server as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dest {
    pub(super) key: RealServerKey,
    pub(super) value: RealServer,
    /// Active and inactive connections together.
    pub(super) connections: u64,
}

/// Decodes a real server of a virtual server of this family.
pub(super) fn decode_dest(message: Message<'_>, family: Family) -> io::Result<Dest> {
    let decode = || {
        let attributes = message.attributes(GENERIC_HEADER_LENGTH).get(DEST)?.nested();
        let number = |kind| attributes.get(kind).and_then(Attribute::u32);
        // Kernels before 3.18 do not name the family: it was always that of the virtual server.
        let family = match attributes.get(DEST_FAMILY) {
            Some(family) => decode_family_number(family)?,
            None => family,
        };
        Some(Dest {
            key: RealServerKey {
                address: bytes::read_octets(attributes.get(DEST_ADDRESS)?.value, family)?,
                port: attributes.get(DEST_PORT)?.be16()?,
            },
            value: RealServer {
                weight: Weight::Exactly(number(DEST_WEIGHT)?),
                forwarding: u8::try_from(number(DEST_FORWARDING)?).ok()?,
                // The lower threshold never exceeds the upper one.
                is_limited: number(DEST_UPPER_THRESHOLD)? != 0,
            },
            connections: u64::from(number(DEST_ACTIVE_CONNECTIONS)?)
                + u64::from(number(DEST_INACTIVE_CONNECTIONS)?),
        })
    };
    decode().ok_or_else(|| malformed("a real server"))
}

fn family_number(address: IpAddr) -> u16 {
    bytes::family_number(Family::of(address)).into()
}

fn decode_family_number(attribute: Attribute<'_>) -> Option<Family> {
    bytes::family_of(u8::try_from(attribute.u16()?).ok()?)
}

/// `union nf_inet_addr`.
fn address_bytes(address: IpAddr) -> [u8; 16] {
    let octets = bytes::octets(address);
    let octets = octets.as_ref();
    let mut bytes = [0; 16];
    bytes[..octets.len()].copy_from_slice(octets);
    bytes
}

/// `IPVS_SVC_ATTR_NETMASK`: a mask in network byte order for IPv4, the length of the prefix for IPv6.
fn netmask(family: Family, bits: u8) -> [u8; 4] {
    match family {
        Family::V4 => u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0).to_be_bytes(),
        Family::V6 => u32::from(bits).to_ne_bytes(),
    }
}

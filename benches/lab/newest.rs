//! The newest real servers of a virtual server, by one request whose cost does not depend on how many there are.
//!
//! IPVS can only list all real servers of a virtual server, newest first. The first datagram of a list of a thousand is
//! enough to see whether a change is there; closing the socket discards the rest.

use std::net::Ipv4Addr;

use anyhow::Context;
use kube_ipvs::kernel::netlink::Attributes;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

use crate::input::PORT;

/// `IPVS_CMD_GET_DEST` (`linux/ip_vs.h`).
const GET_DEST: u8 = 8;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ENDS: [u16; 2] = [2, 3];
/// The lengths of the netlink header, and of the generic netlink header that follows it.
const HEADER_BYTES: usize = 16;
const GENERIC_HEADER_BYTES: usize = 4;

/// The addresses of the newest real servers with a weight above 0. `family` is the number of IPVS in generic netlink.
pub(crate) fn real_servers(family: u16, service: Ipv4Addr) -> anyhow::Result<Vec<Ipv4Addr>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.send_to(&question(family, service), &SocketAddr::new(0, 0), 0)?;
    let mut answer = Vec::with_capacity(32 * 1024);
    socket.recv(&mut answer, 0)?;
    let mut found = Vec::new();
    let mut rest = &answer[..];
    while let Some(header) = rest.first_chunk::<HEADER_BYTES>() {
        let [a, b, c, d, kind_low, kind_high, ..] = *header;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let message = rest.get(HEADER_BYTES..length).context("a cut message")?;
        if ENDS.contains(&u16::from_ne_bytes([kind_low, kind_high])) {
            break;
        }
        let attributes = Attributes::new(message.get(GENERIC_HEADER_BYTES..).context("a cut message")?);
        found.extend(attributes.get(2).and_then(|server| {
            let server = server.nested();
            let weight = server.get(4)?.u32()?;
            let address: [u8; 4] = *server.get(1)?.value.first_chunk()?;
            (weight > 0).then(|| Ipv4Addr::from(address))
        }));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(found)
}

/// The request for the real servers of a virtual server for TCP.
fn question(family: u16, service: Ipv4Addr) -> Vec<u8> {
    let mut address = [0; 16]; // `union nf_inet_addr`
    address[..4].copy_from_slice(&service.octets());
    let mut virtual_server = Vec::new();
    attribute(&mut virtual_server, 1, &2_u16.to_ne_bytes()); // AF_INET
    attribute(&mut virtual_server, 2, &6_u16.to_ne_bytes()); // TCP
    attribute(&mut virtual_server, 3, &address);
    attribute(&mut virtual_server, 4, &PORT.to_be_bytes());
    let mut body = vec![GET_DEST, 1, 0, 0];
    attribute(&mut body, 1 | 0x8000, &virtual_server); // NLA_F_NESTED
    let length = u32::try_from(HEADER_BYTES + body.len()).expect("a short message");
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(DUMP.to_ne_bytes());
    message.extend([0; 8]); // sequence, port
    message.extend(body);
    message
}

fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("a short attribute");
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

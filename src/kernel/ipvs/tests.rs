use std::net::IpAddr;

use super::*;
use crate::cluster::types::Protocol as Transport;
use crate::kernel::netlink::Message;
use crate::state::{RealServer, RealServers, Weight};

const FAMILY: u16 = 0x21;

fn key(address: &str, protocol: Transport, port: u16) -> VirtualServerKey {
    VirtualServerKey { address: address.parse().expect("an address"), protocol, port }
}

fn server(scheduler: &str, flags: u32, timeout_seconds: u32, netmask_bits: u8) -> VirtualServer {
    let real_servers = RealServers::default();
    VirtualServer { scheduler: scheduler.into(), flags, timeout_seconds, netmask_bits, real_servers }
}

/// The bytes that are sent for one step, without the header of the message.
fn sent(step: &Step) -> Vec<u8> {
    let mut frames = Frames::new();
    assert!(wire::push(&mut frames, FAMILY, step));
    assert_eq!(frames.len(), 1);
    frames.payload(0).to_vec()
}

fn answer(payload: &[u8]) -> Message<'_> {
    Message { kind: FAMILY, flags: 0, sequence: 1, payload }
}

/// Put together by hand from `linux/ip_vs.h`; what `ipvsadm -A -t 10.96.0.10:53 -s rr -p 300` sends.
#[test]
fn a_virtual_server_is_sent_as_these_bytes() {
    if cfg!(target_endian = "big") {
        return;
    }
    let payload = sent(&Step::AddVirtualServer(
        key("10.96.0.10", Transport::Tcp, 53),
        server("rr", VirtualServer::PERSISTENT, 300, 32),
    ));
    let expected: &[u8] = &[
        1, 1, 0, 0, // IPVS_CMD_NEW_SERVICE, version 1
        84, 0, 1, 0x80, // IPVS_CMD_ATTR_SERVICE, nested
        6, 0, 1, 0, 2, 0, 0, 0, // AF: AF_INET
        6, 0, 2, 0, 6, 0, 0, 0, // PROTOCOL: TCP
        20, 0, 3, 0, 10, 96, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // ADDR
        6, 0, 4, 0, 0, 53, 0, 0, // PORT, big-endian
        7, 0, 6, 0, b'r', b'r', 0, 0, // SCHED_NAME
        12, 0, 7, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, // FLAGS: flags, mask
        8, 0, 8, 0, 44, 1, 0, 0, // TIMEOUT
        8, 0, 9, 0, 0xff, 0xff, 0xff, 0xff, // NETMASK
    ];
    assert_eq!(payload, expected);
}

#[test]
fn virtual_servers_are_read_as_they_were_written() {
    let cases = [
        (key("10.96.0.10", Transport::Udp, 53), server("rr", 0, 0, 32)),
        (key("10.0.0.1", Transport::Sctp, 1), server("mh", VirtualServer::MH_PORT, 0, 24)),
        (key("0.0.0.0", Transport::Tcp, 65535), server("wrr", VirtualServer::PERSISTENT, 10800, 0)),
        (key("fd00:10:96::a", Transport::Tcp, 443), server("sh", VirtualServer::PERSISTENT, 1, 128)),
        (key("2001:db8::1", Transport::Sctp, 80), server("lblcr", 0x38, 0, 64)),
    ];
    for (key, server) in cases {
        for step in
            [Step::AddVirtualServer(key, server.clone()), Step::EditVirtualServer(key, server.clone())]
        {
            let read = wire::decode_service(answer(&sent(&step))).expect("well-formed");
            assert_eq!(read, Some((key, server.clone())));
        }
    }
}

/// The kernel marks every virtual server as being in its table, and reports a timeout even if it has no meaning.
#[test]
fn what_is_the_kernels_own_is_folded_away() {
    let key = key("10.96.0.10", Transport::Tcp, 53);
    let payload = sent(&Step::AddVirtualServer(key, server("rr", 0x2 | VirtualServer::MH_PORT, 360, 32)));
    let read = wire::decode_service(answer(&payload)).expect("well-formed");
    assert_eq!(read, Some((key, server("rr", VirtualServer::MH_PORT, 0, 32))));
}

#[test]
fn virtual_servers_of_others_kinds_are_left_out_and_truncated_ones_are_errors() {
    let mut frames = Frames::new();
    frames.push(FAMILY, 0, |out| {
        wire::command(out, Command::NewService);
        out.nest(1, |out| {
            out.u16(1, 2);
            out.u32(5, 77);
            out.text(6, "rr");
        });
    });
    assert_eq!(wire::decode_service(answer(frames.payload(0))).expect("a firewall mark"), None);

    let whole = sent(&Step::AddVirtualServer(key("10.96.0.10", Transport::Tcp, 53), server("rr", 0, 0, 32)));
    for length in 0..whole.len() {
        assert!(wire::decode_service(answer(&whole[..length])).is_err(), "{length} bytes");
    }
}

#[test]
fn real_servers_are_sent_with_their_virtual_server() {
    let virtual_server = key("fd00::1", Transport::Tcp, 80);
    let real = RealServerKey { address: "fd00:1::7".parse::<IpAddr>().expect("an address"), port: 8080 };
    let payload = sent(&Step::AddRealServer(virtual_server, real, RealServer::with(Weight::Exactly(1))));
    let attributes = answer(&payload).attributes(4);
    let service = attributes.get(1).expect("the virtual server").nested();
    assert_eq!(service.get(4).and_then(crate::kernel::netlink::Attribute::be16), Some(80));
    let dest = attributes.get(2).expect("the real server").nested();
    assert_eq!(dest.get(2).and_then(crate::kernel::netlink::Attribute::be16), Some(8080));
    assert_eq!(dest.get(3).and_then(crate::kernel::netlink::Attribute::u32), Some(0), "masquerading");
    assert_eq!(dest.get(4).and_then(crate::kernel::netlink::Attribute::u32), Some(1));
}

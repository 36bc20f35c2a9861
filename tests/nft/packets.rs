//! The rules with real packets: a node with two pods and a client outside, each in a network namespace of its own,
//! virtual servers created by `ipvsadm`, service addresses on `kube-ipvs0`.

mod network;
mod stray;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use kube_ipvs::cluster::types::{Family, Protocol};
use kube_ipvs::diff::Step;
use kube_ipvs::kernel::nft::Tables;
use kube_ipvs::state::{Element, Inside, InterfaceName, RuleSettings, VirtualServerKey};
use socket2::{Domain, Socket, Type};

use self::network::{Client, Network, PORT};
pub(crate) use self::stray::{
    a_stray_segment_ends_no_connection, an_invalid_segment_arrives,
    an_invalid_segment_ends_no_masqueraded_connection, an_invalid_segment_ends_no_rewritten_connection,
    the_end_of_a_lost_connection_is_answered,
};
use super::{done, settings};
use crate::lab;
use crate::talk::{PROTOCOLS, is_silence};

pub(crate) fn ipv4_pods_node_and_outside() {
    pods_node_and_outside(Family::V4, &settings(Some("10.244.0.0/16")));
}

pub(crate) fn ipv6_pods_node_and_outside() {
    pods_node_and_outside(Family::V6, &settings(Some("fd00:10:244::/56")));
}

/// Pods are recognized by the device through which their packets come in (the row "ClusterIP, interface detector").
pub(crate) fn pods_are_known_by_their_bridge() {
    let name = |name| InterfaceName::new(name).unwrap();
    for family in Family::ALL {
        for inside in [Inside::Interface(name("cni0")), Inside::InterfacePrefix(name("cn"))] {
            pods_node_and_outside(family, &RuleSettings { inside: Some(inside), ..settings(None) });
        }
    }
}

/// Pods are recognized by their network (contract 6.6, the row "ClusterIP, CIDR detector").
fn pods_node_and_outside(family: Family, settings: &RuleSettings) {
    let network = Network::new(family, settings);
    let service = network.service;
    for protocol in PROTOCOLS {
        // The two servers take turns: one of them is the client pod itself.
        let servers = [(); 2].map(|()| {
            let (server, seen) = network.pod_a.ask(protocol, service, 80);
            let expected = if server == network.pod_a.name { network.bridge } else { network.pod_a.address };
            assert_eq!(seen, expected, "{protocol}: what {server} sees of a pod");
            server
        });
        assert_ne!(servers[0], servers[1], "{protocol}: both servers");
        for _ in 0..2 {
            let (server, seen) = network.outside.ask(protocol, service, 80);
            assert_eq!(seen, network.bridge, "{protocol}: what {server} sees of a client outside");
            let (server, seen) = network.node.ask(protocol, service, 80);
            assert_eq!(seen, network.bridge, "{protocol}: what {server} sees of the node");
            let (server, seen) = network.node.ask_from(protocol, network.node.address, service, 80);
            assert_eq!(seen, network.bridge, "{protocol}: what {server} sees of the node with a source");
        }
        // A server on the node itself; a connection to it is masqueraded, if at all, on its way through lo.
        let (_, seen) = network.pod_a.ask(protocol, service, 81);
        assert_eq!(seen, network.pod_a.address, "{protocol}: what the node sees of a pod");
        let (_, seen) = network.node.ask(protocol, service, 81);
        assert_ne!(seen, service, "{protocol}: what the node sees of itself");
    }
    let loopback: IpAddr = match family {
        Family::V4 => "127.0.0.1".parse().unwrap(),
        Family::V6 => "::1".parse().unwrap(),
    };
    let (_, seen) = network.node.ask_from(Protocol::Tcp, loopback, service, 81);
    assert_eq!(seen, loopback, "loopback addresses are never masqueraded");
    refusals_and_pings(&network);
}

/// Ports that no Service declares, a Service without endpoints, and a port that a host process listens on at all
/// addresses.
fn refusals_and_pings(network: &Network) {
    let targets = [(network.service, 83), (network.without_endpoints, 80), (network.service, PORT)];
    let clients = [&network.pod_a, &network.node, &network.outside];
    // The first segment is already refused. On a single processor, the client may still be sending it when the ICMP
    // error arrives; its TCP then ignores that error, and accepts only the one for the retransmitted segment.
    for (protocol, limit_seconds) in [(Protocol::Udp, 0.5), (Protocol::Tcp, 1.8)] {
        let questions = clients.iter().flat_map(|client| targets.map(|target| (client, target)));
        let answers: Vec<_> = questions
            .map(|(client, (address, port))| {
                let what = format!("{protocol} {address} {port} from {}", client.name);
                (what, Instant::now(), client.start_asking(protocol, None, address, port))
            })
            .collect();
        for (what, start, answer) in answers {
            let error = answer.recv().unwrap().expect_err(&what);
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{what}: {error}");
            assert!(start.elapsed().as_secs_f64() < limit_seconds, "{what}: {:?}", start.elapsed());
        }
    }
    for client in clients {
        let addresses = [network.service, network.without_endpoints];
        client.host.shell(addresses.map(|address| format!("ping -c 1 -W 2 {address}")).join(" && "));
    }
    let (_, seen) = network.outside.ask(Protocol::Tcp, network.node.address, PORT);
    assert_eq!(seen, network.outside.address, "the host's port on the node's own address");
}

/// The row "ClusterIP, no detector".
pub(crate) fn without_a_pod_network_only_the_node_is_masqueraded() {
    for family in Family::ALL {
        let network = Network::new(family, &settings(None));
        for protocol in PROTOCOLS {
            for client in [&network.pod_a, &network.outside] {
                // The two servers take turns: one of them may be the client pod itself.
                for _ in 0..2 {
                    let (server, seen) = client.ask(protocol, network.service, 80);
                    let expected = if server == client.name { network.bridge } else { client.address };
                    assert_eq!(seen, expected, "{protocol}: what {server} sees of {}", client.name);
                }
            }
            let (_, seen) = network.node.ask_from(protocol, network.service, network.service, 80);
            assert_eq!(seen, network.bridge, "{protocol}: the node with a service address as its source");
            let (_, seen) = network.node.ask(protocol, network.service, 80);
            assert_eq!(seen, network.bridge, "{protocol}: the node, whose source is a service address");
            let (_, seen) = network.node.ask_from(protocol, network.node.address, network.service, 80);
            assert_eq!(seen, network.node.address, "{protocol}: the node with an address of its own");
        }
        refusals_and_pings(&network);
    }
}

/// Where the configured pod network contains the service addresses, too, the node's own connections are not mistaken
/// for those of a pod.
pub(crate) fn a_pod_network_that_holds_the_services() {
    for (family, all) in [(Family::V4, "10.0.0.0/8"), (Family::V6, "fd00:10::/32")] {
        let network = Network::new(family, &settings(Some(all)));
        for protocol in PROTOCOLS {
            let (_, seen) = network.node.ask(protocol, network.service, 80);
            assert_eq!(seen, network.bridge, "{protocol}: the node, whose source is a service address");
            let (_, seen) = network.outside.ask(protocol, network.service, 80);
            assert_eq!(seen, network.bridge, "{protocol}: what is not from a pod");
        }
    }
}

/// The row "ClusterIP, masqueradeAll".
pub(crate) fn masquerade_all() {
    for (family, pods) in [(Family::V4, "10.244.0.0/16"), (Family::V6, "fd00:10:244::/56")] {
        let network = Network::new(family, &RuleSettings { masquerade_all: true, ..settings(Some(pods)) });
        for protocol in PROTOCOLS {
            for client in [&network.pod_a, &network.outside, &network.node] {
                for _ in 0..2 {
                    let (server, seen) = client.ask(protocol, network.service, 80);
                    assert_eq!(seen, network.bridge, "{protocol}: what {server} sees of {}", client.name);
                }
            }
        }
        refusals_and_pings(&network);
    }
}

/// A client whose established connection is no longer known learns this with its next segment.
pub(crate) fn lost_connections_are_reset() {
    for (family, pods) in [(Family::V4, "10.244.0.0/16"), (Family::V6, "fd00:10:244::/56")] {
        for flush in ["", "; conntrack -F 2>&1"] {
            let network = Network::new(family, &settings(Some(pods)));
            for client in [&network.pod_a, &network.outside] {
                let mut stream = client.connect(network.service, 80).unwrap();
                network.node.host.shell(format!("ipvsadm -D -t {}{flush}", network.virtual_server(80)));
                let start = Instant::now();
                let error = loop {
                    assert!(start.elapsed() < Duration::from_secs(5), "{family}: no reset {flush}");
                    match stream.write_all(b"x") {
                        Ok(()) => std::thread::sleep(Duration::from_millis(10)),
                        Err(error) => break error,
                    }
                };
                let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
                assert!(kinds.contains(&error.kind()), "{family}: {error} {flush}");
                network.add_virtual_servers();
            }
        }
    }
}

/// Packets to other addresses keep their mark, source and verdict; packets to service addresses keep the mark's other
/// bits.
pub(crate) fn other_traffic_is_untouched() {
    for (family, pods) in [(Family::V4, "10.244.0.0/16"), (Family::V6, "fd00:10:244::/56")] {
        let network = Network::new(family, &settings(Some(pods)));
        lab::shell(
            "nft 'table inet probe {
               chain first { type filter hook prerouting priority -300; meta mark set 0x5; };
               chain last {
                 type filter hook postrouting priority 300;
                 oifname cni0 meta l4proto { tcp, udp, sctp } th dport 8080 meta mark 0x5 counter;
                 oifname cni0 meta l4proto { tcp, udp, sctp } th dport 8080 meta mark != 0x5 counter;
               };
             }'",
        );
        let probe = || {
            let listing = lab::shell("nft list chain inet probe last");
            let packets = listing.lines().filter_map(|line| line.split("packets ").nth(1));
            let packets: Vec<u32> =
                packets.map(|rest| rest.split(' ').next().unwrap().parse().unwrap()).collect();
            (packets[0] > 0, packets[1] > 0)
        };
        for protocol in PROTOCOLS {
            let (_, seen) = network.outside.ask(protocol, network.pod_a.address, PORT);
            assert_eq!(seen, network.outside.address, "{protocol}: past the service addresses");
            let (_, seen) = network.pod_a.ask(protocol, network.bridge, PORT);
            assert_eq!(seen, network.pod_a.address, "{protocol}: past the service addresses");
        }
        assert_eq!(probe(), (true, false), "marks past the service addresses");
        network.the_node_asks_itself();
        let before = lab::shell("nft list chain inet probe last");
        let (_, seen) = network.outside.ask(Protocol::Tcp, network.service, 80);
        assert_eq!(seen, network.bridge);
        assert_eq!(probe(), (true, false), "marks of what was masqueraded");
        assert_ne!(lab::shell("nft list chain inet probe last"), before, "the probe has seen it");
    }
}

/// The bytes of an address are looked up in groups, by instructions that depend on how many bytes there are.
pub(crate) fn networks_of_every_length_are_told_from_their_neighbours() {
    /// The bits alternate often, and with any single one of them flipped, the address is still that of a host.
    const CLIENTS: [(&str, &[u8]); 2] = [
        ("100.90.165.90", &[8, 9, 15, 16, 17, 24, 30, 31, 32]),
        (
            "2001:db8:a5a5:5a5a:a5a5:5a5a:a5a5:5a5a",
            &[
                0, 1, 24, 31, 32, 33, 40, 41, 44, 47, 48, 49, 56, 63, 64, 65, 80, 95, 96, 97, 112, 126, 127,
                128,
            ],
        ),
    ];
    for (family, (client, lengths)) in Family::ALL.into_iter().zip(CLIENTS) {
        let network = Network::new(family, &settings(None));
        let client: IpAddr = client.parse().unwrap();
        let bits: u8 = if client.is_ipv4() { 32 } else { 128 };
        // The first bit after the network may differ, the last bit of the network may not.
        let inside = |length: u8| if length < bits { with_bit_flipped(client, length) } else { client };
        let outside = |length: u8| length.checked_sub(1).map(|last| with_bit_flipped(client, last));
        let sources: BTreeSet<IpAddr> =
            lengths.iter().flat_map(|length| [Some(inside(*length)), outside(*length)]).flatten().collect();
        let add = |source| format!("ip address add {source}/{bits} dev lo");
        network.outside.host.shell(sources.iter().map(add).collect::<Vec<_>>().join(" && "));
        network.node.host.shell(format!("ip route add default via {}", network.outside.address));

        // One port for each network, with no server behind it: allowed clients are refused, the others hear nothing.
        let server = |length: u8| VirtualServerKey {
            address: network.service,
            protocol: Protocol::Udp,
            port: 1000 + u16::from(length),
        };
        let restrictions = lengths.iter().flat_map(|length| {
            let allowed = IpNet::new(client, *length).unwrap().trunc();
            [Element::Restricted(server(*length)), Element::Allowed(server(*length), allowed)]
        });
        done(&mut Tables::open().unwrap(), &restrictions.map(Step::AddElement).collect::<Vec<_>>());
        let ask = |length: u8, source: IpAddr| {
            network.outside.start_asking(Protocol::Udp, Some(source), network.service, server(length).port)
        };
        let answers: Vec<_> = lengths
            .iter()
            .map(|length| {
                (*length, ask(*length, inside(*length)), outside(*length).map(|it| ask(*length, it)))
            })
            .collect();
        for (length, inside, outside) in answers {
            let error = inside.recv().unwrap().expect_err("nobody is there");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{family}, inside of /{length}: {error}");
            if let Some(outside) = outside {
                let error = outside.recv().unwrap().expect_err("nobody is there");
                assert!(is_silence(&error), "{family}, outside of /{length}: {error}");
            }
        }
    }
}

/// The address with one bit flipped, counted from the left.
fn with_bit_flipped(address: IpAddr, bit: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() ^ (1 << 31 >> bit)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() ^ (1 << 127 >> bit)).into(),
    }
}

impl Network {
    /// Asserts that the node's connection to itself is untouched, even its port, as when a pod in the node's network
    /// connects to a neighbour while a Service has such a pod as an endpoint.
    fn the_node_asks_itself(&self) {
        let node = self.node.address;
        let family = if node.is_ipv4() { "ip" } else { "ip6" };
        lab::shell(&format!("nft add element {family} kube-ipvs hairpin '{{ {node} . {node} }}'"));
        let listener = TcpListener::bind((node, 6000)).expect("a free port");
        let source = SocketAddr::new(node, 40003);
        let client = Socket::new(Domain::for_address(source), Type::STREAM, None).expect("a socket");
        client.bind(&source.into()).expect("a free port");
        client.connect(&SocketAddr::new(node, 6000).into()).expect("it listens");
        assert_eq!(listener.accept().expect("a connection").1, source);
    }
}

impl Client {
    /// Asks for the server's name, and for the client address that it sees. This must succeed.
    fn ask(&self, protocol: Protocol, address: IpAddr, port: u16) -> (String, IpAddr) {
        let answer = self.try_ask(protocol, None, address, port);
        answer.unwrap_or_else(|error| panic!("{protocol} {address} {port} from {}: {error}", self.name))
    }

    /// Does the same from this source address.
    fn ask_from(&self, protocol: Protocol, source: IpAddr, address: IpAddr, port: u16) -> (String, IpAddr) {
        let answer = self.try_ask(protocol, Some(source), address, port);
        answer.unwrap_or_else(|error| panic!("{protocol} {source} to {address} {port}: {error}"))
    }
}

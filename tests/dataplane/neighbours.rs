//! Services beside others on a node: addresses that come and go, somebody else's rules, host ports.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kube_ipvs::cluster::types::{Family, Protocol};
use libtest_mimic::Trial;

use crate::cluster::{self, Entry, Policy, Service};
use crate::proxy::eventually;
use crate::talk::{self, PROTOCOLS};
use crate::topology::{PORT, find};
use crate::{CLUSTER, row};

/// A change takes effect in the data plane within this time; usually, in milliseconds.
const SOON: Duration = Duration::from_secs(10);
/// How long to wait for one answer, where another attempt follows.
const BRIEFLY: Duration = Duration::from_millis(300);

/// What a row does for one family.
type Test = fn(Family);

pub(crate) fn rows() -> impl Iterator<Item = Trial> {
    let tests: [(&str, Test); 7] = [
        ("node-ports-follow-the-addresses", node_ports_follow_the_addresses),
        ("an-address-that-another-device-has", an_address_that_another_device_has),
        ("other-ports-beside-ftp-with-affinity", other_ports_beside_ftp_with_affinity),
        ("who-listens-on-a-cluster-ip-is-not-asked", who_listens_on_a_cluster_ip_is_not_asked),
        (
            "host-ports-on-an-address-that-another-device-has",
            host_ports_on_an_address_that_another_device_has,
        ),
        ("source-ranges-with-the-address-in-them", source_ranges_with_the_address_in_them),
        ("source-ranges-come-and-go", source_ranges_come_and_go),
    ];
    let tests = tests.into_iter().flat_map(|(name, test)| {
        Family::ALL.map(|family| row(&[&"neighbours", &name, &family], move || test(family)))
    });
    let host_ports = Family::ALL.into_iter().flat_map(|family| {
        PROTOCOLS.map(|protocol| {
            row(&[&"neighbours", &"host-ports-take-no-service-port", &protocol, &family], move || {
                host_ports_take_no_service_port(protocol, family);
            })
        })
    });
    tests.chain(host_ports)
}

/// The server that answers; `None`: nobody does.
fn asked(client: &str, protocol: Protocol, target: SocketAddr) -> Option<String> {
    let source = cluster::source(protocol, client, target);
    let ask = move || talk::Conversation::open_within(BRIEFLY, protocol, source, target)?.ask();
    CLUSTER.host(client).run(ask).ok().map(|(server, _)| server)
}

fn becomes(client: &str, protocol: Protocol, target: SocketAddr, who: Option<&str>) {
    let mut last = None;
    let is = eventually(SOON, || {
        last = asked(client, protocol, target);
        last.as_deref() == who
    });
    assert!(is, "{client} asks {target}: {last:?} answers, not {who:?}");
}

fn in_family(family: Family, four: &str, six: &str) -> IpAddr {
    let text = if family == Family::V4 { four } else { six };
    text.parse().expect("an address")
}

/// Nothing is restarted when a node gets an address.
fn node_ports_follow_the_addresses(family: Family) {
    let service = CLUSTER.service(&["pod-1a"]);
    CLUSTER.put(&service);
    let own = service.target(Entry::OwnNodePort, find("outside-1"), family);
    becomes("outside-1", Protocol::Tcp, own, Some("pod-1a"));

    let address = in_family(family, "192.168.0.101", "2001:db8::101");
    let target = SocketAddr::new(address, own.port());
    let prefix = if family == Family::V4 { 24 } else { 64 };
    CLUSTER.host("node-1").shell(format!("ip address add {address}/{prefix} dev eth0"));
    becomes("outside-1", Protocol::Tcp, target, Some("pod-1a"));
    CLUSTER.host("node-1").shell(format!("ip address del {address}/{prefix} dev eth0"));
    let virtual_server = target.to_string();
    let gone = eventually(SOON, || !CLUSTER.host("node-1").shell("ipvsadm -Sn").contains(&virtual_server));
    assert!(gone, "the virtual server stays");
    becomes("outside-1", Protocol::Tcp, own, Some("pod-1a"));
}

/// A daemon on the node announces a load balancer's address by putting it on a device: the Service is served there, and
/// the node's own ports stay the node's.
fn an_address_that_another_device_has(family: Family) {
    let service = CLUSTER.service(&["pod-2a"]);
    CLUSTER.put(&service);
    let target = service.target(Entry::LoadBalancerIp, find("outside-1"), family);
    let host_port = SocketAddr::new(target.ip(), PORT);
    becomes("outside-1", Protocol::Tcp, target, Some("pod-2a"));
    becomes("outside-1", Protocol::Tcp, host_port, None);

    let node = CLUSTER.host("node-1");
    let address = format!("{}/{} dev lo", target.ip(), family.host_prefix());
    node.shell(format!("ip address add {address}"));
    becomes("outside-1", Protocol::Tcp, host_port, Some("node-1"));
    becomes("outside-1", Protocol::Tcp, target, Some("pod-2a"));
    becomes("node-1", Protocol::Tcp, target, Some("pod-2a"));
    node.shell(format!("ip address del {address}"));
    becomes("outside-1", Protocol::Tcp, host_port, None);
    becomes("outside-1", Protocol::Tcp, target, Some("pod-2a"));
}

/// Beside a virtual server at FTP's port, IPVS takes packets to high ports for FTP data connections.
fn other_ports_beside_ftp_with_affinity(family: Family) {
    const FTP: u16 = 21;
    let service = Service { port: FTP, affinity_seconds: Some(10_800), ..CLUSTER.service(&["pod-1a"]) };
    CLUSTER.put(&service);
    let target = service.target(Entry::LoadBalancerIp, find("outside-1"), family);
    // The pod has a server on this port, to which no Service leads.
    let beside = |entry| SocketAddr::new(service.target(entry, find("pod-1b"), family).ip(), PORT);
    for client in ["outside-1", "pod-1b", "pod-2a", "node-1", "node-2"] {
        becomes(
            client,
            Protocol::Tcp,
            service.target(Entry::ClusterIp, find(client), family),
            Some("pod-1a"),
        );
        assert_eq!(asked(client, Protocol::Tcp, beside(Entry::ClusterIp)), None, "{client}");
    }
    becomes("outside-1", Protocol::Tcp, target, Some("pod-1a"));
    assert_eq!(asked("outside-1", Protocol::Tcp, beside(Entry::LoadBalancerIp)), None);

    let node = CLUSTER.host("node-1");
    let address = format!("{}/{} dev lo", target.ip(), family.host_prefix());
    node.shell(format!("ip address add {address}"));
    becomes("outside-1", Protocol::Tcp, SocketAddr::new(target.ip(), PORT), Some("node-1"));
    becomes("outside-1", Protocol::Tcp, target, Some("pod-1a"));
    // The answer to a connection of the node itself goes to the node.
    CLUSTER.host("outside-1").run(move || talk::serve("outside-1", SocketAddr::new(talk::any(family), FTP)));
    let outside = SocketAddr::new(find("outside-1").address(family), FTP);
    let ask = move || talk::Conversation::open_within(SOON, Protocol::Tcp, Some(target.ip()), outside)?.ask();
    assert_eq!(node.run(ask).expect("an answer").0, "outside-1");
    node.shell(format!("ip address del {address}"));
}

/// For example a DNS cache on the node that listens on the address of the cluster's DNS.
fn who_listens_on_a_cluster_ip_is_not_asked(family: Family) {
    let service = Service { port: PORT, ..CLUSTER.service(&["pod-2a"]) };
    CLUSTER.put(&service);
    let target = service.target(Entry::ClusterIp, find("pod-1b"), family);
    becomes("pod-1b", Protocol::Udp, target, Some("pod-2a"));

    let node = CLUSTER.host("node-1");
    let (address, prefix) = (target.ip(), family.host_prefix());
    node.shell(format!(
        "ip link add nodelocaldns type dummy && ip link set nodelocaldns up
         ip address add {address}/{prefix} dev nodelocaldns"
    ));
    let is_seen = eventually(SOON, || {
        let ours = node.shell("ip -o address show kube-ipvs0");
        !ours.contains(&format!(" {address}/{prefix} "))
    });
    assert!(is_seen, "the address stays on kube-ipvs0");
    // The node has a server that listens on this port.
    becomes("pod-1b", Protocol::Udp, SocketAddr::new(address, PORT), Some("pod-2a"));
    becomes("node-1", Protocol::Tcp, SocketAddr::new(address, PORT), Some("pod-2a"));
    node.shell("ip link del nodelocaldns");
    becomes("pod-1b", Protocol::Udp, target, Some("pod-2a"));
}

/// Simulates a CNI plugin that redirects a host port on node-1's local addresses to pod-1a; returns its table.
fn take_host_port(protocol: Protocol, number: u16, family: Family) -> String {
    let name = protocol.to_string().to_lowercase();
    let (table, pod) = match family {
        Family::V4 => ("ip", find("pod-1a").address(family).to_string()),
        Family::V6 => ("ip6", format!("[{}]", find("pod-1a").address(family))),
    };
    let table = format!("{table} hostports-{name}-{number}");
    let chains = ["prerouting", "output"].map(|hook| {
        format!(
            "chain {hook} {{ type nat hook {hook} priority -100; \
             fib daddr type local {name} dport {number} dnat to {pod}:{PORT}; }}"
        )
    });
    let node = CLUSTER.host("node-1");
    node.shell(format!("nft -f - <<'END'\ntable {table} {{\n{}\n{}\n}}\nEND", chains[0], chains[1]));
    table
}

/// A node's own address may also be a load balancer address of a Service; it stays the node's for everything else.
fn host_ports_on_an_address_that_another_device_has(family: Family) {
    let service = CLUSTER.service(&["pod-2a"]);
    CLUSTER.put(&service);
    let target = service.target(Entry::LoadBalancerIp, find("outside-1"), family);
    becomes("outside-1", Protocol::Tcp, target, Some("pod-2a"));
    let table = take_host_port(Protocol::Tcp, 8282, family);
    let host_port = SocketAddr::new(target.ip(), 8282);
    let clients = ["outside-1", "pod-1b", "node-1"];
    for client in clients {
        becomes(client, Protocol::Tcp, host_port, None);
    }
    let node = CLUSTER.host("node-1");
    let address = format!("{}/{} dev lo", target.ip(), family.host_prefix());
    node.shell(format!("ip address add {address}"));
    for client in clients {
        becomes(client, Protocol::Tcp, host_port, Some("pod-1a"));
        becomes(client, Protocol::Tcp, target, Some("pod-2a"));
    }
    node.shell(format!("ip address del {address}; nft delete table {table}"));
}

/// A CNI plugin redirects local addresses and a pod's host port to that pod, and service addresses are local.
fn host_ports_take_no_service_port(protocol: Protocol, family: Family) {
    let service = Service { port: 8181, ..CLUSTER.service(&["pod-2a"]) };
    CLUSTER.put(&service);
    let node = CLUSTER.host("node-1");
    let table = take_host_port(protocol, service.port, family);
    let host = SocketAddr::new(find("node-1").address(family), service.port);
    becomes("outside-1", protocol, host, Some("pod-1a"));
    for client in ["pod-1b", "node-1", "outside-1"] {
        for entry in [Entry::ClusterIp, Entry::LoadBalancerIp, Entry::ExternalIp] {
            becomes(client, protocol, service.target(entry, find(client), family), Some("pod-2a"));
        }
    }
    node.shell(format!("nft delete table {table}"));
}

/// The node's own connections have the load balancer's address as their source: this does not admit a node outside the
/// ranges.
fn source_ranges_with_the_address_in_them(family: Family) {
    let service = Service {
        source_ranges: vec!["198.19.0.0/16", "2001:db8:b::/64", "192.168.0.11/32", "2001:db8::11/128"],
        ..CLUSTER.service(&["pod-1a"])
    };
    CLUSTER.put(&service);
    let target = |client| service.target(Entry::LoadBalancerIp, find(client), family);
    becomes("outside-1", Protocol::Tcp, target("outside-1"), Some("pod-1a"));
    for client in ["node-1", "node-2", "outside-2"] {
        becomes(client, Protocol::Tcp, target(client), None);
    }
}

/// Of nested ranges, the inner one survives the removal of the outer one; and the ranges of one Service do not restrict
/// another Service on the same address.
fn source_ranges_come_and_go(family: Family) {
    let (narrow, wide) = match family {
        Family::V4 => ("192.168.0.11/32", "192.168.0.0/24"),
        Family::V6 => ("2001:db8::11/128", "2001:db8::/64"),
    };
    let mut service = Service { external: Policy::Cluster, ..CLUSTER.service(&["pod-1a"]) };
    let neighbour = CLUSTER.service(&["pod-2a"]);
    let neighbour = Service { port: 81, load_balancer_number: service.number, ..neighbour };
    CLUSTER.put(&neighbour);
    let (first, second) = (find("outside-1"), find("outside-2"));
    let target = service.target(Entry::LoadBalancerIp, first, family);
    let beside = neighbour.target(Entry::LoadBalancerIp, first, family);
    assert_eq!(target.ip(), beside.ip());
    for (ranges, others) in [
        (vec![narrow, wide], Some("pod-1a")),
        (vec![narrow], None),
        (vec![wide, narrow], Some("pod-1a")),
        (vec![wide], Some("pod-1a")),
        (vec![narrow, wide], Some("pod-1a")),
        (vec![narrow], None),
        (vec![], Some("pod-1a")),
    ] {
        service.source_ranges = ranges;
        CLUSTER.put(&service);
        becomes(second.name, Protocol::Udp, target, others);
        becomes(first.name, Protocol::Udp, target, Some("pod-1a"));
        becomes(second.name, Protocol::Udp, beside, Some("pod-2a"));
    }
}

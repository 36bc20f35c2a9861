//! The hosts: two nodes with two pods each, two clients outside.
//!
//! ```text
//!  pod-1a ┐                                              ┌ pod-2a
//!  pod-1b ┴ node-1 ──┬───────── lan ─────────┬── node-2 ─┴ pod-2b
//!                 outside-1               outside-2
//! ```
//!
//! The nodes connect their pods as CNI plugins do: node-1 as Calico does (no address on the node's end of a pod's
//! veth), node-2 with a bridge that has an address. Nodes route to each other's pods. A client outside routes service
//! addresses through the node with the same number.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use kube_ipvs::cluster::types::Family;

use crate::host::Host;
use crate::talk;

/// The port of the servers on the endpoints and on the nodes: all protocols, all addresses.
pub(crate) const PORT: u16 = 8080;
/// `--cluster-cidr`.
pub(crate) const POD_NETWORKS: &str = "10.244.0.0/16,fd00:10:244::/56";
/// As in kubeadm's documentation: a service address shares more leading bits with a pod's than a node's does, so the
/// kernel would prefer it as the source of a masqueraded connection.
const SERVICE_NETWORKS: [[&str; 2]; 3] = [
    ["10.96.0.0/16", "fd00:10:96::/112"],
    // External IPs and load balancer addresses.
    ["198.18.0.0/16", "2001:db8:e::/112"],
    ["198.19.0.0/16", "2001:db8:b::/112"],
];

/// The kind of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Node,
    Pod,
    Outside,
}

/// One host.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// The node itself, the node that it runs on, or the one through which it routes service addresses.
    pub(crate) node: &'static str,
    /// IPv4 and IPv6.
    addresses: [&'static str; 2],
}

const fn place(name: &'static str, kind: Kind, node: &'static str, addresses: [&'static str; 2]) -> Place {
    Place { name, kind, node, addresses }
}

pub(crate) static PLACES: [Place; 8] = [
    place("node-1", Kind::Node, "node-1", ["192.168.0.1", "2001:db8::1"]),
    place("node-2", Kind::Node, "node-2", ["192.168.0.2", "2001:db8::2"]),
    place("pod-1a", Kind::Pod, "node-1", ["10.244.1.10", "fd00:10:244:1::a"]),
    place("pod-1b", Kind::Pod, "node-1", ["10.244.1.11", "fd00:10:244:1::b"]),
    place("pod-2a", Kind::Pod, "node-2", ["10.244.2.10", "fd00:10:244:2::a"]),
    place("pod-2b", Kind::Pod, "node-2", ["10.244.2.11", "fd00:10:244:2::b"]),
    place("outside-1", Kind::Outside, "node-1", ["192.168.0.11", "2001:db8::11"]),
    place("outside-2", Kind::Outside, "node-2", ["192.168.0.12", "2001:db8::12"]),
];
/// The hosts with servers.
const SERVERS: [&str; 4] = ["node-1", "node-2", "pod-1a", "pod-2a"];
/// The addresses of node-2's bridge.
const BRIDGE: [&str; 2] = ["10.244.2.1", "fd00:10:244:2::1"];

pub(crate) fn find(name: &str) -> &'static Place {
    PLACES.iter().find(|place| place.name == name).expect("a place of this name")
}

impl Place {
    pub(crate) fn address(&self, family: Family) -> IpAddr {
        of_family(self.addresses, family)
    }

    /// The addresses of its node.
    pub(crate) fn node_addresses(&self, family: Family) -> Vec<IpAddr> {
        let mut addresses = vec![find(self.node).address(family)];
        if self.node == "node-2" {
            addresses.push(of_family(BRIDGE, family));
        }
        addresses
    }
}

fn of_family(addresses: [&str; 2], family: Family) -> IpAddr {
    addresses[usize::from(family == Family::V6)].parse().expect("an address")
}

/// Creates the hosts, with servers and all routes, in namespaces of their own.
pub(crate) fn build() -> BTreeMap<&'static str, Host> {
    // The wire between them is a namespace, too.
    let names = PLACES.iter().map(|place| place.name).chain(["lan"]);
    let hosts: BTreeMap<_, _> = names.map(|name| (name, Host::new())).collect();
    for host in hosts.values() {
        host.run(set_sysctls);
    }
    batch(&hosts["lan"], &lan(&hosts));
    for place in &PLACES {
        let lines = match place.kind {
            Kind::Node => node(place, &hosts),
            Kind::Outside => outside(place),
            Kind::Pod => continue,
        };
        batch(&hosts[place.name], &lines);
    }
    for place in PLACES.iter().filter(|place| place.kind == Kind::Pod) {
        batch(&hosts[place.name], &pod(place));
    }
    for node in ["node-1", "node-2"] {
        // For IPv6 the CNI plugin enables it; for IPv4 the proxy does.
        hosts[node].run(|| write_sysctl("net/ipv6/conf/all/forwarding", "1"));
    }
    hosts["node-1"].run(|| {
        for pod in ["pod-1a", "pod-1b"] {
            write_sysctl(&format!("net/ipv4/conf/{pod}/proxy_arp"), "1");
            write_sysctl(&format!("net/ipv4/neigh/{pod}/proxy_delay"), "0");
        }
    });
    for name in SERVERS {
        hosts[name].run(move || {
            for family in Family::ALL {
                talk::serve(name, SocketAddr::new(talk::any(family), PORT));
            }
        });
    }
    hosts
}

fn set_sysctls() {
    // Addresses are usable at once, not only after a second of duplicate detection; every refusal is sent, however many
    // there are per second; root may ping without raw sockets.
    for (sysctl, value) in [
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv4/icmp_ratelimit", "0"),
        ("net/ipv6/icmp/ratelimit", "0"),
        ("net/ipv4/ping_group_range", "0 0"),
    ] {
        write_sysctl(sysctl, value);
    }
    // In kernels before 6.13, one limit for all namespaces.
    if fs::exists("/proc/sys/net/ipv4/icmp_msgs_per_sec").unwrap_or(false) {
        write_sysctl("net/ipv4/icmp_msgs_per_sec", "100000");
        write_sysctl("net/ipv4/icmp_msgs_burst", "10000");
    }
}

fn write_sysctl(sysctl: &str, value: &str) {
    fs::write(format!("/proc/sys/{sysctl}"), value).unwrap_or_else(|error| panic!("{sysctl}: {error}"));
}

fn lan(hosts: &BTreeMap<&'static str, Host>) -> String {
    let mut lines = vec!["link add lan type bridge\nlink set lan up".to_owned()];
    for place in PLACES.iter().filter(|place| place.kind != Kind::Pod) {
        let (name, thread) = (place.name, hosts[place.name].thread());
        lines.push(format!(
            "link add {name} type veth peer name eth0 netns {thread}
             link set {name} master lan up"
        ));
    }
    lines.join("\n")
}

fn node(place: &Place, hosts: &BTreeMap<&'static str, Host>) -> String {
    let [four, six] = place.addresses;
    let mut lines = vec![format!(
        "link set eth0 up
         address add {four}/24 dev eth0
         address add {six}/64 dev eth0"
    )];
    let bridge = place.name == "node-2";
    if bridge {
        let [four, six] = BRIDGE;
        lines.push(format!(
            "link add cni0 type bridge
             link set cni0 up
             address add {four}/24 dev cni0
             address add {six}/64 dev cni0"
        ));
    }
    for pod in PLACES.iter().filter(|pod| pod.kind == Kind::Pod && pod.node == place.name) {
        let (name, thread, [four, six]) = (pod.name, hosts[pod.name].thread(), pod.addresses);
        lines.push(format!("link add {name} type veth peer name eth0 netns {thread}"));
        lines.push(if bridge {
            format!(
                "link set {name} master cni0 up
                 link set {name} type bridge_slave hairpin on"
            )
        } else {
            format!(
                "link set {name} up
                 address add fe80::1/64 dev {name}
                 route add {four} dev {name} scope link
                 route add {six} dev {name}"
            )
        });
    }
    let (other, four_pods, six_pods) = if bridge {
        (find("node-1"), "10.244.1.0/24", "fd00:10:244:1::/64")
    } else {
        (find("node-2"), "10.244.2.0/24", "fd00:10:244:2::/64")
    };
    let [four, six] = other.addresses;
    // Nobody is at the gateway, but a realistic node has a default route.
    lines.push(format!(
        "route add {four_pods} via {four}
         route add {six_pods} via {six}
         route add default via 192.168.0.254
         route add default via 2001:db8::fe"
    ));
    lines.join("\n")
}

fn pod(place: &Place) -> String {
    let [four, six] = place.addresses;
    if place.node == "node-2" {
        let [gateway_four, gateway_six] = BRIDGE;
        return format!(
            "link set eth0 up
             address add {four}/24 dev eth0
             address add {six}/64 dev eth0
             route add default via {gateway_four}
             route add default via {gateway_six}"
        );
    }
    format!(
        "link set eth0 up
         address add {four}/32 dev eth0
         address add {six}/128 dev eth0
         route add 169.254.1.1 dev eth0 scope link
         route add default via 169.254.1.1 dev eth0
         route add default via fe80::1 dev eth0"
    )
}

fn outside(place: &Place) -> String {
    let [four, six] = place.addresses;
    let [via_four, via_six] = find(place.node).addresses;
    let mut lines = vec![format!(
        "link set eth0 up
         address add {four}/24 dev eth0
         address add {six}/64 dev eth0"
    )];
    for [four, six] in SERVICE_NETWORKS {
        lines.push(format!("route add {four} via {via_four}\nroute add {six} via {via_six}"));
    }
    lines.join("\n")
}

/// Runs all lines in one process.
fn batch(host: &Host, lines: &str) {
    host.shell(format!("ip -batch - <<'END'\n{lines}\nEND\n"));
}

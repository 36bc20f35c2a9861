//! A node, two pods and a client outside.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::Receiver;

use kube_ipvs::cluster::types::{Family, Protocol};
use kube_ipvs::diff::Step;
use kube_ipvs::kernel::nft::Tables;
use kube_ipvs::state::{Element, RuleSettings};

use crate::host::Host;
use crate::lab;
use crate::talk::{self, Answer, Conversation};

/// The port of the servers on the pods and the node: all protocols, all addresses.
pub(crate) const PORT: u16 = 8080;

/// A client.
pub(crate) struct Client {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) host: Host,
}

/// The addresses of one family.
struct Addresses {
    node: &'static str,
    outside: &'static str,
    /// The node's address, as seen by the pods.
    bridge: &'static str,
    pod_a: &'static str,
    pod_b: &'static str,
    prefix: u8,
    services: &'static str,
    service: &'static str,
    without_endpoints: &'static str,
}

const ADDRESSES: [Addresses; 2] = [
    Addresses {
        node: "192.168.0.1",
        outside: "192.168.0.2",
        bridge: "10.244.0.1",
        pod_a: "10.244.0.2",
        pod_b: "10.244.0.3",
        prefix: 24,
        services: "10.96.0.0/16",
        service: "10.96.0.10",
        without_endpoints: "10.96.0.11",
    },
    // As in kubeadm's documentation: a service address shares more leading bits with a pod's than the node's does.
    Addresses {
        node: "2001:db8::1",
        outside: "2001:db8::2",
        bridge: "fd00:10:244::1",
        pod_a: "fd00:10:244::2",
        pod_b: "fd00:10:244::3",
        prefix: 64,
        services: "fd00:10:96::/112",
        service: "fd00:10:96::a",
        without_endpoints: "fd00:10:96::b",
    },
];

pub(crate) struct Network {
    pub(crate) node: Client,
    pub(crate) pod_a: Client,
    pub(crate) pod_b: Client,
    pub(crate) outside: Client,
    /// The node's address on the pods' bridge, to which `masquerade` translates.
    pub(crate) bridge: IpAddr,
    /// Port 80 leads to the two pods, port 81 to the node itself.
    pub(crate) service: IpAddr,
    /// A service address without virtual servers.
    pub(crate) without_endpoints: IpAddr,
    addresses: &'static Addresses,
}

impl Network {
    /// Creates it, in the caller's namespace and three new ones, with a table of these settings. Only this family
    /// works.
    pub(crate) fn new(family: Family, settings: &RuleSettings) -> Self {
        let addresses = match family {
            Family::V4 => &ADDRESSES[0],
            Family::V6 => &ADDRESSES[1],
        };
        lab::new_namespace();
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        let client = |name: &str, text: &str, own_namespace| Client {
            name: name.to_owned(),
            address: address(text),
            host: if own_namespace { Host::new() } else { Host::here() },
        };
        let network = Self {
            node: client("node", addresses.node, false),
            pod_a: client("pod-a", addresses.pod_a, true),
            outside: client("outside", addresses.outside, true),
            bridge: address(addresses.bridge),
            service: address(addresses.service),
            without_endpoints: address(addresses.without_endpoints),
            addresses,
            pod_b: client("pod-b", addresses.pod_b, true),
        };
        network.connect_hosts();
        network.add_virtual_servers();
        let any = talk::any(family);
        for client in [&network.node, &network.pod_a, &network.pod_b] {
            let name = client.name.clone();
            client.host.run(move || talk::serve(&name, SocketAddr::new(any, PORT)));
        }
        let elements = vec![
            Element::ClusterAddress(network.service),
            Element::ClusterAddress(network.without_endpoints),
            Element::Hairpin(address(addresses.pod_a)),
            Element::Hairpin(address(addresses.pod_b)),
        ];
        let mut tables = Tables::open().unwrap();
        super::super::done(&mut tables, &[Step::InstallRules(family, settings.clone(), elements)]);
        network
    }

    fn connect_hosts(&self) {
        let Addresses { node, bridge, prefix, services, service, without_endpoints, .. } = *self.addresses;
        let mut script = vec![format!(
            "set -e
             sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.vs.conntrack=1 \\
               net.ipv4.vs.expire_nodest_conn=1 net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
             ip link add cni0 type bridge
             ip address add {bridge}/{prefix} dev cni0
             ip link set cni0 up
             ip link add eth0 type veth peer eth0 netns {}
             ip address add {node}/{prefix} dev eth0
             ip link set eth0 up
             ip link add kube-ipvs0 type dummy",
            self.outside.host.thread()
        )];
        for service in [service, without_endpoints] {
            let deprecated = if self.service.is_ipv6() { "preferred_lft 0 nodad" } else { "" };
            script.push(format!("ip address add {service} dev kube-ipvs0 {deprecated}"));
        }
        for pod in [&self.pod_a, &self.pod_b] {
            script.push(format!(
                "ip link add {} type veth peer eth0 netns {}
                 ip link set {} master cni0 up
                 ip link set {} type bridge_slave hairpin on",
                pod.name,
                pod.host.thread(),
                pod.name,
                pod.name
            ));
        }
        // Addresses are usable at once, not only after a second of duplicate detection.
        let no_detection = "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0";
        for client in [&self.node, &self.pod_a, &self.pod_b, &self.outside] {
            client.host.shell(no_detection);
        }
        self.node.host.shell(script.join("\n"));
        for (client, gateway) in [(&self.pod_a, bridge), (&self.pod_b, bridge), (&self.outside, node)] {
            client.host.shell(format!(
                "set -e
                 sysctl -qw net.ipv6.conf.eth0.accept_dad=0
                 ip address add {}/{prefix} dev eth0
                 ip link set eth0 up
                 ip route add {services} via {gateway}
                 ip route add default via {gateway}",
                client.address
            ));
        }
    }

    /// `ADDRESS:PORT`, as `ipvsadm` reads it.
    pub(crate) fn virtual_server(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.service, port)
    }

    /// Recreates the virtual servers.
    pub(crate) fn add_virtual_servers(&self) {
        let mut rules = Vec::new();
        for flag in ["-t", "-u", "--sctp-service"] {
            let pods = [self.pod_a.address, self.pod_b.address];
            for (port, servers) in [(80, &pods[..]), (81, &[self.bridge])] {
                let virtual_server = self.virtual_server(port);
                rules.push(format!("-A {flag} {virtual_server} -s rr"));
                for server in servers {
                    let server = SocketAddr::new(*server, PORT);
                    rules.push(format!("-a {flag} {virtual_server} -r {server} -m -w 1"));
                }
            }
        }
        self.node.host.shell(format!("ipvsadm -C; ipvsadm -R <<END\n{}\nEND\n", rules.join("\n")));
    }
}

impl Client {
    /// Asks the server at this address for its name, and for the client address that it sees.
    pub(crate) fn try_ask(
        &self,
        protocol: Protocol,
        source: Option<IpAddr>,
        address: IpAddr,
        port: u16,
    ) -> io::Result<Answer> {
        self.start_asking(protocol, source, address, port).recv().expect("the asking thread did not panic")
    }

    /// Begins to ask.
    pub(crate) fn start_asking(
        &self,
        protocol: Protocol,
        source: Option<IpAddr>,
        address: IpAddr,
        port: u16,
    ) -> Receiver<io::Result<Answer>> {
        self.host.start(move || talk::ask(protocol, source, SocketAddr::new(address, port)))
    }

    /// Opens a TCP connection that stays.
    pub(crate) fn connect(&self, address: IpAddr, port: u16) -> io::Result<std::net::TcpStream> {
        self.host.run(move || {
            let conversation = Conversation::open(Protocol::Tcp, None, SocketAddr::new(address, port))?;
            conversation.ask()?;
            Ok(conversation.into_socket().into())
        })
    }
}

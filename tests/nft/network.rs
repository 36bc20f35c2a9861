//! A node, two pods and a client outside.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use kube_ipvs::cluster::types::{Family, Protocol};
use kube_ipvs::diff::Step;
use kube_ipvs::kernel::nft::Tables;
use kube_ipvs::state::{Element, RuleSettings};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketType, ipproto};

use crate::lab;

/// Where the servers listen: pods and node, all protocols, all addresses.
pub(crate) const PORT: u16 = 8080;

/// A network namespace, with a thread in it that does what it is told.
pub(crate) struct Host {
    /// The thread's number, by which `ip` finds the namespace.
    thread: i32,
    jobs: Sender<Box<dyn FnOnce() + Send>>,
}

impl Host {
    /// In the caller's namespace, or in a new one.
    fn new(own_namespace: bool) -> Self {
        let (jobs, queue) = channel::<Box<dyn FnOnce() + Send>>();
        let (sender, receiver) = channel();
        thread::spawn(move || {
            if own_namespace {
                lab::new_namespace();
            }
            sender.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            for job in queue {
                job();
            }
        });
        Self { thread: receiver.recv().unwrap(), jobs }
    }

    /// Does something in the namespace; threads that it starts stay there.
    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(job).recv().expect("the job did not panic")
    }

    /// Begins to do something in the namespace.
    fn start<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let (sender, receiver) = channel();
        let job = move || {
            // Whoever asked may have given up.
            let _ = sender.send(job());
        };
        self.jobs.send(Box::new(move || drop(thread::spawn(job)))).expect("the thread lives as long as this");
        receiver
    }

    pub(crate) fn shell(&self, line: String) -> String {
        let (success, output) = self.run(move || {
            let result = lab::try_shell(&line);
            (result.0, format!("{line}\n{}", result.1))
        });
        assert!(success, "{output}");
        output
    }
}

/// Somebody who asks.
pub(crate) struct Client {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) host: Host,
}

/// The addresses of one family.
struct Addresses {
    node: &'static str,
    outside: &'static str,
    /// The node's, as seen by the pods.
    bridge: &'static str,
    pod_a: &'static str,
    pod_b: &'static str,
    prefix: u8,
    services: &'static str,
    service: &'static str,
    without_endpoints: &'static str,
    any: &'static str,
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
        any: "0.0.0.0",
    },
    // As in the documentation of kubeadm: a service address has more bits in common with a pod's than the node's has.
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
        any: "::",
    },
];

pub(crate) struct Network {
    pub(crate) node: Client,
    pub(crate) pod_a: Client,
    pub(crate) outside: Client,
    /// The node's address on the pods' bridge: what `masquerade` takes.
    pub(crate) bridge: IpAddr,
    /// Port 80: on the two pods, 81: on the node itself.
    pub(crate) service: IpAddr,
    /// A service address without virtual servers.
    pub(crate) without_endpoints: IpAddr,
    addresses: &'static Addresses,
    pod_b: Client,
}

impl Network {
    /// Makes it, in the caller's namespace and three new ones, with a table of these settings. Only this family works.
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
            host: Host::new(own_namespace),
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
        let any = address(addresses.any);
        for client in [&network.node, &network.pod_a, &network.pod_b] {
            let name = client.name.clone();
            client.host.run(move || serve(&name, any));
        }
        let elements = vec![
            Element::ServiceAddress(network.service),
            Element::ServiceAddress(network.without_endpoints),
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
            self.outside.host.thread
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
                pod.name, pod.host.thread, pod.name, pod.name
            ));
        }
        // Addresses are usable at once, and not only after a second of looking for duplicates.
        let no_detection = "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0";
        for client in [&self.node, &self.pod_a, &self.pod_b, &self.outside] {
            client.host.shell(no_detection.to_owned());
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

    /// Makes the virtual servers anew.
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
    /// Asks the server at this address who it is, and as whom it sees the asking one.
    pub(crate) fn try_ask(
        &self,
        protocol: Protocol,
        source: Option<IpAddr>,
        address: IpAddr,
        port: u16,
    ) -> io::Result<(String, IpAddr)> {
        self.start_asking(protocol, source, address, port).recv().expect("the asking thread did not panic")
    }

    /// Begins to ask.
    pub(crate) fn start_asking(
        &self,
        protocol: Protocol,
        source: Option<IpAddr>,
        address: IpAddr,
        port: u16,
    ) -> Receiver<io::Result<(String, IpAddr)>> {
        self.host.start(move || {
            let target = SocketAddr::new(address, port);
            let mut buffer = [0; 200];
            let length = if protocol == Protocol::Udp {
                let any = if address.is_ipv4() { ADDRESSES[0].any } else { ADDRESSES[1].any };
                let socket = UdpSocket::bind((source.unwrap_or_else(|| any.parse().unwrap()), 0))?;
                socket.set_read_timeout(Some(Duration::from_secs(2)))?;
                socket.connect(target)?;
                socket.send(b"?")?;
                socket.recv(&mut buffer)?
            } else {
                let socket = stream(protocol, source, target)?;
                rustix::net::recv(&socket, &mut buffer[..], rustix::net::RecvFlags::empty())?.0
            };
            let answer = String::from_utf8_lossy(&buffer[..length]);
            let (server, seen) = answer.split_once(' ').expect("a name and an address");
            Ok((server.to_owned(), seen.parse().expect("an address")))
        })
    }

    /// A TCP connection that stays.
    pub(crate) fn connect(&self, address: IpAddr, port: u16) -> io::Result<std::net::TcpStream> {
        self.host.run(move || {
            let socket = stream(Protocol::Tcp, None, SocketAddr::new(address, port))?;
            rustix::net::recv(&socket, &mut [0; 200][..], rustix::net::RecvFlags::empty())?;
            Ok(socket.into())
        })
    }
}

fn socket(protocol: Protocol, address: SocketAddr) -> io::Result<std::os::fd::OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let number = if protocol == Protocol::Sctp { ipproto::SCTP } else { ipproto::TCP };
    Ok(rustix::net::socket(family, SocketType::STREAM, Some(number))?)
}

/// A connected socket, by TCP or SCTP.
fn stream(
    protocol: Protocol,
    source: Option<IpAddr>,
    target: SocketAddr,
) -> io::Result<std::os::fd::OwnedFd> {
    let socket = socket(protocol, target)?;
    for timeout in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(&socket, timeout, Some(Duration::from_secs(2)))?;
    }
    if let Some(source) = source {
        rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
    }
    rustix::net::connect(&socket, &target)?;
    Ok(socket)
}

/// Serves in the caller's namespace, until the process ends: everyone is told the server's name and the address it
/// sees; connections stay open until the client closes.
fn serve(name: &str, any: IpAddr) {
    let address = SocketAddr::new(any, PORT);
    for protocol in [Protocol::Tcp, Protocol::Sctp] {
        let name = name.to_owned();
        let listener = socket(protocol, address).expect("TCP and SCTP");
        rustix::net::bind(&listener, &address).unwrap();
        rustix::net::listen(&listener, 16).unwrap();
        thread::spawn(move || {
            while let Ok((connection, Some(peer))) = rustix::net::acceptfrom(&listener) {
                let peer = SocketAddr::try_from(peer).unwrap().ip();
                let answer = format!("{name} {peer}");
                thread::spawn(move || {
                    let flags = rustix::net::SendFlags::NOSIGNAL;
                    let _ = rustix::net::send(&connection, answer.as_bytes(), flags);
                    let mut buffer = [0; 200];
                    while rustix::net::recv(&connection, &mut buffer[..], rustix::net::RecvFlags::empty())
                        .is_ok_and(|(_, length)| length > 0)
                    {}
                });
            }
        });
    }
    let name = name.to_owned();
    let socket = UdpSocket::bind(address).unwrap();
    thread::spawn(move || {
        while let Ok((_, peer)) = socket.recv_from(&mut [0; 10]) {
            let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
        }
    });
}

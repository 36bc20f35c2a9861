//! Segments that connection tracking does not attribute to their connection. For a rewritten connection, IPVS restores
//! the cluster IP, and nobody restores the address that the client knows; the client's own stray segments look like a
//! new connection.

use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use kube_ipvs::cluster::types::{Family, Protocol};
use kube_ipvs::diff::Step;
use kube_ipvs::kernel::nft::Tables;
use kube_ipvs::state::{Element, RuleSettings, VirtualServerKey};

use super::super::{done, settings};
use super::network::{Client, Network, PORT};
use crate::talk::Conversation;

const EXTERNAL: [&str; 2] = ["203.0.113.9", "2001:db8:9::9"];
const PODS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/56"];

/// The client resets the connection that it does not know, and that reset does not reach the server of the one that it
/// knows.
pub(crate) fn a_stray_segment_ends_no_connection() {
    for ((family, external), pods) in Family::ALL.into_iter().zip(EXTERNAL).zip(PODS) {
        let network = Network::new(family, &settings(Some(pods)));
        let external = external.parse().unwrap();
        network.lead_inside(external);
        let (pod, server) = (&network.pod_a.host, &network.pod_b.host);
        let conversation = pod.run(move || {
            let target = SocketAddr::new(external, 80);
            Conversation::open_within(Duration::from_secs(10), Protocol::Tcp, None, target).unwrap()
        });
        assert_eq!(conversation.ask().unwrap().0, network.pod_b.name);

        let (word, service) = (super::super::name(family), network.service);
        pod.shell(format!(
            "nft 'table inet seen {{ chain resets {{
               type filter hook output priority 0; {word} daddr {service} tcp flags rst counter; }}; }}'"
        ));
        // Ahead of every window: newer kernels take segments behind it for late ones, and translate them.
        server.shell(format!(
            "nft 'table inet stray {{ chain sent {{
               type filter hook output priority 0; tcp sport != {PORT} accept;
               tcp sequence < 0x80000000 tcp sequence set 0x80000000 accept; tcp sequence set 0; }}; }}'"
        ));
        let answer = thread::spawn(move || conversation.ask());
        let start = Instant::now();
        while pod.shell("nft list table inet seen").contains("packets 0 ") {
            assert!(start.elapsed() < Duration::from_secs(5), "{family}: the pod resets nothing");
        }
        server.shell("nft delete table inet stray");
        let answer = answer.join().unwrap();
        assert_eq!(answer.expect("the server sends again").0, network.pod_b.name, "{family}");
    }
}

/// Connection tracking considers the client's segment invalid, and the endpoint knows its connection.
pub(crate) fn an_invalid_segment_arrives() {
    for (family, pods) in Family::ALL.into_iter().zip(PODS) {
        let network = Network::new(family, &settings(Some(pods)));
        network.survives_invalid_segments(&network.pod_a, network.service, &network.pod_b, false);
    }
}

/// Such a segment cannot arrive with the source address that the endpoint knows.
pub(crate) fn an_invalid_segment_ends_no_masqueraded_connection() {
    for (family, pods) in Family::ALL.into_iter().zip(PODS) {
        let network = Network::new(family, &settings(Some(pods)));
        network.survives_invalid_segments(&network.outside, network.service, &network.pod_b, true);
        network.survives_invalid_segments(&network.pod_a, network.service, &network.pod_a, true);
        network.add_node_port();
        network.survives_invalid_segments(&network.outside, network.node.address, &network.pod_b, true);
        network.survives_invalid_segments(&network.pod_a, network.node.address, &network.pod_b, true);

        let network = Network::new(family, &RuleSettings { masquerade_all: true, ..settings(Some(pods)) });
        network.survives_invalid_segments(&network.pod_a, network.service, &network.pod_b, true);
    }
}

/// The client uses an address under which IPVS does not know the connection.
pub(crate) fn an_invalid_segment_ends_no_rewritten_connection() {
    for ((family, external), pods) in Family::ALL.into_iter().zip(EXTERNAL).zip(PODS) {
        let network = Network::new(family, &settings(Some(pods)));
        let external = external.parse().unwrap();
        network.lead_inside(external);
        network.survives_invalid_segments(&network.pod_a, external, &network.pod_b, false);
    }
}

/// A FIN begins no connection, so connection tracking considers it invalid after it has lost the connection.
pub(crate) fn the_end_of_a_lost_connection_is_answered() {
    for ((family, external), pods) in Family::ALL.into_iter().zip(EXTERNAL).zip(PODS) {
        let network = Network::new(family, &settings(Some(pods)));
        let external = external.parse().unwrap();
        network.lead_inside(external);
        for (client, address) in [(&network.outside, network.service), (&network.pod_a, external)] {
            let mut stream = client.connect(address, 80).unwrap();
            network.node.host.shell("conntrack -F 2>&1");
            stream.shutdown(Shutdown::Write).unwrap();
            let error = stream.read(&mut [0; 1]).expect_err("the endpoint does not know it");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{} by {address}: {error}", client.name);
        }
    }
}

impl Network {
    /// Asserts that a connection to port 80 that leads to this server survives segments ahead of every window.
    fn survives_invalid_segments(
        &self,
        client: &Client,
        address: IpAddr,
        server: &Client,
        is_masqueraded: bool,
    ) {
        let what = format!("{} by {address} to {}", client.name, server.name);
        let target = SocketAddr::new(address, 80);
        let open = || {
            client.host.run(move || {
                Conversation::open_within(Duration::from_secs(10), Protocol::Tcp, None, target).unwrap()
            })
        };
        // The servers take turns.
        let mut conversation = open();
        let mut answer = conversation.ask().unwrap();
        if answer.0 != server.name {
            conversation = open();
            answer = conversation.ask().unwrap();
        }
        let source = if is_masqueraded { self.bridge } else { client.address };
        assert_eq!(answer, (server.name.clone(), source), "{what}");
        let port = conversation.port();

        client.host.shell(
            "nft 'table inet stray { chain sent {
               type filter hook output priority 0; tcp dport != 80 accept; counter;
               tcp sequence < 0x80000000 tcp sequence set 0x80000000 accept; tcp sequence set 0; }; }'",
        );
        let answer = thread::spawn(move || (conversation.ask(), conversation));
        let start = Instant::now();
        while client.host.shell("nft list table inet stray").contains("packets 0 ") {
            assert!(start.elapsed() < Duration::from_secs(5), "{what}: nothing is sent");
        }
        client.host.shell("nft delete table inet stray");
        let (answer, _open) = answer.join().unwrap();
        let connections = self.node.host.shell(format!("ipvsadm -lnc | grep ':{port} '"));
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}: {connections}"));
        assert_eq!(answer, (server.name.clone(), source), "{what}");
        assert!(connections.contains("ESTABLISHED"), "{what}: {connections}");
    }

    /// Serves port 80 of the node's own address, with endpoints on any node.
    fn add_node_port(&self) {
        let key = VirtualServerKey { address: self.node.address, protocol: Protocol::Tcp, port: 80 };
        let server = SocketAddr::new(self.node.address, 80);
        let endpoint = SocketAddr::new(self.pod_b.address, PORT);
        self.node
            .host
            .shell(format!("ipvsadm -A -t {server} -s rr && ipvsadm -a -t {server} -r {endpoint} -m"));
        let elements = [Element::Owned(key), Element::Masquerade(key)];
        done(&mut Tables::open().unwrap(), &elements.map(Step::AddElement));
    }

    /// Adds an external address with policy Local: pods are redirected to the cluster IP, which leads to the second
    /// pod.
    fn lead_inside(&self, external: IpAddr) {
        let deprecated = if external.is_ipv6() { "preferred_lft 0 nodad" } else { "" };
        self.node.host.shell(format!(
            "ip address add {external} dev kube-ipvs0 {deprecated}
             ipvsadm -e -t {} -r {} -m -w 0",
            self.virtual_server(80),
            SocketAddr::new(self.pod_a.address, PORT)
        ));
        let entry_point = VirtualServerKey { address: external, protocol: Protocol::Tcp, port: 80 };
        let elements =
            [Element::ExternalAddress(external), Element::InCluster(entry_point, self.service, 80)];
        done(&mut Tables::open().unwrap(), &elements.map(Step::AddElement));
    }
}

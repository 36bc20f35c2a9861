//! Segments that connection tracking takes for none of their connection's. In a connection that was rewritten, IPVS puts
//! the cluster IP back, and nobody the address that the client knows; the client's own are taken for a new connection.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use kube_ipvs::cluster::types::{Family, Protocol};
use kube_ipvs::diff::Step;
use kube_ipvs::kernel::nft::Tables;
use kube_ipvs::state::{Element, VirtualServerKey};

use super::super::{done, settings};
use super::network::{Network, PORT};
use crate::talk::Conversation;

/// The client resets what it does not know, and that does not reach the server of what it knows.
pub(crate) fn a_stray_segment_ends_no_connection() {
    let addresses = ["203.0.113.9", "2001:db8:9::9"].map(|text| text.parse().unwrap());
    let pods = ["10.244.0.0/16", "fd00:10:244::/56"];
    for ((family, external), pods) in Family::ALL.into_iter().zip(addresses).zip(pods) {
        let network = Network::new(family, &settings(Some(pods)));
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
        // Ahead of every window: what is behind is late for newer kernels, and is translated.
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

/// Connection tracking calls the client's segment invalid, and the endpoint knows the connection that it is of.
pub(crate) fn an_invalid_segment_arrives() {
    let pods = ["10.244.0.0/16", "fd00:10:244::/56"];
    for (family, pods) in Family::ALL.into_iter().zip(pods) {
        let network = Network::new(family, &settings(Some(pods)));
        let (pod, target) = (&network.pod_a.host, network.virtual_server(80));
        let conversation = pod.run(move || {
            Conversation::open_within(Duration::from_secs(10), Protocol::Tcp, None, target).unwrap()
        });
        let (server, seen) = conversation.ask().unwrap();
        assert_eq!(seen, network.pod_a.address, "{family}: masqueraded");

        pod.shell(
            "nft 'table inet stray { chain sent {
               type filter hook output priority 0; tcp dport != 80 accept; counter;
               tcp sequence < 0x80000000 tcp sequence set 0x80000000 accept; tcp sequence set 0; }; }'",
        );
        let answer = thread::spawn(move || (conversation.ask(), conversation));
        let start = Instant::now();
        while pod.shell("nft list table inet stray").contains("packets 0 ") {
            assert!(start.elapsed() < Duration::from_secs(5), "{family}: the pod sends nothing");
        }
        pod.shell("nft delete table inet stray");
        let (answer, _open) = answer.join().unwrap();
        assert_eq!(answer.expect("the pod sends again").0, server, "{family}");
        let connections = network.node.host.shell("ipvsadm -lnc");
        assert!(
            connections.contains("ESTABLISHED") && !connections.contains("CLOSE"),
            "{family}: {connections}"
        );
    }
}

impl Network {
    /// An external address with policy Local: pods go by the cluster IP, and there to the second pod.
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

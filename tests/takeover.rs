//! Taking over from kube-proxy, and giving back, on two nodes with live traffic, beside other people's rules.
//!
//! What kube-proxy leaves was recorded from the real one (`takeover/kube_proxy.rs`): on one node in iptables-legacy, on
//! the other in iptables-nft, and FORWARD drops in the same variant.

#[path = "dataplane/cluster.rs"]
#[expect(dead_code, unused_imports, reason = "each test program uses its own part of this")]
mod cluster;
#[path = "takeover/dry_run.rs"]
mod dry_run;
#[path = "takeover/firewall.rs"]
mod firewall;
#[path = "common/host.rs"]
mod host;
#[path = "takeover/image.rs"]
mod image;
#[path = "takeover/kube_proxy.rs"]
#[expect(dead_code, reason = "each test program uses its own part of this")]
mod kube_proxy;
#[path = "common/kubeconfig.rs"]
mod kubeconfig;
#[path = "common/lab.rs"]
mod lab;
#[path = "takeover/others.rs"]
mod others;
#[path = "common/proxy.rs"]
#[expect(dead_code, reason = "each test program uses its own part of this")]
mod proxy;
#[path = "common/talk.rs"]
mod talk;
#[path = "dataplane/topology.rs"]
#[expect(dead_code, reason = "each test program uses its own part of this")]
mod topology;
#[path = "takeover/traffic.rs"]
mod traffic;
#[path = "takeover/upgrade.rs"]
mod upgrade;

use std::net::SocketAddr;

use kube_ipvs::cluster::types::{Family, Protocol};

use self::cluster::{Cluster, Service};
use self::dry_run::{a_dry_run_says_what_the_start_then_does, a_dry_run_that_cannot_know_says_why};
use self::firewall::where_input_drops_the_accepts_of_the_readme_are_enough;
use self::image::{
    the_image_finds_the_api_server_by_its_name, the_image_knows_authorities_for_a_kubeconfig_without_one,
    the_image_takes_over_with_the_rights_of_the_hardened_daemonset,
};
use self::kube_proxy::{Mode, NODES, Sync};
use self::others::{KUBE_PROXYS, OURS};
use self::proxy::Proxy;
use self::traffic::Traffic;
use self::upgrade::rules_of_another_version_are_replaced_under_traffic;

fn main() -> std::process::ExitCode {
    lab::run(lab::tests![
        from_ipvs_mode_and_back,
        from_iptables_mode,
        from_nftables_mode,
        a_dry_run_says_what_the_start_then_does,
        a_dry_run_that_cannot_know_says_why,
        cleanup_leaves_nothing_but_what_is_others,
        where_input_drops_the_accepts_of_the_readme_are_enough,
        rules_of_another_version_are_replaced_under_traffic,
        the_image_takes_over_with_the_rights_of_the_hardened_daemonset,
        the_image_knows_authorities_for_a_kubeconfig_without_one,
        the_image_finds_the_api_server_by_its_name,
    ])
}

/// Two nodes with other people's rules and, on top of them, what a kube-proxy left.
struct Before {
    cluster: Cluster,
    service: Service,
    /// What others have on each node.
    others: Vec<String>,
}

impl Before {
    fn new(mode: Mode) -> Self {
        let service = Service::new("both", 10, &["pod-1a", "pod-2a"]);
        // kube-proxy's last sync was before this Service had endpoints: its rules refuse the Service.
        let new = Service::new("new", 11, &["pod-1a", "pod-2a"]);
        let cluster = Cluster::without_proxies(&[service.clone(), new]);
        let mut others = Vec::new();
        for (node, variant) in NODES {
            let host = cluster.host(node);
            others::set_up(host, variant, mode);
            others.push(others::seen(host));
            kube_proxy::leave(host, node, mode, variant, Sync::Before);
            assert_ne!(others::left(host, &KUBE_PROXYS), Vec::<String>::new());
        }
        Self { cluster, service, others }
    }

    /// Starts kube-ipvs on both nodes and waits until it has taken over.
    fn take_over(&self) -> Vec<Proxy> {
        NODES
            .iter()
            .map(|(node, _)| {
                let mut proxy = self.cluster.start_proxy(node, &[]);
                proxy.wait_synced();
                self.wait_until_taken_over(node, &proxy);
                proxy
            })
            .collect()
    }

    fn wait_until_taken_over(&self, node: &str, proxy: &Proxy) {
        others::wait_until_taken_over(self.cluster.host(node), node, proxy);
    }

    fn assert_others_are_the_same(&self) {
        for ((node, _), before) in NODES.iter().zip(&self.others) {
            others::assert_same(self.cluster.host(node), node, before);
        }
    }

    fn assert_new_service_is_reached(&self) {
        for client in ["pod-1b", "node-1", "outside-2"] {
            for family in Family::ALL {
                let target = SocketAddr::new(Service::new("new", 11, &[]).address(family), 80);
                let answer = self.cluster.ask(client, Protocol::Tcp, target);
                assert!(answer.is_ok(), "{client} to {target}: {answer:?}");
            }
        }
    }

    /// Runs kube-ipvs on a node with these arguments, and returns its log; it must exit with this status.
    fn run(&self, node: &str, arguments: &'static [&'static str], status: i32) -> String {
        self.cluster.host(node).run(move || {
            let folder = tempfile::tempdir().expect("a folder");
            let mut proxy = Proxy::start(folder.path(), "log", arguments);
            let (ended, log) = (proxy.wait(), proxy.log());
            assert_eq!(ended, Some(status), "{log}");
            log
        })
    }
}

fn from_ipvs_mode_and_back() {
    let before = Before::new(Mode::Ipvs);
    let traffic = Traffic::start(&before.cluster, &before.service);
    let proxies = before.take_over();
    traffic.go_on();
    before.assert_others_are_the_same();
    before.assert_new_service_is_reached();
    for (node, variant) in NODES {
        let servers = before.cluster.host(node).shell("ipvsadm -Sn");
        assert!(!servers.contains(":30080"), "the node port of a Service that is gone:\n{servers}");
        // One accept per family, in the variant where FORWARD drops and nowhere else.
        let accepts = others::left(before.cluster.host(node), &["-A FORWARD", "KUBE-IPVS-FORWARD"]);
        let jumps: Vec<_> = accepts
            .iter()
            .filter(|line| line.contains("-A FORWARD") && line.contains("-j KUBE-IPVS-FORWARD"))
            .collect();
        assert_eq!(jumps.len(), 2, "{accepts:#?}");
        assert!(jumps.iter().all(|line| line.contains(variant.word())), "{jumps:#?}");
        let marks = format!("-A {} -j MARK --set-xmark 0x4000/0x4000", others::MARK);
        assert_eq!(others::left(before.cluster.host(node), &[&marks]).len(), 2, "one per family");
    }

    for (node, _) in NODES {
        let log = before.run(node, &["--cleanup"], 1);
        assert!(log.contains("kube-ipvs runs on this node"), "{log}");
    }

    // The way back: ours ends, kube-proxy starts and syncs, then ours is removed.
    for proxy in proxies {
        let (status, log) = proxy.terminate();
        assert_eq!(status, Some(0), "{log}");
    }
    for (node, variant) in NODES {
        kube_proxy::leave(before.cluster.host(node), node, Mode::Ipvs, variant, Sync::After);
    }
    traffic.go_on();
    for (node, _) in NODES {
        let host = before.cluster.host(node);
        let servers = host.shell("ipvsadm -Sn; ip addr show kube-ipvs0");
        let log = before.run(node, &["--cleanup-own"], 0);
        assert!(log.contains("ip6 kube-ipvs"), "{log}");
        assert_eq!(others::left(host, &OURS), Vec::<String>::new());
        assert_eq!(host.shell("ipvsadm -Sn; ip addr show kube-ipvs0"), servers);
        assert_ne!(others::left(host, &KUBE_PROXYS), Vec::<String>::new());
        let log = before.run(node, &["--cleanup-own"], 0);
        assert!(log.contains("Nothing to remove"), "{log}");
    }
    traffic.end();
}

fn from_iptables_mode() {
    take_over_from(Mode::Iptables);
}

fn from_nftables_mode() {
    take_over_from(Mode::Nftables);
}

fn take_over_from(mode: Mode) {
    let before = Before::new(mode);
    let traffic = Traffic::start(&before.cluster, &before.service);
    let _proxies = before.take_over();
    traffic.end();
    before.assert_others_are_the_same();
    before.assert_new_service_is_reached();
}

fn cleanup_leaves_nothing_but_what_is_others() {
    let before = Before::new(Mode::Ipvs);
    for proxy in before.take_over() {
        proxy.terminate();
    }
    for (node, variant) in NODES {
        let host = before.cluster.host(node);
        for mode in Mode::ALL {
            kube_proxy::leave(host, node, mode, variant, Sync::Before);
        }
        let log = before.run(node, &["--cleanup", "--ipvs-exclude-cidrs", "10.96.0.11/32"], 0);
        let all: Vec<&str> = KUBE_PROXYS.into_iter().chain(OURS).chain([others::MARK]).collect();
        assert_eq!(others::left(host, &all), Vec::<String>::new(), "{log}");
        let (found, _) = host.run(|| lab::try_shell("ip link show kube-ipvs0"));
        assert!(!found, "kube-ipvs0 is still there");
        // Other people's virtual servers stay, and those in the excluded network.
        let servers = host.shell("ipvsadm -Sn | grep '^-A'");
        let expected = [
            "-A -t 10.96.0.11:80",
            "-A -u 10.96.0.11:80",
            "-A --sctp-service 10.96.0.11:80",
            "-A -t 203.0.113.1:80",
            ":9000 -s sh",
        ];
        assert_eq!(servers.lines().count(), expected.len(), "{servers}");
        assert!(expected.iter().all(|server| servers.contains(server)), "{servers}");
        let log = before.run(node, &["--cleanup"], 0);
        assert!(log.contains("Nothing to remove"), "{log}");
    }
    before.assert_others_are_the_same();
}

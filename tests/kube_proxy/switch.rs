//! From the real kube-proxy to kube-ipvs and back, under traffic, beside other people's rules.

use crate::cluster::{Cluster, Service};
use crate::control_plane::ControlPlane;
use crate::kube_proxy::Mode;
use crate::others::{self, KUBE_PROXYS, OURS};
use crate::program::KubeProxy;
use crate::traffic::Traffic;
use crate::{NODES, start_ours};

pub(crate) fn from_ipvs_mode_and_back() {
    there_and_back(Mode::Ipvs);
}

pub(crate) fn from_iptables_mode_and_back() {
    there_and_back(Mode::Iptables);
}

pub(crate) fn from_nftables_mode_and_back() {
    there_and_back(Mode::Nftables);
}

fn there_and_back(mode: Mode) {
    let service = Service::new("both", 10, &["pod-1a", "pod-2a"]);
    let others = [Service::exposed("exposed", 11, &["pod-1a", "pod-2a"]), Service::exposed("none", 12, &[])];
    let cluster = Cluster::without_proxies([]);
    let control_plane = ControlPlane::start(&cluster);
    for service in others.iter().chain([&service]) {
        control_plane.create(&service.manifest());
    }
    let before = NODES.map(|(node, variant)| {
        let host = cluster.host(node);
        others::set_up(host, variant, mode);
        others::seen(host)
    });
    let start_theirs =
        || NODES.map(|(node, variant)| KubeProxy::start(&cluster, &control_plane, node, mode, variant));

    let theirs = start_theirs();
    let traffic = Traffic::start(&cluster, &service);
    drop(theirs);
    traffic.go_on();

    let ours = NODES.map(|(node, _)| {
        let proxy = start_ours(&cluster, node, control_plane.kubeconfig());
        others::wait_until_taken_over(cluster.host(node), node, &proxy);
        proxy
    });
    traffic.go_on();
    for ((node, _), before) in NODES.iter().zip(&before) {
        others::assert_same(cluster.host(node), node, before);
    }

    for proxy in ours {
        let (status, log) = proxy.terminate();
        assert_eq!(status, Some(0), "{log}");
    }
    traffic.go_on();
    let theirs = start_theirs();
    traffic.go_on();
    for (node, _) in NODES {
        let host = cluster.host(node);
        host.shell(format!("{} --cleanup-own", env!("CARGO_BIN_EXE_kube-ipvs")));
        assert_eq!(others::left(host, &OURS), Vec::<String>::new());
        assert_ne!(others::left(host, &KUBE_PROXYS), Vec::<String>::new());
    }
    traffic.end();
    drop(theirs);
}

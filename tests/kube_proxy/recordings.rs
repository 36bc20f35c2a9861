//! Verifies that the takeover tests' recordings are what the real kube-proxy leaves.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::control_plane::ControlPlane;
use crate::kube_proxy::{Mode, Sync, file, record};
use crate::program::KubeProxy;
use crate::{NODES, at_rest};

/// How often kube-proxy syncs when nothing changes (30 s), and some time for the sync itself.
const SYNC_PERIOD: Duration = Duration::from_secs(33);

pub(crate) fn ipvs_mode_leaves_what_is_recorded() {
    as_recorded(Mode::Ipvs, Sync::Before);
    as_recorded(Mode::Ipvs, Sync::After);
}

pub(crate) fn iptables_mode_leaves_what_is_recorded() {
    as_recorded(Mode::Iptables, Sync::Before);
}

pub(crate) fn nftables_mode_leaves_what_is_recorded() {
    as_recorded(Mode::Nftables, Sync::Before);
}

fn as_recorded(mode: Mode, sync: Sync) {
    let cluster = Cluster::without_proxies([]);
    let control_plane = ControlPlane::start(&cluster);
    for service in sync.services() {
        control_plane.create(&service.manifest());
    }
    for (node, variant) in NODES {
        let proxy = KubeProxy::start(&cluster, &control_plane, node, mode, variant);
        if mode == Mode::Nftables {
            // kube-proxy may hear of the ServiceCIDRs after its first sync. It writes their rules with its next one.
            thread::sleep(SYNC_PERIOD);
        }
        // The pause is more than `--*-min-sync-period`.
        let look = || record(cluster.host(node), variant);
        let left = at_rest(Duration::from_secs(2), look, |last, now| words(last) == words(now));
        drop(proxy);
        let file = file(node, mode, sync);
        if std::env::var_os("REGENERATE").is_some() {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, left).unwrap();
            continue;
        }
        let recorded = fs::read_to_string(&file).unwrap();
        let (recorded_words, words) = (words(&recorded), words(&left));
        assert!(recorded_words == words, "{} has:\n{recorded}\nand this is left:\n{left}", file.display());
    }
}

/// The words of a text in a fixed order: the kernel lists the elements of sets in any order.
fn words(text: &str) -> Vec<&str> {
    let mut words: Vec<_> = text.split([' ', '\n', '\t', ',']).filter(|word| !word.is_empty()).collect();
    words.sort_unstable();
    words
}

//! What the program sets on its host, `--init-only`, and its end when the configuration file changes.

use std::fs;

use crate::lab::shell;
use crate::proxy::Proxy;
use crate::{folder, put, web};

const HEADER: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn start(folder: &std::path::Path, name: &str, more: &[&str]) -> Proxy {
    let manifests = folder.join("manifests");
    fs::create_dir_all(&manifests).expect("a folder");
    put(&manifests, "web.yaml", &web("10.96.0.1", &["10.244.0.2"]));
    let manifests = manifests.to_string_lossy().into_owned();
    let mut words = vec!["--manifests", &manifests, "--hostname-override", "node1"];
    words.extend(more);
    Proxy::start(folder, name, &words)
}

fn sysctl(name: &str) -> String {
    shell(&format!("sysctl -n {name}")).trim().to_owned()
}

pub(crate) fn the_host_is_set_up() {
    let folder = folder();
    let words = [
        "--ipvs-strict-arp",
        "--conntrack-tcp-timeout-established=2h0m1s",
        "--conntrack-tcp-timeout-close-wait=59s",
        "--conntrack-tcp-be-liberal",
        "--conntrack-udp-timeout=31s",
        "--conntrack-udp-timeout-stream=2m",
        "--oom-score-adj=-501",
        "-v=1",
    ];
    let mut proxy = start(folder.path(), "first", &words);
    proxy.wait_synced();
    let log = proxy.log();
    for (name, value) in [
        ("net.ipv4.conf.all.arp_ignore", "1"),
        ("net.ipv4.conf.all.arp_announce", "2"),
        ("net.netfilter.nf_conntrack_tcp_timeout_established", "7201"),
        ("net.netfilter.nf_conntrack_tcp_timeout_close_wait", "59"),
        ("net.netfilter.nf_conntrack_tcp_be_liberal", "1"),
        ("net.netfilter.nf_conntrack_udp_timeout", "31"),
        ("net.netfilter.nf_conntrack_udp_timeout_stream", "120"),
        ("net.ipv4.vs.expire_nodest_conn", "1"),
    ] {
        assert_eq!(sysctl(name), value, "{name}\n{log}");
    }
    let adjustment = fs::read_to_string(format!("/proc/{}/oom_score_adj", proxy.id())).expect("a process");
    assert_eq!(adjustment, "-501\n");
    assert!(
        log.contains("\"Set sysctl\" entry=\"net/netfilter/nf_conntrack_udp_timeout\" value=\"31\""),
        "{log}"
    );
    let changed = "\"Changed sysctl\" name=\"net/ipv4/conf/all/arp_announce\" before=0 after=2";
    assert!(log.contains(changed), "{log}");
    // A node in a network namespace of its own may not change the machine's limit: this is logged, and no reason to
    // stop. A larger limit stays, and nothing is logged.
    let limit: u32 = sysctl("net.netfilter.nf_conntrack_max").parse().expect("a number");
    let tried = log.contains("\"Setting nf_conntrack_max\" nfConntrackMax=131072");
    let told =
        log.contains("\"Cannot set a parameter of the system\" entry=\"net/netfilter/nf_conntrack_max\"");
    assert!(limit >= 131_072 || tried && told, "{limit}\n{log}");

    // The second start finds everything as it should be.
    proxy.kill();
    let mut proxy = start(folder.path(), "second", &words);
    proxy.wait_synced();
    assert!(!proxy.log().contains("net/netfilter/nf_conntrack_udp_timeout"), "{}", proxy.log());
    assert!(!proxy.log().contains("Changed sysctl"), "{}", proxy.log());
}

pub(crate) fn initialization_is_a_run_of_its_own() {
    let folder = folder();
    let mut proxy =
        start(folder.path(), "init", &["--init-only", "--ipvs-strict-arp", "--ipvs-tcp-timeout=1h", "-v=1"]);
    assert_eq!(proxy.wait(), Some(0), "{}", proxy.log());
    assert!(proxy.log().contains("\"System initialized and --init-only specified\""), "{}", proxy.log());
    let changed = "\"Changed sysctl\" name=\"net/ipv4/vs/conntrack\" before=0 after=1";
    assert!(proxy.log().contains(changed), "{}", proxy.log());
    assert_eq!(sysctl("net.ipv4.vs.conntrack"), "1");
    assert_eq!(sysctl("net.ipv4.conf.all.arp_ignore"), "1");
    assert!(shell("ipvsadm -l --timeout").contains(": 3600 "));
    assert_eq!(shell("ipvsadm -ln | wc -l").trim(), "3", "no virtual server");
    assert_eq!(shell("ip -o -4 addr show dev kube-ipvs0"), "");
}

pub(crate) fn a_configuration_file_that_changes_ends_it() {
    let folder = folder();
    let file = folder.path().join("config.conf");
    fs::write(&file, format!("{HEADER}mode: ipvs\n")).expect("a file");
    let config = format!("--config={}", file.display());
    let mut proxy = start(folder.path(), "first", &[&config]);
    proxy.wait_synced();
    let before = shell("ipvsadm -ln");
    fs::write(&file, format!("{HEADER}mode: ipvs\nipvs: {{scheduler: lc}}\n")).expect("a file");
    assert_eq!(proxy.wait(), Some(1));
    let log = proxy.log();
    let why = "\"command failed\" err=\"content of the proxy server's configuration file was updated\"";
    assert!(log.contains(why), "{log}");
    assert_eq!(shell("ipvsadm -ln"), before);
    let mut proxy = start(folder.path(), "second", &[&config]);
    proxy.wait_synced();
    assert!(shell("ipvsadm -ln").contains("TCP  10.96.0.1:80 lc"));
}

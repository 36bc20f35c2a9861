//! What would change on a node is asked before and after the switch.

use std::process::Command;

use crate::cluster::Cluster;
use crate::kube_proxy::Mode;
use crate::topology;
use crate::{Before, NODES};

/// Everything on the node that a start changes, as the tools print it, without counters.
const ALL: &str = "ipvsadm -Sn; ipvsadm --list --timeout; ip address; ip route show table all; ip -6 route show table all
    nft -a list ruleset 2>/dev/null | sed 's/packets [0-9]* bytes [0-9]*//'
    for tool in iptables-legacy ip6tables-legacy iptables-nft ip6tables-nft; do
      $tool-save 2>/dev/null | grep -v '^#' | sed 's/ *\\[[0-9:]*\\]$//'
    done
    ipset save
    grep -s . /proc/sys/net/ipv4/vs/* /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/arp_* /proc/sys/net/netfilter/nf_conntrack_[tu]*
    cat /proc/sys/net/netfilter/nf_conntrack_max /sys/module/nf_conntrack/parameters/hashsize
    grep -h -o '@kube-ipvs' /proc/net/unix; ss -Hltn";

/// Runs a dry run; returns its output and its log. It may not change anything.
fn ask(cluster: &Cluster, node: &'static str) -> (String, String) {
    let host = cluster.host(node);
    let before = host.shell(ALL);
    let manifests = cluster.manifests();
    let output = host.run(move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kube-ipvs"));
        command.arg("--manifests").arg(manifests).args(["--hostname-override", node, "--dry-run"]);
        command.args(["--cluster-cidr", topology::POD_NETWORKS]).output().expect("it can be started")
    });
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let (printed, log) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{printed}\n{log}");
    let after = host.shell(ALL);
    let only = |left: &str, right: &str| {
        left.lines()
            .filter(|line| !right.lines().any(|other| other == *line))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert!(
        before == after,
        "before: {:#?}\nafter: {:#?}\n{after}",
        only(&before, &after),
        only(&after, &before)
    );
    (printed, log)
}

/// The number after a word of the first lines.
fn number(printed: &str, word: &str) -> u64 {
    let line = printed.lines().find_map(|line| line.trim_start().strip_prefix(word)?.strip_prefix(": "));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{word}:\n{printed}"))
}

pub(crate) fn a_dry_run_says_what_the_start_then_does() {
    let before = Before::new(Mode::Ipvs);
    for (node, variant) in NODES {
        let host = before.cluster.host(node);
        // A deleted Service, and a removed endpoint.
        host.shell(
            "ip addr add 10.96.0.99/32 dev kube-ipvs0
             ipvsadm -A -t 10.96.0.99:80 -s rr; ipvsadm -a -t 10.96.0.99:80 -r 10.244.9.9:8080 -m
             ipvsadm -a -t 10.96.0.10:80 -r 10.244.9.9:8080 -m; ipvsadm -a -u 10.96.0.10:80 -r 10.244.9.9:8080 -m",
        );
        let (printed, _) = ask(&before.cluster, node);
        let line = |wanted: &str| assert!(printed.lines().any(|line| line == wanted), "{wanted}:\n{printed}");
        line("TAKEN AWAY by the first sync:");
        line("  delete virtual server TCP 10.96.0.99:80");
        line("  delete address 10.96.0.99");
        line(
            "  edit real server TCP 10.96.0.10:80 -> 10.244.9.9:8080 weight 0 (now weight 1), of default/both",
        );
        line("  delete real server UDP 10.96.0.10:80 -> 10.244.9.9:8080, of default/both");
        line("  add real server TCP 10.96.0.11:80 -> 10.244.1.10:8080 weight 1, of default/new");
        line("  delete virtual server UDP [2001:db8:b::50]:80");
        line("  virtual server TCP 203.0.113.1:80: it is not ours, or in an excluded network");
        let tool = format!("iptables-{}", variant.word());
        assert!(printed.contains(&format!("  remove {tool} filter chains: KUBE-FORWARD, KUBE-IPVS-FILTER")));
        line(&format!("  add {tool} filter: accept rule for Service traffic in FORWARD"));
        assert!(printed.contains("  remove ipsets that no other rule refers to: KUBE-"), "{printed}");
        assert!(printed.contains(":30080\n") && printed.contains("  remove virtual servers: "), "{printed}");
        let kinds = ["delete virtual server", "delete real server", "delete address"];
        // The deleted Service `gone` had 18 and 6 more, and its node ports, which do not belong to the first sync.
        assert_eq!(kinds.map(|kind| number(&printed, kind)), [19, 1, 7], "{printed}");

        let mut proxy = before.cluster.start_proxy(node, &[]);
        proxy.wait_synced();
        let writes =
            format!("\"First sync complete\" writes={} failures=0", number(&printed, "First sync, writes"));
        assert!(proxy.log().contains(&writes), "{writes}:\n{printed}\n{}", proxy.log());
        before.wait_until_taken_over(node, &proxy);

        let (printed, log) = ask(&before.cluster, node);
        assert!(printed.starts_with("Nothing would change.\nStays as it is:\n"), "{printed}\n{log}");
        assert!(!log.contains("Another kube-ipvs runs"), "{log}");
        assert!(!proxy.log().contains("Another kube-ipvs runs"), "{}", proxy.log());
    }
    before.assert_others_are_the_same();
}

/// What prevents the first sync of a start prevents the answer of a dry run.
pub(crate) fn a_dry_run_that_cannot_know_says_why() {
    let nobody = ["--manifests", "/does/not/exist", "--hostname-override", "node1", "--dry-run"];
    let output =
        Command::new(env!("CARGO_BIN_EXE_kube-ipvs")).args(nobody).output().expect("it can be started");
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{log}");
    assert!(log.contains("\"command failed\" err=\"manifests: /does/not/exist: "), "{log}");
}

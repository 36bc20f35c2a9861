//! nftables tables with rules of iptables beside others, which iptables does not print.

use kube_ipvs::cluster::types::Family;
use kube_ipvs::kernel::Outcome;
use kube_ipvs::kernel::nft::whole_tables::{FoundStep, WholeTables};
use kube_ipvs::leftovers::takeover::ForwardWatch;

use crate::cleanup::run;
use crate::lab::{self, Test, shell};
use crate::{CHAINS, Fake, MARK, leave, said, take_over_unguarded};

/// All tests of this file.
pub(crate) const TESTS: &[Test] = lab::tests![
    a_table_that_is_not_printed_is_taken_over_too,
    without_the_accept_a_table_that_is_not_printed_stays,
    what_others_use_in_a_table_that_is_not_printed_stays_and_is_named,
    what_changed_since_it_was_looked_at_stays,
];

/// What kube-proxy leaves in a table where somebody else has rules that iptables does not understand.
pub(crate) const MIXED: &str = r#"*filter
:FORWARD DROP [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -j REJECT
-A KUBE-PROXY-FIREWALL -j KUBE-SOURCE-RANGES-FIREWALL
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
COMMIT
"#;

fn leave_mixed(tool: &str, family: &str) {
    shell(&format!(
        "{tool}-restore --noflush <<'END'\n{MIXED}{CHAINS}END
         nft insert rule {family} filter INPUT ct state established accept
         nft insert rule {family} filter FORWARD ct state invalid drop
         nft insert rule {family} nat PREROUTING fib daddr type local tcp dport 8080 redirect"
    ));
    let printed = shell(&format!("{tool}-save"));
    assert!(printed.contains("is incompatible") && !printed.contains("KUBE-"), "{printed}");
}

fn a_table_that_is_not_printed_is_taken_over_too() {
    let tools = [("iptables-nft", "ip"), ("ip6tables-nft", "ip6")];
    for (tool, family) in tools {
        leave_mixed(tool, family);
    }
    let report = take_over_unguarded();
    let expected = tools.map(|(tool, _)| {
        [
            format!("added {tool} filter: accept rule for Service traffic in FORWARD"),
            format!(
                "removed {tool} filter jumps: \
                 FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" \
                 -j KUBE-PROXY-FIREWALL, \
                 FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD, \
                 INPUT -m comment --comment \"kubernetes ipvs access filter\" -j KUBE-IPVS-FILTER"
            ),
            format!(
                "removed {tool} filter chains: \
                 KUBE-FORWARD, KUBE-IPVS-FILTER, KUBE-PROXY-FIREWALL, KUBE-SOURCE-RANGES-FIREWALL"
            ),
        ]
    });
    let (filter, nat): (Vec<_>, Vec<_>) =
        said(&report).into_iter().partition(|line| line.contains(" filter"));
    assert_eq!(filter, expected.concat());
    assert_eq!(nat.len(), 4, "jumps and chains of two families: {report:?}");
    for (tool, family) in tools {
        let rules = shell(&format!("nft list table {family} filter; nft list table {family} nat"));
        assert_eq!(rules.matches("jump KUBE-IPVS-FORWARD").count(), 1, "{tool}: {rules}");
        assert!(rules.contains("chain KUBE-MARK-MASQ"), "{tool}: {rules}");
        let left = rules.replace("KUBE-IPVS-FORWARD", "").replace("KUBE-MARK-MASQ", "");
        assert!(!left.contains("KUBE-"), "{tool}: {rules}");
        for others in ["ct state established accept", "ct state invalid drop", "redirect", "tcp dport 22"] {
            assert!(rules.contains(others), "{tool} {others}: {rules}");
        }
    }
    assert_eq!(said(&take_over_unguarded()), [""; 0], "the second time");
    let mut watch = ForwardWatch::new(MARK);
    assert_eq!(said(&watch.look()), [""; 0]);
    // Without its jump, the accept is recreated.
    shell("nft flush chain ip filter FORWARD");
    assert_eq!(
        said(&take_over_unguarded()),
        ["added iptables-nft filter: accept rule for Service traffic in FORWARD"]
    );
    // And ours is removed.
    let (success, log) = run("", "--cleanup");
    assert!(success, "{log}");
    let rules = shell("nft list ruleset");
    assert!(!rules.contains("KUBE-") && rules.contains("ct state established accept"), "{rules}");
    let (success, log) = run("", "--cleanup");
    assert!(success && log.contains("Nothing to remove"), "{log}");
}

/// There is never a policy DROP without an accept for Services.
fn without_the_accept_a_table_that_is_not_printed_stays() {
    leave_mixed("iptables-nft", "ip");
    let before = shell("nft list table ip filter");
    let failing = Fake::failing("iptables-nft-restore");
    let report = take_over_unguarded();
    assert!(!report.is_complete(), "{report:?}");
    assert!(report.findings[0].to_string().contains("iptables-nft filter"), "{report:?}");
    assert!(report.findings[0].to_string().contains("the lock is held"), "{report:?}");
    assert_eq!(shell("nft list table ip filter"), before);
    assert!(report.drops_replies.is_empty(), "kube-proxy's accept stands: {report:?}");
    shell("iptables-nft -F KUBE-FORWARD");
    assert_eq!(take_over_unguarded().drops_replies, ["iptables-nft"]);
    drop(failing);
    assert!(take_over_unguarded().is_complete());
    assert!(!shell("nft list table ip filter").contains("KUBE-FORWARD"));
}

fn what_others_use_in_a_table_that_is_not_printed_stays_and_is_named() {
    leave_mixed("iptables-nft", "ip");
    shell(
        "nft add chain ip nat OTHERS; nft add chain ip nat KUBE-NODE-PORT
         nft add rule ip nat OTHERS meta l4proto tcp jump KUBE-NODE-PORT
         iptables-nft -A FORWARD -m conntrack --ctstate NEW,RELATED -j KUBE-SOURCE-RANGES-FIREWALL",
    );
    let report = take_over_unguarded();
    assert!(report.is_complete(), "{report:?}");
    let kept: Vec<_> = said(&report).into_iter().filter(|line| line.starts_with("left")).collect();
    assert_eq!(
        kept,
        [
            "left iptables-nft filter chain KUBE-SOURCE-RANGES-FIREWALL: it is used by \
             FORWARD -m conntrack ... -j KUBE-SOURCE-RANGES-FIREWALL",
            "left iptables-nft nat chain KUBE-NODE-PORT: it is used by \
             OTHERS [meta] [cmp] -j KUBE-NODE-PORT",
        ]
    );
    let rules = shell("nft list table ip filter; nft list table ip nat");
    assert!(!rules.contains("KUBE-IPVS-FILTER") && !rules.contains("KUBE-SERVICES"), "{rules}");

    // A use that our check misses: the kernel refuses.
    leave("iptables-nft");
    shell("nft add rule ip nat OTHERS tcp dport vmap { 80 : jump KUBE-SERVICES }");
    let report = take_over_unguarded();
    assert!(!report.is_complete(), "{report:?}");
    let failed = "failed iptables-nft nat: chains KUBE-SERVICES: Device or resource busy (os error 16)";
    assert!(said(&report).contains(&failed.to_owned()), "{report:?}");
    assert!(shell("nft list table ip nat").contains("jump KUBE-SERVICES"), "all of it stays");
}

fn what_changed_since_it_was_looked_at_stays() {
    leave_mixed("iptables-nft", "ip");
    let mut tables = WholeTables::open().expect("a socket");
    let contents = tables.contents(Family::V4, "filter").expect("contents");
    let jump = FoundStep::Jump("KUBE-IPVS-FILTER".to_owned());
    let jumps: Vec<_> = contents.rules.iter().filter(|rule| rule.steps.contains(&jump)).collect();
    assert_eq!(jumps.len(), 1, "{contents:?}");
    let before = shell("nft add table ip another; nft list table ip filter");
    let chains = ["KUBE-IPVS-FILTER".to_owned()];
    let outcome = tables.remove(Family::V4, "filter", &contents, &jumps, &chains);
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    assert_eq!(shell("nft list table ip filter"), before);
    let contents = tables.contents(Family::V4, "filter").expect("contents");
    assert_eq!(tables.remove(Family::V4, "filter", &contents, &jumps, &chains), Outcome::Done);
    assert!(!shell("nft list table ip filter").contains("KUBE-IPVS-FILTER"));
}

//! The accept in FORWARD: created once, retried, and what happens while it cannot be created.

use std::collections::BTreeSet;

use kube_ipvs::leftovers::cleanup::clean_all;
use kube_ipvs::leftovers::foresee::foresee;
use kube_ipvs::leftovers::takeover::{ForwardWatch, Takeover};
use kube_ipvs::state::State;

use crate::lab::{self, Test, shell, try_shell};
use crate::unprinted::MIXED;
use crate::{Fake, MARK, TOOLS, accepts, back, leave, said, take_over_unguarded};

/// All tests of this file.
pub(crate) const TESTS: &[Test] = lab::tests![
    the_accept_is_made_once_in_either_iptables,
    iptables_that_comes_later_gets_its_accept,
    an_accept_that_was_flushed_is_made_again,
    a_rule_that_drops_and_comes_later_gets_its_accept,
    what_failed_is_tried_again,
    an_accept_that_failed_is_tried_again,
    what_waits_for_programs_is_done_when_they_come,
    without_programs_a_rule_that_rejects_the_rest_is_told_of_as_a_policy_is,
    without_programs_an_accept_that_stands_is_seen,
    where_kube_proxys_accept_stands_no_reply_is_dropped,
];

fn the_accept_is_made_once_in_either_iptables() {
    for tool in TOOLS {
        shell(&format!("{tool} -P FORWARD DROP"));
    }
    let report = take_over_unguarded();
    let expected: Vec<String> = TOOLS
        .iter()
        .map(|tool| format!("added {tool} filter: accept rule for Service traffic in FORWARD"))
        .collect();
    assert_eq!(said(&report), expected);
    assert_eq!(said(&take_over_unguarded()), [""; 0], "the second time");
    for tool in TOOLS {
        assert_eq!(accepts(tool), 1, "{tool}");
        // A damaged accept is recreated, and not doubled.
        shell(&format!("{tool} -D KUBE-IPVS-FORWARD 1"));
    }
    assert_eq!(said(&take_over_unguarded()), expected);
    for tool in TOOLS {
        assert_eq!(accepts(tool), 1, "{tool}");
        let rules = shell(&format!("{tool}-save | grep -e '^-A KUBE-IPVS-FORWARD'"));
        assert_eq!(rules.lines().filter(|line| line.starts_with("-A")).count(), 2, "{rules}");
    }
}

fn iptables_that_comes_later_gets_its_accept() {
    let mut watch = ForwardWatch::new(MARK);
    assert_eq!(said(&watch.look()), [""; 0]);
    for tool in TOOLS {
        shell(&format!("{tool} -P FORWARD DROP"));
        let report = watch.look();
        assert_eq!(
            said(&report),
            [format!("added {tool} filter: accept rule for Service traffic in FORWARD")]
        );
        assert_eq!(said(&watch.look()), [""; 0]);
        assert_eq!(accepts(tool), 1, "{tool}");
    }
    // What is visible over netlink is also noticed when it disappears.
    shell("iptables-nft -F FORWARD; iptables-nft -F KUBE-IPVS-FORWARD; iptables-nft -X KUBE-IPVS-FORWARD");
    assert_eq!(said(&watch.look()).len(), 1);
    assert_eq!(accepts("iptables-nft"), 1);
    // An accepting policy needs no accept rule.
    shell("ip6tables-nft -P FORWARD ACCEPT; ip6tables-nft -F FORWARD");
    assert_eq!(said(&watch.look()), [""; 0]);
}

/// The chains and the policy stay as they were.
fn an_accept_that_was_flushed_is_made_again() {
    let mut watch = ForwardWatch::new(MARK);
    for tool in ["iptables-nft", "ip6tables-nft"] {
        for flush in ["-P FORWARD DROP", "-F FORWARD", "-F KUBE-IPVS-FORWARD", "-F"] {
            shell(&format!("{tool} {flush}"));
            let report = watch.look();
            assert_eq!(
                said(&report),
                [format!("added {tool} filter: accept rule for Service traffic in FORWARD")],
                "{flush}"
            );
            assert_eq!(said(&watch.look()), [""; 0], "{flush}");
            assert_eq!(accepts(tool), 1, "{flush}");
            assert_eq!(shell(&format!("{tool} -S KUBE-IPVS-FORWARD")).lines().count(), 3, "{flush}");
        }
    }
}

/// The policy accepts all the time.
fn a_rule_that_drops_and_comes_later_gets_its_accept() {
    let mut watch = ForwardWatch::new(MARK);
    for tool in ["iptables-nft", "ip6tables-nft"] {
        shell(&format!("{tool} -A FORWARD -i eth7 -j ACCEPT"));
        assert_eq!(said(&watch.look()), [""; 0], "{tool}");
        shell(&format!("{tool} -A FORWARD -j REJECT"));
        assert_eq!(
            said(&watch.look()),
            [format!("added {tool} filter: accept rule for Service traffic in FORWARD")]
        );
        assert_eq!(said(&watch.look()), [""; 0], "{tool}");
        assert_eq!(accepts(tool), 1, "{tool}");
    }
}

/// A chain that rejects new service addresses, by a set that nobody keeps up to date.
const FROZEN: &str = "*filter
:FORWARD DROP [0:0]
:KUBE-IPVS-FILTER - [0:0]
-A INPUT -m comment --comment \"kubernetes ipvs access filter\" -j KUBE-IPVS-FILTER
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set KUBE-IPVS-IPS dst -j REJECT
COMMIT
";

fn what_failed_is_tried_again() {
    for tool in ["iptables-nft", "iptables-legacy"] {
        for program in ["save", "restore"] {
            shell(&format!(
                "ipset create KUBE-IPVS-IPS hash:ip; {tool}-restore --noflush <<'END'\n{FROZEN}END\n"
            ));
            let failing = Fake::failing(&format!("{tool}-{program}"));
            let mut takeover = Takeover::new(MARK, BTreeSet::new(), Vec::new(), BTreeSet::new);
            let report = takeover.attempt();
            assert!(!report.is_complete(), "{program}: {report:?}");
            assert!(report.findings[0].to_string().contains("the lock is held"), "{report:?}");
            // Without the program that prints rules, only those of iptables-nft can be seen.
            let is_seen = (tool, program) != ("iptables-legacy", "save");
            assert_eq!(report.drops_replies, vec![tool.to_owned(); is_seen.into()], "{program}");
            drop(failing);
            assert!(shell(&format!("{tool}-save")).contains("KUBE-IPVS-FILTER"), "{program}");
            assert_eq!(accepts(tool), 0, "{program}");

            let report = takeover.attempt();
            assert!(report.is_complete() && report.drops_replies.is_empty(), "{program}: {report:?}");
            let left = shell(&format!("{tool}-save; ipset list -n"));
            assert!(
                !left.contains("KUBE-IPVS-FILTER") && !left.contains("KUBE-IPVS-IPS"),
                "{program}: {left}"
            );
            assert_eq!(accepts(tool), 1, "{program}");
            assert_eq!(said(&takeover.attempt()), [""; 0], "{program}");
            // The takeover was complete: what comes later belongs to somebody who runs kube-proxy, and is only
            // reported.
            shell("ipset create KUBE-LOOP-BACK hash:ip,port,ip");
            assert_eq!(said(&takeover.attempt()), [back("ipset KUBE-LOOP-BACK")], "{program}");
            assert!(shell("ipset list -n").contains("KUBE-LOOP-BACK"), "{program}");
            shell(&format!(
                "ipset destroy KUBE-LOOP-BACK
                 {tool} -F FORWARD; {tool} -F KUBE-IPVS-FORWARD; {tool} -X KUBE-IPVS-FORWARD"
            ));
        }
    }
}

fn an_accept_that_failed_is_tried_again() {
    let mut watch = ForwardWatch::new(MARK);
    assert_eq!(said(&watch.look()), [""; 0]);
    shell("iptables-nft -P FORWARD DROP");
    let failing = Fake::failing("iptables-nft-restore");
    for _ in 0..2 {
        let report = watch.look();
        assert!(!report.is_complete(), "{report:?}");
        assert_eq!(report.drops_replies, ["iptables-nft"]);
    }
    drop(failing);
    assert_eq!(
        said(&watch.look()),
        ["added iptables-nft filter: accept rule for Service traffic in FORWARD"]
    );
    assert_eq!(said(&watch.look()), [""; 0]);
    assert_eq!(accepts("iptables-nft"), 1);
    // The same holds where the policy was there from the start.
    shell("iptables-nft -F FORWARD; iptables-nft -F KUBE-IPVS-FORWARD; iptables-nft -X KUBE-IPVS-FORWARD");
    let mut watch = ForwardWatch::new(MARK);
    assert_eq!(said(&watch.look()).len(), 1);
    assert_eq!(accepts("iptables-nft"), 1);
}

/// A node without the programs of iptables, as in a custom image, until this is dropped.
struct NoPrograms;

impl NoPrograms {
    fn new() -> Self {
        shell("cp /usr/sbin/nft $TMPDIR/; mount -t tmpfs tmpfs /usr/sbin; mv $TMPDIR/nft /usr/sbin/");
        Self
    }
}

impl Drop for NoPrograms {
    fn drop(&mut self) {
        try_shell("umount /usr/sbin");
    }
}

fn what_waits_for_programs_is_done_when_they_come() {
    leave("iptables-legacy");
    leave("iptables-nft");
    shell("iptables-nft -P FORWARD DROP; iptables-nft -N MINE; iptables-nft -A FORWARD -j MINE");
    shell("ipset create KUBE-LOOP-BACK hash:ip,port,ip");
    let hidden = NoPrograms::new();
    let mut takeover = Takeover::new(MARK, BTreeSet::new(), Vec::new(), BTreeSet::new);
    let mut watch = ForwardWatch::new(MARK);
    let no = |tool: &str| format!("there are no programs {tool}-save and {tool}-restore");
    let expected = [
        format!("failed iptables-legacy: what may be in its tables nat: {}", no("iptables-legacy")),
        format!("failed iptables-nft chains nat KUBE-SERVICES: {}", no("iptables-nft")),
        format!("failed iptables-nft: an accept in FORWARD, which drops the rest: {}", no("iptables-nft")),
    ];
    let report = takeover.attempt();
    assert_eq!(report.drops_replies, ["iptables-nft"]);
    assert_eq!(said(&report), [&expected[..], &["removed ipsets: KUBE-LOOP-BACK".to_owned()]].concat());
    // Meanwhile nothing is repeated: this table could be of a kube-proxy that came later.
    shell("nft add table ip kube-proxy");
    for report in [takeover.attempt(), watch.look(), watch.look()] {
        assert_eq!(
            (said(&report), report.drops_replies),
            (expected.to_vec(), vec!["iptables-nft".to_owned()])
        );
    }
    shell("nft delete table ip kube-proxy");
    // A rule of somebody else suffices, wherever it is.
    shell("nft add rule ip filter MINE ct state established,related accept");
    for _ in 0..2 {
        for report in [takeover.attempt(), watch.look()] {
            assert_eq!((said(&report), report.drops_replies), (expected.to_vec(), Vec::new()));
        }
    }
    shell("nft flush chain ip filter FORWARD; nft flush chain ip filter MINE");
    drop(hidden);
    let report = takeover.attempt();
    assert!(report.is_complete() && report.drops_replies.is_empty(), "{report:?}");
    assert_eq!(said(&watch.look()), [""; 0]);
    for tool in ["iptables-legacy", "iptables-nft"] {
        assert!(!shell(&format!("{tool}-save")).contains("KUBE-SERVICES"), "{tool}: {report:?}");
    }
    assert_eq!(accepts("iptables-nft"), 1);
}

/// As in the default rules of some distributions.
fn without_programs_a_rule_that_rejects_the_rest_is_told_of_as_a_policy_is() {
    shell("iptables-nft -A FORWARD -j REJECT");
    let hidden = NoPrograms::new();
    let expected = ["failed iptables-nft: an accept in FORWARD, which drops the rest: \
         there are no programs iptables-nft-save and iptables-nft-restore"];
    let (foreseen, _) = foresee(MARK, &[], &State::default(), &BTreeSet::new());
    for report in [foreseen, take_over_unguarded()] {
        assert_eq!(said(&report), expected);
        assert_eq!(report.drops_replies, ["iptables-nft"]);
    }
    // A cleanup, after which nobody serves, creates no accept.
    assert_eq!(said(&clean_all(&[])), [""; 0]);
    drop(hidden);
    let added = ["added iptables-nft filter: accept rule for Service traffic in FORWARD"];
    assert_eq!(said(&take_over_unguarded()), added);
}

/// The accept is from an earlier life.
fn without_programs_an_accept_that_stands_is_seen() {
    shell("iptables-nft -P FORWARD DROP");
    assert!(take_over_unguarded().is_complete());
    let hidden = NoPrograms::new();
    assert_eq!(said(&take_over_unguarded()), [""; 0]);
    let left = "failed iptables-nft chains filter KUBE-IPVS-FORWARD: \
         there are no programs iptables-nft-save and iptables-nft-restore";
    assert_eq!(said(&clean_all(&[])), [left]);
    drop(hidden);
    assert!(clean_all(&[]).is_complete());
    assert_eq!(accepts("iptables-nft"), 0);
}

/// The accept and the removal are one change: as long as it fails, kube-proxy's accept stays in force.
fn where_kube_proxys_accept_stands_no_reply_is_dropped() {
    for tool in ["iptables-nft", "iptables-legacy"] {
        shell(&format!("{tool}-restore --noflush <<'END'\n{MIXED}END\n"));
        let failing = Fake::failing(&format!("{tool}-restore"));
        let report = take_over_unguarded();
        assert!(!report.is_complete() && report.drops_replies.is_empty(), "{tool}: {report:?}");
        shell(&format!("{tool} -F KUBE-FORWARD"));
        assert_eq!(take_over_unguarded().drops_replies, [tool]);
        drop(failing);
        assert!(take_over_unguarded().is_complete(), "{tool}");
    }
}

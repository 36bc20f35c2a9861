//! What kube-proxy leaves, piece by piece, in the kernel: what goes, what stays, and what is said about it.

#[path = "common/lab.rs"]
mod lab;

use std::collections::BTreeSet;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex};

use kube_ipvs::cluster::types::{Family, Protocol};
use kube_ipvs::diff::Step;
use kube_ipvs::kernel::Outcome;
use kube_ipvs::kernel::nft::Tables;
use kube_ipvs::kernel::nft::whole::{FoundStep, WholeTables};
use kube_ipvs::leftovers::cleanup::{clean_all, clean_own};
use kube_ipvs::leftovers::report::{Finding, Report};
use kube_ipvs::leftovers::running::Sign;
use kube_ipvs::leftovers::takeover::{ForwardWatch, Takeover, take_over};
use kube_ipvs::state::{Element, RuleSettings, VirtualServerKey};

use self::lab::{shell, try_shell};

const MARK: u32 = 0x4000;

fn main() -> std::process::ExitCode {
    lab::run(lab::tests![
        the_accept_is_made_once_in_either_iptables,
        iptables_that_comes_later_gets_its_accept,
        what_failed_is_tried_again,
        an_accept_that_failed_is_tried_again,
        what_waits_for_programs_is_done_when_they_come,
        where_kube_proxys_accept_stands_no_reply_is_dropped,
        without_our_own_rules_nothing_is_removed,
        a_family_whose_rules_come_later_is_taken_over_then,
        a_family_that_is_written_later_is_taken_over_then,
        without_the_rules_no_node_port_is_taken_for_stale,
        what_others_use_stays_and_is_named,
        a_table_that_is_not_printed_is_taken_over_too,
        without_the_accept_a_table_that_is_not_printed_stays,
        what_others_use_in_a_table_that_is_not_printed_stays_and_is_named,
        what_changed_since_it_was_looked_at_stays,
        a_set_that_is_given_up_late_goes,
        node_ports_of_services_that_are_gone_go,
        without_programs_leftovers_are_named_and_the_rest_goes,
        where_iptables_has_nothing_no_program_is_started,
        what_is_ours_stays_until_kube_proxy_has_rules_in_each_family,
        rules_of_any_mode_are_rules,
        a_node_that_kube_proxy_has_not_come_to_yet_is_not_done,
        while_the_program_runs_no_cleanup_removes_anything,
        names_that_others_chose_keep_no_cleanup_from_anything,
        a_cleanup_waits_a_moment_for_the_program_to_end,
        the_way_back_waits_for_kube_proxy,
    ])
}

/// Takes over as if our rules stood: no family is said to have any.
fn take_over_unguarded() -> Report {
    take_over(MARK, &BTreeSet::new(), &BTreeSet::new(), &[])
}

fn said(report: &Report) -> Vec<String> {
    report.findings.iter().map(ToString::to_string).collect()
}

fn accepts(tool: &str) -> usize {
    let rules = shell(&format!("{tool}-save"));
    rules
        .lines()
        .filter(|line| line.starts_with("-A FORWARD") && line.ends_with("-j KUBE-IPVS-FORWARD"))
        .count()
}

const TOOLS: [&str; 4] = ["iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft"];

fn the_accept_is_made_once_in_either_iptables() {
    for tool in TOOLS {
        shell(&format!("{tool} -P FORWARD DROP"));
    }
    let report = take_over_unguarded();
    let expected: Vec<String> = TOOLS
        .iter()
        .map(|tool| format!("made {tool} filter: an accept for traffic of Services in FORWARD"))
        .collect();
    assert_eq!(said(&report), expected);
    assert_eq!(said(&take_over_unguarded()), [""; 0], "the second time");
    for tool in TOOLS {
        assert_eq!(accepts(tool), 1, "{tool}");
        // Damaged, it is made anew, and not twice.
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
            [format!("made {tool} filter: an accept for traffic of Services in FORWARD")]
        );
        assert_eq!(said(&watch.look()), [""; 0]);
        assert_eq!(accepts(tool), 1, "{tool}");
    }
    // What can be seen over netlink is also seen when it goes.
    shell("iptables-nft -F FORWARD; iptables-nft -F KUBE-IPVS-FORWARD; iptables-nft -X KUBE-IPVS-FORWARD");
    assert_eq!(said(&watch.look()).len(), 1);
    assert_eq!(accepts("iptables-nft"), 1);
    // A policy that accepts needs none.
    shell("ip6tables-nft -P FORWARD ACCEPT; ip6tables-nft -F FORWARD");
    assert_eq!(said(&watch.look()), [""; 0]);
}

/// A program of iptables that does something else than it should, until this is dropped.
struct Fake;

impl Fake {
    /// Where it is; programs are found there first.
    const FOLDER: &str = "/usr/local/sbin";

    /// It fails, whatever it is asked for.
    fn failing(program: &str) -> Self {
        Self::new(program, "echo 'the lock is held' >&2; exit 4")
    }

    fn new(program: &str, script: &str) -> Self {
        let found = shell(&format!(
            "mount -t tmpfs tmpfs {0}
             cat >{0}/{program} <<'END'\n#!/bin/sh\n{script}\nEND\nchmod +x {0}/{program}; command -v {program}",
            Self::FOLDER
        ));
        let fake = Self;
        assert_eq!(found.trim(), format!("{}/{program}", Self::FOLDER), "the order of PATH");
        fake
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        try_shell(&format!("umount {}", Self::FOLDER));
    }
}

/// The chain that rejects, by a set that nobody keeps up to date, what became a service address since.
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
            // What nothing prints can be seen of iptables-nft only.
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
            // It was complete: what comes later is somebody's who runs kube-proxy.
            shell("ipset create KUBE-LOOP-BACK hash:ip,port,ip");
            assert_eq!(said(&takeover.attempt()), [""; 0], "{program}");
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
        ["made iptables-nft filter: an accept for traffic of Services in FORWARD"]
    );
    assert_eq!(said(&watch.look()), [""; 0]);
    assert_eq!(accepts("iptables-nft"), 1);
    // The same where the policy was there from the start.
    shell("iptables-nft -F FORWARD; iptables-nft -F KUBE-IPVS-FORWARD; iptables-nft -X KUBE-IPVS-FORWARD");
    let mut watch = ForwardWatch::new(MARK);
    assert_eq!(said(&watch.look()).len(), 1);
    assert_eq!(accepts("iptables-nft"), 1);
}

/// A node without the programs of iptables, as in an image of one's own, until this is dropped.
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
    shell("iptables-nft -P FORWARD DROP; ipset create KUBE-LOOP-BACK hash:ip,port,ip");
    let hidden = NoPrograms::new();
    let mut takeover = Takeover::new(MARK, BTreeSet::new(), Vec::new(), BTreeSet::new);
    let mut watch = ForwardWatch::new(MARK);
    let no = |tool: &str| format!("there are no programs {tool}-save and {tool}-restore");
    let expected = [
        format!("failed iptables-legacy: what may be in its tables nat: {}", no("iptables-legacy")),
        format!("failed iptables-nft chains nat KUBE-MARK-MASQ, nat KUBE-SERVICES: {}", no("iptables-nft")),
        format!("failed iptables-nft: an accept in FORWARD, whose policy is DROP: {}", no("iptables-nft")),
    ];
    let report = takeover.attempt();
    assert_eq!(report.drops_replies, ["iptables-nft"]);
    assert_eq!(said(&report), [&expected[..], &["removed ipsets: KUBE-LOOP-BACK".to_owned()]].concat());
    for report in [takeover.attempt(), watch.look(), watch.look()] {
        assert_eq!(
            (said(&report), report.drops_replies),
            (expected.to_vec(), vec!["iptables-nft".to_owned()])
        );
    }
    // A rule of somebody's is enough.
    shell("nft insert rule ip filter FORWARD ct state established,related accept");
    for _ in 0..2 {
        for report in [takeover.attempt(), watch.look()] {
            assert_eq!((said(&report), report.drops_replies), (expected.to_vec(), Vec::new()));
        }
    }
    shell("nft flush chain ip filter FORWARD");
    drop(hidden);
    let report = takeover.attempt();
    assert!(report.is_complete() && report.drops_replies.is_empty(), "{report:?}");
    assert_eq!(said(&watch.look()), [""; 0]);
    for tool in ["iptables-legacy", "iptables-nft"] {
        assert!(!shell(&format!("{tool}-save")).contains("KUBE-SERVICES"), "{tool}: {report:?}");
    }
    assert_eq!(accepts("iptables-nft"), 1);
}

/// The accept and what goes are one change: as long as that fails, kube-proxy's accept does its work.
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

const CHAINS: &str = r#"*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SERVICES -j KUBE-MARK-MASQ
COMMIT
"#;

fn leave(tool: &str) {
    shell(&format!("{tool}-restore --noflush <<'END'\n{CHAINS}END\n"));
}

fn without_our_own_rules_nothing_is_removed() {
    leave("iptables-nft");
    leave("ip6tables-legacy");
    shell("ipset create KUBE-LOOP-BACK hash:ip,port,ip; nft add table ip kube-proxy");
    let before = shell(
        "iptables-nft-save | grep -v '^#'; ip6tables-legacy-save | grep -v '^#'; nft list tables; ipset save",
    );
    let report = take_over(MARK, &Family::ALL.into(), &Family::ALL.into(), &[]);
    let after = shell(
        "iptables-nft-save | grep -v '^#'; ip6tables-legacy-save | grep -v '^#'; nft list tables; ipset save",
    );
    assert_eq!(before, after);
    assert_eq!(said(&report).len(), 2, "{report:?}");
    assert!(!report.is_complete());
    // One family's lack is no other's.
    let report = take_over(MARK, &BTreeSet::from([Family::V6]), &BTreeSet::from([Family::V6]), &[]);
    assert!(shell("iptables-nft-save; ipset save").lines().all(|line| !line.contains("KUBE-")), "{report:?}");
    assert!(shell("ip6tables-legacy-save").contains("KUBE-SERVICES"), "{report:?}");
}

/// Makes the table of a family, with these elements.
fn install_our_rules(family: Family, elements: &[Element]) {
    let settings =
        RuleSettings { masquerade_mark: MARK, masquerade_all: false, inside: None, node_address: None };
    let step = Step::InstallRules(family, settings, elements.to_vec());
    let outcomes = Tables::open().expect("a socket").apply(&[&step]);
    assert_eq!(outcomes, [Outcome::Done]);
}

fn a_family_whose_rules_come_later_is_taken_over_then() {
    takes_over_one_family_after_the_other(false);
}

fn a_family_that_is_written_later_is_taken_over_then() {
    takes_over_one_family_after_the_other(true);
}

/// The node ports are asked for only when all rules stand and all is written, and until then their sets stay.
fn takes_over_one_family_after_the_other(rules_stand: bool) {
    for (first, second, tools) in [
        (Family::V6, Family::V4, ["ip6tables-nft", "iptables-nft"]),
        (Family::V4, Family::V6, ["iptables-nft", "ip6tables-nft"]),
    ] {
        for tool in tools {
            leave(tool);
        }
        shell(
            "ip link add eth0 type dummy; ip addr add 192.168.0.1/24 dev eth0; ip link set eth0 up
             ip addr add 2001:db8::1/64 dev eth0 nodad
             ipset create KUBE-NODE-PORT-TCP bitmap:port range 0-65535; ipset add KUBE-NODE-PORT-TCP 30080
             ipset create KUBE-6-NODE-PORT-TCP bitmap:port range 0-65535; ipset add KUBE-6-NODE-PORT-TCP 30080
             ipset create KUBE-LOOP-BACK hash:ip,port,ip; ipset create KUBE-6-LOOP-BACK hash:ip,port,ip family inet6
             for server in 192.168.0.1:30080 [2001:db8::1]:30080; do ipvsadm -A -t $server -s rr || exit 1; done",
        );
        let left = |tool: &str| shell(&format!("{tool}-save")).contains("KUBE-SERVICES");
        let servers = || shell("ipvsadm -Sn");
        let written = Arc::new(Mutex::new(BTreeSet::from([first])));
        let told = Arc::clone(&written);
        let told = move || told.lock().expect("nobody panicked").clone();
        let mut takeover = Takeover::new(MARK, Family::ALL.into(), Vec::new(), told);

        install_our_rules(first, &[]);
        if rules_stand {
            install_our_rules(second, &[]);
        } else {
            written.lock().expect("nobody panicked").insert(second);
        }
        let report = takeover.attempt();
        assert!(!report.is_complete(), "{report:?}");
        assert!(!left(tools[0]) && left(tools[1]), "{report:?}");
        assert_eq!(servers().lines().count(), 2, "{report:?}");
        let mut sets = vec!["KUBE-6-NODE-PORT-TCP", "KUBE-NODE-PORT-TCP"];
        sets.push(if second == Family::V4 { "KUBE-LOOP-BACK" } else { "KUBE-6-LOOP-BACK" });
        sets.sort_unstable();
        assert_eq!(shell("ipset list -n | sort").lines().collect::<Vec<_>>(), sets, "{report:?}");

        install_our_rules(second, &[]);
        written.lock().expect("nobody panicked").insert(second);
        let report = takeover.attempt();
        assert!(report.is_complete(), "{report:?}");
        assert!(!left(tools[0]) && !left(tools[1]), "{report:?}");
        assert_eq!(shell("ipvsadm -Sn; ipset list -n"), "", "{report:?}");
        assert_eq!(said(&takeover.attempt()), [""; 0]);
        shell("ip link del eth0; nft flush ruleset");
    }
}

fn what_others_use_stays_and_is_named() {
    shell("ipset create KUBE-LOOP-BACK hash:ip,port,ip; ipset create KUBE-CLUSTER-IP hash:ip,port");
    for tool in ["iptables-legacy", "iptables-nft"] {
        leave(tool);
        shell(&format!(
            "{tool} -t nat -N OTHERS; {tool} -t nat -A OTHERS -p tcp -j KUBE-MARK-MASQ
             {tool} -A INPUT -m set --match-set KUBE-CLUSTER-IP src,dst -j ACCEPT"
        ));
    }
    let report = take_over_unguarded();
    assert!(report.is_complete(), "{report:?}");
    let kept: Vec<_> = report
        .findings
        .iter()
        .filter_map(|finding| match finding {
            Finding::Kept { what, .. } => Some(what.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(
        kept,
        [
            "iptables-legacy nat chain KUBE-MARK-MASQ",
            "iptables-nft nat chain KUBE-MARK-MASQ",
            "ipset KUBE-CLUSTER-IP"
        ]
    );
    for tool in ["iptables-legacy", "iptables-nft"] {
        let rules = shell(&format!("{tool}-save"));
        assert!(rules.contains("-A KUBE-MARK-MASQ -j MARK") && !rules.contains("KUBE-SERVICES"), "{rules}");
    }
    assert_eq!(shell("ipset list -n").trim(), "KUBE-CLUSTER-IP");
}

/// What kube-proxy leaves in a table in which somebody else has rules that iptables does not know.
const MIXED: &str = r#"*filter
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
            format!("made {tool} filter: an accept for traffic of Services in FORWARD"),
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
        assert_eq!(rules.replace("KUBE-IPVS-FORWARD", "").matches("KUBE-").count(), 0, "{tool}: {rules}");
        for others in ["ct state established accept", "ct state invalid drop", "redirect", "tcp dport 22"] {
            assert!(rules.contains(others), "{tool} {others}: {rules}");
        }
    }
    assert_eq!(said(&take_over_unguarded()), [""; 0], "the second time");
    let mut watch = ForwardWatch::new(MARK);
    assert_eq!(said(&watch.look()), [""; 0]);
    // Without its jump it is made anew.
    shell("nft flush chain ip filter FORWARD");
    assert_eq!(
        said(&take_over_unguarded()),
        ["made iptables-nft filter: an accept for traffic of Services in FORWARD"]
    );
    // And what is ours goes.
    let (success, log) = run("", "--cleanup");
    assert!(success, "{log}");
    let rules = shell("nft list ruleset");
    assert!(!rules.contains("KUBE-") && rules.contains("ct state established accept"), "{rules}");
    let (success, log) = run("", "--cleanup");
    assert!(success && log.contains("Nothing to remove"), "{log}");
}

/// At no moment is there a policy DROP without an accept for Services.
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
        "nft add chain ip nat OTHERS; nft add rule ip nat OTHERS meta l4proto tcp jump KUBE-MARK-MASQ
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
            "left iptables-nft nat chain KUBE-MARK-MASQ: it is used by \
             OTHERS [meta] [cmp] -j KUBE-MARK-MASQ",
        ]
    );
    let rules = shell("nft list table ip filter; nft list table ip nat");
    assert!(!rules.contains("KUBE-IPVS-FILTER") && !rules.contains("KUBE-SERVICES"), "{rules}");

    // A use that is not seen: the kernel refuses.
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

/// Somebody flushes all of nftables while the takeover is under way: nothing tells then which node ports are served.
fn without_the_rules_no_node_port_is_taken_for_stale() {
    let address = "192.168.0.1".parse().expect("an address");
    let owned = Element::Owned(VirtualServerKey { address, protocol: Protocol::Tcp, port: 30080 });
    leave("iptables-nft");
    shell(
        "ip link add eth0 type dummy; ip addr add 192.168.0.1/24 dev eth0; ip link set eth0 up
         ipset create KUBE-NODE-PORT-TCP bitmap:port range 0-65535; ipset add KUBE-NODE-PORT-TCP 30080-30081
         ipvsadm -A -t 192.168.0.1:30080 -s rr; ipvsadm -A -t 192.168.0.1:30081 -s rr",
    );
    let mut takeover =
        Takeover::new(MARK, BTreeSet::from([Family::V4]), Vec::new(), || BTreeSet::from([Family::V4]));
    install_our_rules(Family::V4, &[owned]);
    let flushing = Fake::new(
        "iptables-nft-restore",
        "nft delete table ip kube-ipvs; exec /usr/sbin/iptables-nft-restore \"$@\"",
    );
    let report = takeover.attempt();
    assert!(!report.is_complete(), "{report:?}");
    assert_eq!(shell("ipvsadm -Sn | wc -l; ipset list -n"), "2\nKUBE-NODE-PORT-TCP\n", "{report:?}");

    drop(flushing);
    install_our_rules(Family::V4, &[owned]);
    let expected = ["removed virtual servers: TCP 192.168.0.1:30081", "removed ipsets: KUBE-NODE-PORT-TCP"];
    assert_eq!(said(&takeover.attempt()), expected);
    assert_eq!(shell("ipvsadm -Sn"), "-A -t 192.168.0.1:30080 -s rr\n");
}

/// As with rules of iptables-nft on a machine with several processors.
fn a_set_that_is_given_up_late_goes() {
    leave("iptables-legacy");
    shell(
        "ipset create KUBE-CLUSTER-IP hash:ip,port
         iptables-legacy -A INPUT -m set --match-set KUBE-CLUSTER-IP src,dst -j ACCEPT
         {
           while iptables-legacy-save -t nat | grep -q KUBE-SERVICES; do sleep 0.01; done
           sleep 0.05
           iptables-legacy --wait -D INPUT 1
         } >/dev/null 2>&1 &",
    );
    let report = take_over_unguarded();
    assert_eq!(
        said(&report),
        [
            "removed iptables-legacy nat jumps: PREROUTING -m comment --comment \"kubernetes service portals\" \
             -j KUBE-SERVICES",
            "removed iptables-legacy nat chains: KUBE-MARK-MASQ, KUBE-SERVICES",
            "removed ipsets: KUBE-CLUSTER-IP",
        ]
    );
}

fn node_ports_of_services_that_are_gone_go() {
    shell(
        "ip link add eth0 type dummy; ip addr add 192.168.0.1/24 dev eth0; ip link set eth0 up
         ip addr add 2001:db8::1/64 dev eth0 nodad
         ipset create KUBE-NODE-PORT-TCP bitmap:port range 0-65535; ipset add KUBE-NODE-PORT-TCP 30080
         ipset add KUBE-NODE-PORT-TCP 30081
         ipset create KUBE-6-NODE-PORT-SCTP-HASH hash:ip,port family inet6
         ipset add KUBE-6-NODE-PORT-SCTP-HASH 2001:db8::1,sctp:30090
         for server in '-t 192.168.0.1:30080' '-t 192.168.0.1:30081' '-u 192.168.0.1:30080' '-t 192.168.0.2:30080' \\
           '-t 192.168.0.1:30082' '--sctp-service [2001:db8::1]:30090'; do
           ipvsadm -A $server -s rr || exit 1
         done",
    );
    let excluded = ["192.168.0.0/31".parse().expect("a network")];
    let report = take_over(MARK, &BTreeSet::new(), &BTreeSet::new(), &excluded);
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(shell("ipvsadm -Sn | wc -l").trim(), "5", "the network is excluded, but not of IPv6");
    shell(
        "ipset create KUBE-NODE-PORT-TCP bitmap:port range 0-65535; ipset add KUBE-NODE-PORT-TCP 30080-30081",
    );
    let report = take_over_unguarded();
    let expected = [
        "removed virtual servers: TCP 192.168.0.1:30080, TCP 192.168.0.1:30081",
        "removed ipsets: KUBE-NODE-PORT-TCP",
    ];
    assert_eq!(said(&report), expected);
    let left = shell("ipvsadm -Sn | sort");
    let expected =
        "-A -t 192.168.0.1:30082 -s rr\n-A -t 192.168.0.2:30080 -s rr\n-A -u 192.168.0.1:30080 -s rr\n";
    assert_eq!(left, expected, "other people's");
}

/// Runs this build with its own picture of `/usr/sbin`, made by these lines.
fn run(lines: &str, arguments: &str) -> (bool, String) {
    let binary = env!("CARGO_BIN_EXE_kube-ipvs");
    try_shell(&format!("exec unshare --mount sh -ec '{lines}\nexec {binary} {arguments}'"))
}

fn without_programs_leftovers_are_named_and_the_rest_goes() {
    leave("iptables-nft");
    leave("iptables-legacy");
    shell("ipset create KUBE-LOOP-BACK hash:ip,port,ip; nft add table ip kube-proxy");
    let (success, log) = run("mount -t tmpfs tmpfs /usr/sbin", "--cleanup");
    assert!(!success, "{log}");
    for named in [
        "iptables-nft chains nat KUBE-MARK-MASQ, nat KUBE-SERVICES",
        "iptables-legacy: what may be in its tables nat",
        "encountered an error while tearing down rules",
    ] {
        assert!(log.contains(named), "{named}:\n{log}");
    }
    assert_eq!(shell("ipset list -n"), "");
    assert!(!shell("nft list tables").contains("kube-proxy"));
    let (success, log) = run("", "--cleanup");
    assert!(success, "{log}");
    for tool in ["iptables-nft", "iptables-legacy"] {
        assert!(!shell(&format!("{tool}-save")).contains("KUBE-"), "{tool}");
    }
}

fn where_iptables_has_nothing_no_program_is_started() {
    // Nftables that are not of iptables, and the programs of iptables say that they were called.
    shell("nft add table inet filter; nft add table ip others");
    let told = shell("mktemp").trim().to_owned();
    let script =
        format!("printf \"#!/bin/sh\\necho called >>{told}\\n\" >$TMPDIR/tell; chmod +x $TMPDIR/tell");
    let lines =
        "for program in legacy nft; do mount --bind $TMPDIR/tell /usr/sbin/xtables-$program-multi; done";
    shell(&script);
    let (success, log) = run(lines, "--cleanup");
    assert!(success && log.contains("Nothing to remove"), "{log}");
    assert_eq!(shell(&format!("cat {told}")), "");
    // The other way round: it would have been noticed.
    shell("iptables-nft -N SOMETHING");
    run(lines, "--cleanup");
    assert!(shell(&format!("cat {told}")).contains("called"));
}

/// kube-proxy's first sync, of mode ipvs or iptables, has been here.
fn masquerade(tool: &str) {
    shell(&format!("{tool} -t nat -N KUBE-POSTROUTING; {tool} -t nat -A KUBE-POSTROUTING -j MASQUERADE"));
}

const OUR_TABLES: &str = "table ip kube-ipvs\ntable ip6 kube-ipvs\n";

fn our_tables() -> String {
    shell("nft list tables | grep kube-ipvs; true")
}

fn no_rules_for(families: &str) -> String {
    format!(
        "failed anything: nothing was removed: kube-proxy has no rules of its own for {families} on this node, which it \
         writes in its first sync (for a node without service proxy there is --cleanup)"
    )
}

fn what_is_ours_stays_until_kube_proxy_has_rules_in_each_family() {
    for family in Family::ALL {
        install_our_rules(family, &[]);
    }
    shell("iptables-nft -P FORWARD DROP");
    ForwardWatch::new(MARK).look();
    assert_eq!(said(&clean_own()), [no_rules_for("IPv4 and IPv6")]);
    // It starts: chains come first, and are filled when all else is there.
    for tool in ["iptables-nft", "ip6tables-legacy"] {
        shell(&format!("{tool} -t nat -N KUBE-POSTROUTING"));
    }
    assert_eq!(said(&clean_own()), [no_rules_for("IPv4 and IPv6")]);
    shell("iptables-nft -t nat -A KUBE-POSTROUTING -j MASQUERADE");
    assert_eq!(
        said(&clean_own()),
        [no_rules_for("IPv6")],
        "the second family is written after the first one"
    );
    assert_eq!((our_tables().as_str(), accepts("iptables-nft")), (OUR_TABLES, 1));

    shell("ip6tables-legacy -t nat -A KUBE-POSTROUTING -j MASQUERADE");
    let report = clean_own();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((our_tables().as_str(), accepts("iptables-nft")), ("", 0), "{report:?}");
    assert_eq!(said(&clean_own()), [""; 0]);
}

fn rules_of_any_mode_are_rules() {
    for rules in ["iptables-legacy", "iptables-nft", "nftables"] {
        install_our_rules(Family::V4, &[]);
        assert_eq!(said(&clean_own()), [no_rules_for("IPv4")], "{rules}");
        match rules {
            "nftables" => drop(shell("nft add table ip kube-proxy")),
            tool => masquerade(tool),
        }
        assert_eq!(said(&clean_own()), ["removed nftables tables: ip kube-ipvs"], "{rules}");
        shell("iptables-legacy -t nat -F; iptables-legacy -t nat -X; nft flush ruleset");
    }
    // Also where iptables' programs do not print them.
    install_our_rules(Family::V4, &[]);
    masquerade("iptables-nft");
    shell(
        "nft add chain ip nat OTHERS; nft add rule ip nat OTHERS fib daddr type local tcp dport 8080 return",
    );
    assert!(!shell("iptables-nft-save").contains("MASQUERADE"));
    assert_eq!(said(&clean_own()), ["removed nftables tables: ip kube-ipvs"]);
}

/// As where neither has begun: kube-ipvs may still be the next to come.
fn a_node_that_kube_proxy_has_not_come_to_yet_is_not_done() {
    assert_eq!(said(&clean_own()), [no_rules_for("IPv4")]);
    masquerade("iptables-nft");
    assert_eq!(said(&clean_own()), [""; 0]);
}

fn while_the_program_runs_no_cleanup_removes_anything() {
    install_our_rules(Family::V4, &[]);
    masquerade("iptables-nft");
    shell("ip link add kube-ipvs0 type dummy");
    let sign = Sign::set().expect("nobody else runs");
    assert!(Sign::set().is_err(), "a second one is told");
    let expected =
        ["failed anything: nothing was removed: kube-ipvs runs on this node, and would write it again"];
    assert_eq!(said(&clean_own()), expected);
    assert_eq!(said(&clean_all(&[])), expected);
    shell("ip link show kube-ipvs0; nft list table ip kube-ipvs; iptables-nft -t nat -S KUBE-POSTROUTING");
    drop(sign);
    assert!(clean_own().is_complete());
    assert!(clean_all(&[]).is_complete());
    assert!(!try_shell("ip link show kube-ipvs0").0);
}

/// Names of Unix sockets are whatever bytes their owners like.
fn names_that_others_chose_keep_no_cleanup_from_anything() {
    let names: [&[u8]; 4] = [b"\xff\xfe\x80", b"kube-ipvs2", b"kube-ipvs\xff", b"\0kube-ipvs"];
    let bind = |name: &[u8]| {
        let name = SocketAddr::from_abstract_name(name).expect("a name");
        UnixDatagram::bind_addr(&name).expect("nobody else has it")
    };
    let _others = names.map(bind);
    install_our_rules(Family::V4, &[]);
    let sign = Sign::set().expect("nobody else runs");
    assert!(said(&clean_all(&[]))[0].contains("kube-ipvs runs on this node"));
    assert_eq!(our_tables(), "table ip kube-ipvs\n");
    drop(sign);
    assert!(clean_all(&[]).is_complete());
    assert_eq!(our_tables(), "");
}

/// It may just have been told to end.
fn a_cleanup_waits_a_moment_for_the_program_to_end() {
    install_our_rules(Family::V4, &[]);
    let sign = Sign::set().expect("nobody else runs");
    let mut cleanup = std::process::Command::new(env!("CARGO_BIN_EXE_kube-ipvs"))
        .args(["--cleanup"])
        .spawn()
        .expect("the program can be started");
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(our_tables(), "table ip kube-ipvs\n");
    drop(sign);
    assert!(cleanup.wait().expect("it ends").success());
    assert_eq!(our_tables(), "");
}

fn the_way_back_waits_for_kube_proxy() {
    install_our_rules(Family::V4, &[]);
    shell(
        "ip link add kube-ipvs0 type dummy
         ipvsadm --set 86400 120 300; sysctl -qw net.ipv4.vs.run_estimation=0",
    );
    let sign = Sign::set().expect("nobody else runs");
    let log = shell("mktemp").trim().to_owned();
    let binary = env!("CARGO_BIN_EXE_kube-ipvs");
    let mut cleanup = std::process::Command::new("sh")
        .args(["-c", &format!("exec {binary} --cleanup-own 2>{log}")])
        .spawn()
        .expect("sh can be started");
    let says = |words: &str| {
        shell(&format!(
            "for _ in $(seq 100); do grep -q '{words}' {log} && exit 0; sleep 0.1; done; cat {log}; exit 1"
        ));
    };
    says("kube-ipvs runs on this node");
    drop(sign);
    says("kube-proxy has no rules of its own for IPv4");
    assert_eq!(our_tables(), "table ip kube-ipvs\n");
    masquerade("iptables-nft");
    assert!(cleanup.wait().expect("it ends").success());
    assert_eq!(our_tables(), "");
    says("kube-proxy is not in ipvs mode here");
    // Settings that kube-proxy leaves as they are: each is named with what undoes it, until it is undone.
    let cures = ["ipvsadm --set 900 0 0", "sysctl -w net.ipv4.vs.run_estimation=1"];
    for (index, cure) in cures.iter().enumerate() {
        let (success, log) = run("", "--cleanup-own");
        assert!(success, "{log}");
        let named: Vec<_> = cures.iter().filter(|cure| log.contains(&format!("with: {cure}\""))).collect();
        assert_eq!(named, cures[index..].iter().collect::<Vec<_>>(), "{log}");
        shell(cure);
    }
    assert_eq!(shell("ipvsadm -l --timeout").trim(), "Timeout (tcp tcpfin udp): 900 120 300");
    let (_, log) = run("", "--cleanup-own");
    assert!(!log.contains("with: "), "{log}");
    // What the configuration asks for is nobody's mistake.
    shell("ipvsadm --set 7200 0 0");
    let (_, log) = run("", "--cleanup-own --ipvs-tcp-timeout 2h");
    assert!(!log.contains("with: "), "{log}");
}

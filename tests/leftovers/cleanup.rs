//! `--cleanup` and `--cleanup-own`.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use kube_ipvs::cluster::types::Family;
use kube_ipvs::leftovers::cleanup::{clean_all, clean_own};
use kube_ipvs::leftovers::running::Sign;
use kube_ipvs::leftovers::takeover::ForwardWatch;

use crate::lab::{self, Test, shell, try_shell};
use crate::{MARK, accepts, install_our_rules, leave, said};

/// All tests of this file.
pub(crate) const TESTS: &[Test] = lab::tests![
    without_programs_leftovers_are_named_and_the_rest_goes,
    where_iptables_has_nothing_no_program_is_started,
    what_is_ours_stays_until_kube_proxy_has_rules_in_each_family,
    rules_of_any_mode_are_rules,
    what_kubelet_masquerades_is_no_rule_of_kube_proxy,
    a_node_that_kube_proxy_has_not_come_to_yet_is_not_done,
    while_the_program_runs_no_cleanup_removes_anything,
    names_that_others_chose_keep_no_cleanup_from_anything,
    a_cleanup_waits_a_moment_for_the_program_to_end,
    the_way_back_waits_for_kube_proxy,
    one_that_stays_cleans_up_after_a_switch_that_came_later,
    a_cleanup_that_waits_ends_when_it_is_told_to,
    a_right_that_is_missing_is_told_while_the_program_still_runs,
    what_tells_whose_virtual_servers_are_stays_as_long_as_they_do,
];

/// Runs this build with its own view of `/usr/sbin`, which these lines set up.
pub(crate) fn run(lines: &str, arguments: &str) -> (bool, String) {
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
    // nftables tables that are not of iptables; iptables' programs are replaced by one that records its calls.
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
    // The counter-check: a call would have been recorded.
    shell("iptables-nft -N SOMETHING");
    run(lines, "--cleanup");
    assert!(shell(&format!("cat {told}")).contains("called"));
}

/// The state after kube-proxy's first sync, of mode ipvs or iptables.
fn masquerade(tool: &str) {
    kubelet_masquerades(tool);
    shell(&format!(
        "{tool} -t nat -N KUBE-SERVICES; {tool} -t nat -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j RETURN"
    ));
}

/// What kubelet creates at its start, before 1.27.
fn kubelet_masquerades(tool: &str) {
    shell(&format!(
        "{tool} -t nat -N KUBE-POSTROUTING
         {tool} -t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
         {tool} -t nat -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
         {tool} -t nat -A KUBE-POSTROUTING -j MASQUERADE"
    ));
}

const OUR_TABLES: &str = "table ip kube-ipvs\ntable ip6 kube-ipvs\n";

fn our_tables() -> String {
    shell("nft list tables | grep kube-ipvs; true")
}

fn no_rules_for(families: &str) -> String {
    format!(
        "failed cleanup: kube-proxy has no rules of its own for {families} on this node, which it \
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
    // kube-proxy starts: it creates chains first, and fills them when everything else exists.
    for tool in ["iptables-nft", "ip6tables-legacy"] {
        shell(&format!("{tool} -t nat -N KUBE-POSTROUTING; {tool} -t nat -N KUBE-SERVICES"));
    }
    assert_eq!(said(&clean_own()), [no_rules_for("IPv4 and IPv6")]);
    let sync = |tool: &str| {
        shell(&format!(
            "{tool} -t nat -A KUBE-POSTROUTING -j MASQUERADE; {tool} -t nat -A KUBE-SERVICES -j RETURN"
        ));
    };
    sync("iptables-nft");
    assert_eq!(
        said(&clean_own()),
        [no_rules_for("IPv6")],
        "the second family is written after the first one"
    );
    assert_eq!((our_tables().as_str(), accepts("iptables-nft")), (OUR_TABLES, 1));

    sync("ip6tables-legacy");
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
    // This also works where iptables' programs do not print the rules.
    install_our_rules(Family::V4, &[]);
    masquerade("iptables-nft");
    shell(
        "nft add chain ip nat OTHERS; nft add rule ip nat OTHERS fib daddr type local tcp dport 8080 return",
    );
    assert!(!shell("iptables-nft-save").contains("MASQUERADE"));
    assert_eq!(said(&clean_own()), ["removed nftables tables: ip kube-ipvs"]);
}

/// kubelet starts with the node, and kube-proxy may start much later.
fn what_kubelet_masquerades_is_no_rule_of_kube_proxy() {
    install_our_rules(Family::V4, &[]);
    for tool in ["iptables-legacy", "iptables-nft"] {
        kubelet_masquerades(tool);
        assert_eq!(said(&clean_own()), [no_rules_for("IPv4")], "{tool}");
        // kube-proxy has begun.
        shell(&format!("{tool} -t nat -N KUBE-SERVICES"));
        assert_eq!(said(&clean_own()), [no_rules_for("IPv4")], "{tool}");
        shell(&format!("{tool} -t nat -F; {tool} -t nat -X"));
    }
}

/// As where neither program has begun: kube-ipvs may still come first.
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
    let expected = ["failed cleanup: kube-ipvs runs on this node and would write it again: stop it first"];
    assert_eq!(said(&clean_own()), expected);
    assert_eq!(said(&clean_all(&[])), expected);
    shell("ip link show kube-ipvs0; nft list table ip kube-ipvs; iptables-nft -t nat -S KUBE-POSTROUTING");
    drop(sign);
    assert!(clean_own().is_complete());
    assert!(clean_all(&[]).is_complete());
    assert!(!try_shell("ip link show kube-ipvs0").0);
}

/// Names of Unix sockets are arbitrary bytes.
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

/// The program may just have been told to end.
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
         ipvsadm --set 86400 120 300; sysctl -qw net.ipv4.vs.sloppy_sctp=1 net.ipv4.vs.run_estimation=0",
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
    says("kube-proxy does not run in ipvs mode on this node");
    // Settings that kube-proxy leaves as they are: each is named with its remedy until that is applied.
    let cures = [
        "ipvsadm --set 900 0 0",
        "sysctl -w net.ipv4.vs.sloppy_sctp=0",
        "sysctl -w net.ipv4.vs.run_estimation=1",
    ];
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
    // A value that the configuration asks for is no mistake.
    shell("ipvsadm --set 7200 0 0");
    let (_, log) = run("", "--cleanup-own --ipvs-tcp-timeout 2h");
    assert!(!log.contains("with: "), "{log}");
}

/// A running cleanup, and its log.
struct Running {
    process: std::process::Child,
    log: String,
}

impl Running {
    /// Starts it as the first process of a pid namespace, as in a container: signals that it does not handle do not end
    /// it.
    fn start(flag: &str) -> Self {
        Self::start_with("", flag)
    }

    /// Does the same through another program.
    fn start_with(starter: &str, flag: &str) -> Self {
        let log = shell("mktemp").trim().to_owned();
        let binary = env!("CARGO_BIN_EXE_kube-ipvs");
        let command = format!("exec unshare --pid --fork --mount-proc {starter} {binary} {flag} 2>{log}");
        let process =
            std::process::Command::new("sh").args(["-c", &command]).spawn().expect("sh can be started");
        Self { process, log }
    }

    /// Waits until the log has these words this many times.
    fn says(&self, words: &str, times: u32) {
        let log = &self.log;
        shell(&format!(
            "for _ in $(seq 100); do [ $(grep -c '{words}' {log}) = {times} ] && exit 0; sleep 0.1; done; cat {log}; exit 1"
        ));
    }

    /// Sends SIGTERM, and returns the exit status.
    fn terminate(mut self) -> Option<i32> {
        let parent = self.process.id();
        shell(&format!("kill -TERM $(pgrep -P {parent})"));
        for _ in 0..50 {
            if let Some(status) = self.process.try_wait().expect("a child") {
                return status.code();
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("it does not end: {}", shell(&format!("cat {}", self.log)));
    }
}

/// A rollout continues although the way back has begun: this node switches after its cleanup had nothing to do, and
/// goes back.
fn one_that_stays_cleans_up_after_a_switch_that_came_later() {
    masquerade("iptables-nft");
    let cleanup = Running::start("--cleanup-own-stay");
    cleanup.says("Nothing to remove", 1);
    let sign = Sign::set().expect("nobody else runs");
    install_our_rules(Family::V4, &[]);
    shell("iptables-nft -t nat -F; iptables-nft -t nat -X");
    cleanup.says("kube-ipvs runs on this node", 1);
    drop(sign);
    cleanup.says("kube-proxy has no rules of its own for IPv4", 1);
    assert_eq!(our_tables(), "table ip kube-ipvs\n");
    masquerade("iptables-nft");
    cleanup.says("Removed.*ip kube-ipvs", 1);
    assert_eq!(our_tables(), "");
    // The cleanup is still there.
    install_our_rules(Family::V6, &[]);
    cleanup.says("kube-proxy has no rules of its own for IPv6", 1);
    assert_eq!(our_tables(), "table ip6 kube-ipvs\n");
    assert_eq!(cleanup.terminate(), Some(0));
}

fn a_cleanup_that_waits_ends_when_it_is_told_to() {
    install_our_rules(Family::V4, &[]);
    let cleanup = Running::start("--cleanup-own");
    cleanup.says("Waiting, and trying again", 1);
    assert_eq!(cleanup.terminate(), Some(1), "it is not done");
    assert_eq!(our_tables(), "table ip kube-ipvs\n");
}

/// `SELinux` and a missing capability lead to the same refusal; this must show before the serving program has ended.
fn a_right_that_is_missing_is_told_while_the_program_still_runs() {
    let _sign = Sign::set().expect("nobody else runs");
    let cleanup = Running::start_with("setpriv --bounding-set=-net_admin", "--cleanup-own");
    cleanup.says("nftables.*Operation not permitted", 1);
    assert_eq!(cleanup.terminate(), Some(1));
}

/// Otherwise the next run would take them for others', and report that there is nothing to remove.
fn what_tells_whose_virtual_servers_are_stays_as_long_as_they_do() {
    shell(
        "ip link add kube-ipvs0 type dummy; ip addr add 10.96.0.1/32 dev kube-ipvs0; ipvsadm -A -t 10.96.0.1:443 -s rr",
    );
    install_our_rules(Family::V4, &[]);
    let binary = env!("CARGO_BIN_EXE_kube-ipvs");
    // Nothing can be removed here; the test is about what is not tried.
    let (success, log) = try_shell(&format!("setpriv --bounding-set=-net_admin {binary} --cleanup"));
    assert!(!success && log.contains("which of the remaining virtual servers are ours"), "{log}");
    for left in ["\"device kube-ipvs0\" err=", "\"nftables table ip kube-ipvs\" err="] {
        assert!(!log.contains(left), "{left}:\n{log}");
    }
    let (success, log) = run("", "--cleanup");
    assert!(success && log.contains("10.96.0.1:443") && log.contains("ip kube-ipvs"), "{log}");
    assert!(!try_shell("ip link show kube-ipvs0").0);
    assert_eq!((shell("ipvsadm -Sn").trim(), our_tables().as_str()), ("", ""));
}

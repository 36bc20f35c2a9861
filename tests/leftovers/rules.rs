//! kube-proxy's chains, jumps and sets: what is removed, when, and what others use.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kube_ipvs::cluster::types::Family;
use kube_ipvs::leftovers::report::Finding;
use kube_ipvs::leftovers::takeover::{Takeover, take_over};

use crate::lab::{self, Test, shell};
use crate::{MARK, TOOLS, install_our_rules, leave, said, take_over_unguarded};

/// All tests of this file.
pub(crate) const TESTS: &[Test] = lab::tests![
    without_our_own_rules_nothing_is_removed,
    a_family_whose_rules_come_later_is_taken_over_then,
    a_family_that_is_written_later_is_taken_over_then,
    what_others_use_stays_and_is_named,
    what_others_may_mark_by_stays,
    a_set_that_is_given_up_late_goes,
    thousands_of_chains_go_soon,
];

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
    // What one family lacks does not affect the other one.
    let report = take_over(MARK, &BTreeSet::from([Family::V6]), &BTreeSet::from([Family::V6]), &[]);
    let left = shell("iptables-nft-save; ipset save").replace("KUBE-MARK-MASQ", "");
    assert!(!left.contains("KUBE-"), "{report:?}");
    assert!(shell("ip6tables-legacy-save").contains("KUBE-SERVICES"), "{report:?}");
}

fn a_family_whose_rules_come_later_is_taken_over_then() {
    takes_over_one_family_after_the_other(false);
}

fn a_family_that_is_written_later_is_taken_over_then() {
    takes_over_one_family_after_the_other(true);
}

/// The takeover looks at the node ports only when all rules stand and everything is written; until then their sets
/// stay.
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
             {tool} -t nat -N KUBE-NODE-PORT; {tool} -t nat -A OTHERS -p tcp -j KUBE-NODE-PORT
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
            "iptables-legacy nat chain KUBE-NODE-PORT",
            "iptables-nft nat chain KUBE-NODE-PORT",
            "ipset KUBE-CLUSTER-IP"
        ]
    );
    for tool in ["iptables-legacy", "iptables-nft"] {
        let rules = shell(&format!("{tool}-save"));
        assert!(rules.contains("-A KUBE-MARK-MASQ -j MARK") && !rules.contains("KUBE-SERVICES"), "{rules}");
    }
    assert_eq!(shell("ipset list -n").trim(), "KUBE-CLUSTER-IP");
}

/// Nothing refers to it at that moment; a pod with a host port may come later, whose CNI plugin jumps to it.
fn what_others_may_mark_by_stays() {
    for tool in TOOLS {
        leave(tool);
    }
    let report = take_over_unguarded();
    assert!(report.is_complete() && report.findings.len() == 2 * TOOLS.len(), "{report:?}");
    for tool in TOOLS {
        shell(&format!(
            "{tool} -t nat -N CNI-HOSTPORT-SETMARK; {tool} -t nat -A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ"
        ));
        let marks = shell(&format!("{tool} -t nat -S KUBE-MARK-MASQ"));
        assert!(marks.ends_with("-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n"), "{tool}: {marks}");
    }
    assert_eq!(said(&take_over_unguarded()), [""; 0], "the second time");
    // With another masquerade bit of ours, nobody who serves here uses the bit of this chain.
    let all = Family::ALL.into();
    for family in Family::ALL {
        install_our_rules(family, &[]);
    }
    shell("iptables-nft -t nat -F CNI-HOSTPORT-SETMARK");
    let report = take_over(MARK << 1, &all, &all, &[]);
    assert!(
        said(&report).contains(&"removed iptables-nft nat chains: KUBE-MARK-MASQ".to_owned()),
        "{report:?}"
    );
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
            "removed iptables-legacy nat chains: KUBE-SERVICES",
            "removed ipsets: KUBE-CLUSTER-IP",
        ]
    );
}

/// As kube-proxy's iptables mode leaves them: iptables-nft's own program needs minutes for so many.
fn thousands_of_chains_go_soon() {
    const COUNT: usize = 20_000;
    leave("iptables-nft");
    let letter = |digit: u8| char::from(digit - b'0' + b'A');
    let names = (0..COUNT).map(|number| format!("{number:016}").bytes().map(letter).collect::<String>());
    let names: Vec<String> = names.map(|name| format!("KUBE-SVC-{name}")).collect();
    let mut script = String::new();
    for name in &names {
        writeln!(script, "add chain ip nat {name}").expect("a string takes everything");
    }
    for name in &names {
        writeln!(script, "add rule ip nat KUBE-SERVICES counter jump {name}")
            .expect("a string takes everything");
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), script).expect("written");
    shell(&format!("nft -f {}", file.path().display()));
    let begun = Instant::now();
    let report = take_over_unguarded();
    assert!(report.is_complete(), "{:?}", said(&report));
    assert!(!shell("nft list table ip nat").contains("KUBE-S"));
    assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
}

//! What kube-proxy leaves in the kernel, piece by piece: what is removed, what stays, and what is reported.

#[path = "leftovers/back.rs"]
mod back_again;
#[path = "leftovers/cleanup.rs"]
mod cleanup;
#[path = "leftovers/forward.rs"]
mod forward;
#[path = "common/lab.rs"]
mod lab;
#[path = "leftovers/node_ports.rs"]
mod node_ports;
#[path = "leftovers/rules.rs"]
mod rules;
#[path = "leftovers/unprinted.rs"]
mod unprinted;

use std::collections::BTreeSet;

use kube_ipvs::cluster::types::Family;
use kube_ipvs::diff::Step;
use kube_ipvs::kernel::Outcome;
use kube_ipvs::kernel::ipvs::Ipvs;
use kube_ipvs::kernel::nft::Tables;
use kube_ipvs::leftovers::foresee::foresee;
use kube_ipvs::leftovers::report::Report;
use kube_ipvs::leftovers::takeover::take_over;
use kube_ipvs::state::{Element, RuleSettings, State};

use lab::{shell, try_shell};

pub(crate) const MARK: u32 = 0x4000;

fn main() -> std::process::ExitCode {
    let all = [
        forward::TESTS,
        rules::TESTS,
        unprinted::TESTS,
        node_ports::TESTS,
        cleanup::TESTS,
        back_again::TESTS,
    ];
    lab::run(&all.concat())
}

/// Takes over as if our rules stood: it is told that no family lacks them. If nothing fails, the result is what was
/// foreseen.
pub(crate) fn take_over_unguarded() -> Report {
    let servers = Ipvs::open().expect("a socket").list().expect("all virtual servers");
    let servers = servers.into_keys().collect();
    let (foreseen, _) = foresee(MARK, &[], &State::default(), &servers);
    assert_eq!(foresee(MARK, &[], &State::default(), &servers).0, foreseen, "nothing has changed");
    let report = take_over(MARK, &BTreeSet::new(), &BTreeSet::new(), &[]);
    // Whether others' rules refer to a set shows only in the attempt.
    let said = |report: &Report| {
        let said = said(report).into_iter();
        said.filter(|line| !line.contains("ipset")).collect::<Vec<_>>()
    };
    if report.is_complete() {
        assert_eq!(said(&foreseen), said(&report));
    }
    report
}

pub(crate) fn said(report: &Report) -> Vec<String> {
    report.findings.iter().map(ToString::to_string).collect()
}

/// The report about what kube-proxy made after the takeover.
pub(crate) fn back(signs: &str) -> String {
    format!(
        "back rules of kube-proxy that came after the takeover ({signs}): end kube-proxy on this node, then restart \
         kube-ipvs, which removes them"
    )
}

pub(crate) fn accepts(tool: &str) -> usize {
    let rules = shell(&format!("{tool}-save"));
    rules
        .lines()
        .filter(|line| line.starts_with("-A FORWARD") && line.ends_with("-j KUBE-IPVS-FORWARD"))
        .count()
}

pub(crate) const TOOLS: [&str; 4] = ["iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft"];

/// An iptables program that is replaced by a script until this is dropped.
pub(crate) struct Fake;

impl Fake {
    /// Its folder, which comes first in `PATH`.
    const FOLDER: &str = "/usr/local/sbin";

    /// A program that fails, whatever it is asked for.
    fn failing(program: &str) -> Self {
        Self::new(program, "echo 'the lock is held' >&2; exit 4")
    }

    pub(crate) fn new(program: &str, script: &str) -> Self {
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

pub(crate) const CHAINS: &str = r#"*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SERVICES -j KUBE-MARK-MASQ
COMMIT
"#;

pub(crate) fn leave(tool: &str) {
    shell(&format!("{tool}-restore --noflush <<'END'\n{CHAINS}END\n"));
}

/// Creates the table of a family, with these elements.
pub(crate) fn install_our_rules(family: Family, elements: &[Element]) {
    let settings =
        RuleSettings { masquerade_mark: MARK, masquerade_all: false, inside: None, node_address: None };
    let step = Step::InstallRules(family, settings, elements.to_vec());
    let outcomes = Tables::open().expect("a socket").apply(&[&step]);
    assert_eq!(outcomes, [Outcome::Done]);
}

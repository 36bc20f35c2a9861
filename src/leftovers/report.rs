//! What became of leftovers: for the log, and for an exit status.

use std::fmt;

/// How many names a log line holds; more are counted.
const NAMED: usize = 20;

/// One thing that was done, left, or failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// These were removed.
    Removed {
        /// Where and what: `iptables-legacy nat chains`.
        what: String,
        /// Their names.
        names: Vec<String>,
    },
    /// This was added.
    Added(String),
    /// These are gone, and nobody makes them again though they were of use.
    Lost {
        /// Where.
        what: String,
        /// Which.
        rules: Vec<String>,
    },
    /// This is kube-proxy's, and stays for a reason that is no failure.
    Kept {
        /// Where and what.
        what: String,
        /// The reason.
        why: String,
    },
    /// This should have been done, and cannot be as long as the programs for it are not there.
    OutOfReach {
        /// Where and what.
        what: String,
        /// The reason.
        why: String,
    },
    /// This should have been done, and was not.
    Failed {
        /// Where and what.
        what: String,
        /// The reason.
        why: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed { what, names } => write!(f, "removed {what}: {}", names.join(", ")),
            Self::Added(what) => write!(f, "added {what}"),
            Self::Lost { what, rules } => write!(f, "lost in {what}: {}", rules.join(", ")),
            Self::Kept { what, why } => write!(f, "left {what}: {why}"),
            Self::OutOfReach { what, why } | Self::Failed { what, why } => write!(f, "failed {what}: {why}"),
        }
    }
}

/// All that was found, in the order in which it was dealt with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One by one.
    pub findings: Vec<Finding>,
    /// The iptables (`iptables-nft`) whose FORWARD drops what endpoints answer, because no accept for it could be made.
    pub drops_replies: Vec<String>,
}

impl Report {
    /// Whether nothing failed.
    pub fn is_complete(&self) -> bool {
        self.failures().next().is_none()
    }

    /// Whether something failed that may not fail the next time.
    pub fn is_worth_another_try(&self) -> bool {
        self.findings.iter().any(|finding| matches!(finding, Finding::Failed { .. }))
    }

    /// What failed, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.findings.iter().filter_map(|finding| match finding {
            Finding::OutOfReach { what, why } | Finding::Failed { what, why } => Some((&**what, &**why)),
            _ => None,
        })
    }

    /// Whether nothing will have changed before what can be seen without programs changes. A rule of somebody's that accepts what is
    /// dropped cannot.
    pub(super) fn waits_for_programs(&self) -> bool {
        !self.is_worth_another_try() && self.drops_replies.is_empty()
    }

    /// What stays as it is until there are programs for it.
    pub(super) fn out_of_reach_only(mut self) -> Self {
        self.findings.retain(|finding| matches!(finding, Finding::OutOfReach { .. }));
        self
    }

    fn news(&self, before: &Self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| {
            let lasts =
                matches!(finding, Finding::Kept { .. } | Finding::OutOfReach { .. } | Finding::Failed { .. });
            !(lasts && before.findings.contains(finding))
        })
    }

    pub(super) fn removed(&mut self, what: impl Into<String>, names: Vec<String>) {
        if !names.is_empty() {
            self.findings.push(Finding::Removed { what: what.into(), names });
        }
    }

    pub(super) fn lost(&mut self, what: impl Into<String>, rules: Vec<String>) {
        if !rules.is_empty() {
            self.findings.push(Finding::Lost { what: what.into(), rules });
        }
    }

    pub(super) fn added(&mut self, what: impl Into<String>) {
        self.findings.push(Finding::Added(what.into()));
    }

    pub(super) fn kept(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.findings.push(Finding::Kept { what: what.into(), why: why.into() });
    }

    pub(crate) fn failed(&mut self, what: impl Into<String>, why: impl fmt::Display) {
        self.findings.push(Finding::Failed { what: what.into(), why: why.to_string() });
    }

    pub(super) fn out_of_reach(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.findings.push(Finding::OutOfReach { what: what.into(), why: why.into() });
    }

    /// Writes it to the log.
    pub fn log(&self) {
        self.log_news(&Self::default());
    }

    /// Writes it to the log, but for what stayed or failed for the same reason `before`.
    pub fn log_news(&self, before: &Self) {
        for finding in self.news(before) {
            match finding {
                Finding::Removed { what, names } => {
                    tracing::info!(what, count = names.len(), names = named(names), "Removed");
                }
                Finding::Added(what) => tracing::info!(what, "Added"),
                Finding::Lost { what, rules } => {
                    tracing::warn!(
                        what,
                        rules = named(rules),
                        "INPUT drops what no rule accepts, and kube-proxy's accept rules for health check node ports \
                         are gone: if those ports are in use, add an accept rule of your own"
                    );
                }
                Finding::Kept { what, why } => {
                    tracing::warn!(what, why, "Leaving what kube-proxy left");
                }
                Finding::OutOfReach { what, why } | Finding::Failed { what, why } => {
                    tracing::error!(what, err = why, "Cannot remove what kube-proxy left, or replace it");
                }
            }
        }
    }
}

fn named(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_reach_waits_for_programs() {
        let mut report = Report::default();
        report.added("an accept rule");
        report.out_of_reach("iptables-legacy: what may be in its tables nat", "there are no programs");
        assert!(!report.is_complete() && !report.is_worth_another_try());
        assert_eq!(report.clone().out_of_reach_only().findings, report.findings[1..]);
        report.failed("iptables-nft nat", "locked");
        assert!(!report.is_complete() && report.is_worth_another_try());
        let failures: Vec<_> = report.failures().collect();
        assert_eq!(
            failures,
            [
                ("iptables-legacy: what may be in its tables nat", "there are no programs"),
                ("iptables-nft nat", "locked")
            ]
        );
    }

    #[test]
    fn only_a_failure_makes_it_incomplete() {
        let mut report = Report::default();
        report.removed("ipsets", vec![]);
        assert_eq!(report, Report::default(), "nothing is not worth a line");
        report.removed("ipsets", vec!["KUBE-LOOP-BACK".to_owned()]);
        report.kept("iptables-nft nat chain KUBE-MARK-MASQ", "CNI-X -j KUBE-MARK-MASQ uses it");
        report.added("an accept rule");
        assert!(report.is_complete());
        report.failed("ipset KUBE-CLUSTER-IP", "rules refer to it");
        assert!(!report.is_complete());
        assert_eq!(report.findings[0].to_string(), "removed ipsets: KUBE-LOOP-BACK");
    }

    #[test]
    fn what_lasts_is_no_news() {
        let mut before = Report::default();
        before.added("an accept rule");
        before.kept("ipset KUBE-CLUSTER-IP", "rules refer to it");
        before.failed("ipset KUBE-LOOP-BACK", "no memory");
        assert!(before.news(&Report::default()).eq(&before.findings));
        let mut after = before.clone();
        after.failed("ipset KUBE-LOOP-BACK", "no right");
        let news: Vec<_> = after.news(&before).map(ToString::to_string).collect();
        assert_eq!(news, ["added an accept rule", "failed ipset KUBE-LOOP-BACK: no right"]);
    }

    #[test]
    fn the_log_says_what_was_done_and_why_not() {
        let (log, _listening) = crate::telemetry::tests::listen();
        let mut report = Report::default();
        report.removed("ipsets", vec!["KUBE-LOOP-BACK".to_owned()]);
        report.added("iptables-nft filter: accept rule");
        report.lost("iptables-nft filter INPUT", vec!["KUBE-NODE-PORT -j ACCEPT".to_owned()]);
        report.kept("device kube-ipvs0", "it is not a dummy");
        report.out_of_reach("iptables-legacy", "no programs");
        report.failed("cleanup", "kube-ipvs runs");
        report.log();
        let lines = log.lines_with("");
        let expected = [
            ('I', r#""Removed" what="ipsets" count=1 names="KUBE-LOOP-BACK""#),
            ('I', r#""Added" what="iptables-nft filter: accept rule""#),
            ('W', r#""INPUT drops what no rule accepts, and kube-proxy's accept rules "#),
            ('W', r#""Leaving what kube-proxy left" what="device kube-ipvs0" why="it is not a dummy""#),
            (
                'E',
                r#""Cannot remove what kube-proxy left, or replace it" what="iptables-legacy" err="no programs""#,
            ),
            (
                'E',
                r#""Cannot remove what kube-proxy left, or replace it" what="cleanup" err="kube-ipvs runs""#,
            ),
        ];
        assert_eq!(lines.len(), expected.len(), "{lines:#?}");
        for (line, (level, text)) in lines.iter().zip(expected) {
            assert!(line.starts_with(level) && line.contains(text), "{text}\n{line}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<_> = (0..23).map(|number| number.to_string()).collect();
        assert!(named(&names).ends_with("18, 19 and 3 more"), "{}", named(&names));
    }
}

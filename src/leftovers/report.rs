//! What became of leftovers: for the log and the exit status.

use std::fmt;
use std::time::Duration;

/// How many names a log line holds; the rest are only counted.
const NAMED: usize = 20;
/// How many things that kube-proxy made again are named: the remedy must still fit into a line of `/healthz`.
const TRACES_NAMED: usize = 3;

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
    /// These rules were useful, are gone, and nobody makes them again.
    Lost {
        /// In which chain.
        what: String,
        /// The rules.
        rules: Vec<String>,
    },
    /// This is kube-proxy's, and stays for a reason that is not a failure.
    Kept {
        /// Where and what.
        what: String,
        /// The reason.
        why: String,
    },
    /// A kube-proxy came after the takeover: what it made stays until somebody acts.
    Back {
        /// What it made.
        what: String,
        /// The remedy.
        why: String,
    },
    /// This should have been done, and cannot be done as long as the programs for it are missing.
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
            Self::Back { what, why } => write!(f, "back {what}: {why}"),
            Self::OutOfReach { what, why } | Self::Failed { what, why } => write!(f, "failed {what}: {why}"),
        }
    }
}

/// All findings, in the order in which the leftovers were dealt with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The findings, one by one.
    pub findings: Vec<Finding>,
    /// The places (such as `iptables-nft`) whose FORWARD drops the replies of endpoints because no accept for them
    /// could be made.
    pub drops_replies: Vec<String>,
}

impl Report {
    /// Whether nothing failed, and no kube-proxy came back.
    pub fn is_complete(&self) -> bool {
        self.failures().next().is_none()
    }

    /// Whether something failed that will be tried again.
    fn has_failed(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| matches!(finding, Finding::OutOfReach { .. } | Finding::Failed { .. }))
    }

    /// Whether a kube-proxy came back.
    fn is_back(&self) -> bool {
        self.findings.iter().any(|finding| matches!(finding, Finding::Back { .. }))
    }

    /// Whether something of kube-proxy's was left on purpose.
    pub(super) fn has_kept(&self) -> bool {
        self.findings.iter().any(|finding| matches!(finding, Finding::Kept { .. }))
    }

    /// Whether something failed that may succeed the next time.
    pub fn is_worth_another_try(&self) -> bool {
        self.findings.iter().any(|finding| matches!(finding, Finding::Failed { .. }))
    }

    /// What is not as it should be, and why: failures, and a kube-proxy that came back.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.findings.iter().filter_map(|finding| match finding {
            Finding::Back { what, why }
            | Finding::OutOfReach { what, why }
            | Finding::Failed { what, why } => Some((&**what, &**why)),
            _ => None,
        })
    }

    /// Keeps only what stays undone until the programs for it exist.
    pub(super) fn out_of_reach_only(mut self) -> Self {
        self.findings.retain(|finding| matches!(finding, Finding::OutOfReach { .. }));
        self
    }

    fn news(&self, before: &Self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| {
            let lasts =
                matches!(finding, Finding::Kept { .. } | Finding::OutOfReach { .. } | Finding::Failed { .. });
            // A kube-proxy's sets and chains appear one by one.
            let is_still_back = matches!(finding, Finding::Back { .. }) && before.is_back();
            !(is_still_back || lasts && before.findings.contains(finding))
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

    /// Reports `traces`, what kube-proxy made after the takeover, if there are any.
    pub(crate) fn back(&mut self, traces: &[String]) {
        const CURE: &str = "end kube-proxy on this node, then restart kube-ipvs, which removes them";
        if !traces.is_empty() {
            let what =
                format!("rules of kube-proxy that came after the takeover ({})", first(TRACES_NAMED, traces));
            self.findings.push(Finding::Back { what, why: CURE.to_owned() });
        }
    }

    pub(crate) fn failed(&mut self, what: impl Into<String>, why: impl fmt::Display) {
        self.findings.push(Finding::Failed { what: what.into(), why: why.to_string() });
    }

    pub(super) fn out_of_reach(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.findings.push(Finding::OutOfReach { what: what.into(), why: why.into() });
    }

    /// Logs all findings.
    pub fn log(&self) {
        self.log_news(&Self::default());
    }

    /// Logs whether failures begin or are over, compared to the report `before`; `every` is how often failures are
    /// tried again.
    pub(super) fn log_turn(&self, before: &Self, every: Duration) {
        match (before.has_failed(), self.has_failed()) {
            (false, true) => tracing::warn!(
                ?every,
                "Some leftovers of kube-proxy could not be removed or replaced, trying again"
            ),
            (true, false) => {
                tracing::info!("All leftovers of kube-proxy that failed before are now removed or replaced");
            }
            _ => {}
        }
        if before.is_back() && !self.is_back() {
            tracing::info!("What kube-proxy wrote beside kube-ipvs is removed");
        }
    }

    /// Logs the findings, except for what stayed or failed for the same reason in the report `before`.
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
                    tracing::warn!(what, why, "Not removing something that kube-proxy left");
                }
                Finding::Back { what, why } => {
                    tracing::warn!(what, cure = why, "kube-proxy was started again beside kube-ipvs");
                }
                Finding::OutOfReach { what, why } | Finding::Failed { what, why } => {
                    tracing::error!(what, err = why, "Cannot remove what kube-proxy left, or replace it");
                }
            }
        }
    }
}

fn named(names: &[String]) -> String {
    first(NAMED, names)
}

/// The first of these names, and how many more there are.
fn first(shown: usize, names: &[String]) -> String {
    let more = names.len().saturating_sub(shown);
    let shown = names[..names.len() - more].join(", ");
    match more {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests;

//! Brings tables of iptables-nft that its programs do not print into the form of printed ones. Pure.
//!
//! A single rule that `nft` added in a form of its own is enough (`ct state established accept`): `iptables-nft-save`
//! then prints, instead of the table, a comment that it is incompatible, and exits successfully. kube-proxy's rules are
//! in force all the same. They are read over netlink, and put into words here as far as is needed to distinguish a jump
//! from somebody's use of a chain.

use super::iptables_save::{Chain, Rule, Table};
use crate::kernel::nft::whole_tables::{Contents, FoundRule, FoundStep};

/// Stands for the arguments of a match of iptables.
pub(super) const SOMETHING: &str = "...";

/// The table in the form of a printed one.
pub(super) fn table(name: &str, contents: &Contents) -> Table {
    let chains = contents.chains.iter().map(|chain| Chain {
        name: chain.name.clone(),
        policy: chain.is_base.then(|| if chain.drops { "DROP" } else { "ACCEPT" }.to_owned()),
    });
    Table {
        name: name.to_owned(),
        chains: chains.collect(),
        rules: contents.rules.iter().map(rule).collect(),
        printed: false,
    }
}

/// A rule in words. Expressions that are not those of iptables are in brackets.
pub(super) fn rule(found: &FoundRule) -> Rule {
    let words: Vec<String> = found.steps.iter().flat_map(words).collect();
    let text = words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    Rule { chain: found.chain.clone(), text, words }
}

fn words(step: &FoundStep) -> Vec<String> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match step {
        FoundStep::Counter => Vec::new(),
        FoundStep::Accept => words(&["-j", "ACCEPT"]),
        FoundStep::Drop => words(&["-j", "DROP"]),
        FoundStep::Return => words(&["-j", "RETURN"]),
        FoundStep::Jump(chain) => words(&["-j", chain]),
        FoundStep::GoTo(chain) => words(&["-g", chain]),
        FoundStep::Target(name) => words(&["-j", name]),
        FoundStep::Match { name, info, .. } if name == "comment" => {
            let text = info.split(|byte| *byte == 0).next().unwrap_or_default();
            words(&["-m", "comment", "--comment", &String::from_utf8_lossy(text)])
        }
        FoundStep::Match { name, revision, info } if name == "conntrack" && is_new(*revision, info) => {
            words(&["-m", "conntrack", "--ctstate", "NEW"])
        }
        FoundStep::Match { name, .. } => words(&["-m", name, SOMETHING]),
        FoundStep::Other(name) if name == "reject" => words(&["-j", "REJECT"]),
        FoundStep::Other(name) => vec![format!("[{name}]")],
    }
}

/// Whether `struct xt_conntrack_mtinfo2` or `mtinfo3` matches new connections, and checks nothing else.
fn is_new(revision: u32, info: &[u8]) -> bool {
    const MATCH_FLAGS: usize = 146;
    const INVERT_FLAGS: usize = 148;
    const STATE_MASK: usize = 150;
    /// `XT_CONNTRACK_STATE`.
    const STATE: u16 = 1;
    /// `XT_CONNTRACK_STATE_BIT(IP_CT_NEW)`.
    const NEW: u16 = 8;
    let number = |at: usize| Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().ok()?));
    matches!(revision, 2 | 3)
        && [MATCH_FLAGS, INVERT_FLAGS, STATE_MASK].map(number) == [STATE, 0, NEW].map(Some)
}

/// Quotes a word as `iptables-save` prints it.
fn quoted(word: &str) -> String {
    if word.is_empty() || word.contains([' ', '"', '\\', '\'']) {
        format!("\"{}\"", word.replace('\\', r"\\").replace('"', "\\\""))
    } else {
        word.to_owned()
    }
}

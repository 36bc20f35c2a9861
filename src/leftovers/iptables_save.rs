//! Reads what `iptables-save` prints. Pure.
//!
//! ```text
//! *filter
//! :FORWARD DROP [0:0]
//! :KUBE-FORWARD - [0:0]
//! -A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
//! COMMIT
//! ```
//!
//! A rule is parsed only as far as it has to be understood, and kept as it was printed: `iptables-restore` deletes a
//! rule only if it is given in exactly these words.

use std::collections::BTreeMap;

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// `filter`, `nat`, ...
    pub(super) name: String,
    /// Its chains.
    pub(super) chains: Vec<Chain>,
    /// The rules of all chains, in order.
    pub(super) rules: Vec<Rule>,
    /// Whether the rules are in the words of `iptables-save`. If not, they were seen in another way: the words for
    /// their matches differ, and two rules with the same text need not be the same.
    pub(super) printed: bool,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: String,
    /// The policy of a built-in chain; `None`: a user-defined chain.
    pub(super) policy: Option<String>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// The chain that holds it.
    pub(super) chain: String,
    /// What follows the chain's name, as printed.
    pub(super) text: String,
    /// The same, as words without quotes.
    pub(super) words: Vec<String>,
}

impl Table {
    pub(super) fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    pub(super) fn rules_of<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(move |rule| rule.chain == chain)
    }

    /// The rules of each chain, in order: for following jumps, of which there may be tens of thousands.
    pub(super) fn rules_by_chain(&self) -> BTreeMap<&str, Vec<&Rule>> {
        let mut rules: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
        for rule in &self.rules {
            rules.entry(&rule.chain).or_default().push(rule);
        }
        rules
    }
}

impl Rule {
    /// What the rule jumps or goes to: a chain, or a verdict such as `ACCEPT`.
    pub(super) fn target(&self) -> Option<&str> {
        let mut words = self.words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-j" | "-g" => return words.next().map(String::as_str),
                // A comment may contain anything.
                "--comment" => drop(words.next()),
                _ => {}
            }
        }
        None
    }

    /// What the rule matches, apart from a comment: the words before the target, without `-m comment --comment TEXT`.
    pub(super) fn matches(&self) -> Vec<&str> {
        let mut matches = Vec::new();
        let mut words = self.words.iter().map(String::as_str).peekable();
        while let Some(word) = words.next() {
            match word {
                "-j" | "-g" => break,
                "--comment" => drop(words.next()),
                "-m" if words.peek() == Some(&"comment") => drop(words.next()),
                word => matches.push(word),
            }
        }
        matches
    }
}

/// Why a text is not what `iptables-save` prints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: \"{found}\" is not understood: {allowed} was expected")]
pub(super) struct Unreadable {
    line: usize,
    found: String,
    allowed: &'static str,
}

/// Reads the output of `iptables-save`.
///
/// # Errors
/// The first line that is not understood. A text that ends inside a table is an error too: half a table is never taken
/// for a whole one.
pub(super) fn read(text: &str) -> Result<Vec<Table>, Unreadable> {
    let mut tables = Vec::new();
    let mut open: Option<Table> = None;
    let mut count = 0;
    for (index, line) in text.lines().enumerate() {
        count = index + 1;
        let objection =
            |allowed| Unreadable { line: index + 1, found: line.escape_debug().to_string(), allowed };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some(table) = &mut open else {
            let name = line.strip_prefix('*').ok_or_else(|| objection("*TABLE"))?;
            open =
                Some(Table { name: name.to_owned(), chains: Vec::new(), rules: Vec::new(), printed: true });
            continue;
        };
        if line == "COMMIT" {
            tables.extend(open.take());
        } else if let Some(chain) = line.strip_prefix(':') {
            table.chains.push(read_chain(chain).ok_or_else(|| objection(":CHAIN POLICY"))?);
        } else {
            table.rules.push(read_rule(line).ok_or_else(|| objection("-A CHAIN RULE"))?);
        }
    }
    match open {
        None => Ok(tables),
        Some(_) => Err(Unreadable { line: count, found: String::new(), allowed: "COMMIT" }),
    }
}

fn read_chain(text: &str) -> Option<Chain> {
    let mut words = text.split_whitespace();
    let (name, policy) = (words.next()?, words.next()?);
    Some(Chain { name: name.to_owned(), policy: (policy != "-").then(|| policy.to_owned()) })
}

fn read_rule(line: &str) -> Option<Rule> {
    let rest = line.strip_prefix("-A ")?.trim_start();
    let (chain, text) = rest.split_once(' ').unwrap_or((rest, ""));
    Some(Rule { chain: chain.to_owned(), text: text.to_owned(), words: words(text)? })
}

/// Splits a text at blanks; a word in double quotes may contain blanks, and quotes behind a backslash. `None`: a quote
/// is not closed.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().push(characters.next()?),
            ' ' if !quoted => words.extend(word.take()),
            character => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    (!quoted).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# Generated by iptables-save v1.8.9 (nf_tables)
*filter
:INPUT ACCEPT [12:3456]
:FORWARD DROP [0:0]
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment \"kubernetes forwarding \\\"rules\\\" -j\" -j KUBE-FORWARD
-A FORWARD -s 10.0.0.0/8 ! -i eth0 -m comment --comment -j -g ELSEWHERE
-A KUBE-FORWARD
COMMIT
# Completed
*nat
COMMIT
";

    #[test]
    fn tables_chains_and_rules() {
        let tables = read(TEXT).expect("a readable text");
        let [filter, nat] = tables.as_slice() else { panic!("{tables:?}") };
        assert_eq!((filter.name.as_str(), nat.name.as_str()), ("filter", "nat"));
        let policy = |chain| filter.chain(chain).map(|chain| chain.policy.clone());
        assert_eq!(policy("FORWARD"), Some(Some("DROP".to_owned())));
        assert_eq!(policy("KUBE-FORWARD"), Some(None));
        assert_eq!(policy("OUTPUT"), None);
        let [first, second] = &filter.rules_of("FORWARD").collect::<Vec<_>>()[..] else {
            panic!("{tables:?}")
        };
        assert_eq!(first.words[3], "kubernetes forwarding \"rules\" -j");
        assert_eq!(
            first.text,
            r#"-m comment --comment "kubernetes forwarding \"rules\" -j" -j KUBE-FORWARD"#
        );
        assert_eq!((first.target(), first.matches()), (Some("KUBE-FORWARD"), vec![]));
        assert_eq!(second.target(), Some("ELSEWHERE"));
        assert_eq!(second.matches(), ["-s", "10.0.0.0/8", "!", "-i", "eth0"]);
        assert_eq!(filter.rules_of("KUBE-FORWARD").next().expect("a rule").target(), None);
        assert_eq!(nat, &Table { name: "nat".to_owned(), chains: vec![], rules: vec![], printed: true });
    }

    #[test]
    fn what_is_not_understood_is_an_error_and_never_nothing() {
        for (text, line, allowed) in [
            ("nonsense\n", 1, "*TABLE"),
            ("*nat\n:INPUT\nCOMMIT\n", 2, ":CHAIN POLICY"),
            ("*nat\n-I INPUT -j X\nCOMMIT\n", 2, "-A CHAIN RULE"),
            ("*nat\n-A INPUT --comment \"open\nCOMMIT\n", 2, "-A CHAIN RULE"),
            ("*nat\n:INPUT ACCEPT [0:0]\n", 2, "COMMIT"),
        ] {
            let error = read(text).expect_err("an error");
            assert_eq!((error.line, error.allowed), (line, allowed), "{text}");
        }
        assert_eq!(read("").expect("nothing"), vec![]);
    }
}

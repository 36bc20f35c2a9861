//! The accept for Services in iptables' FORWARD chain. Pure.
//!
//! Replies of endpoints to clients elsewhere are forwarded. If FORWARD drops what no rule accepts (Docker sets such a
//! policy), the replies need an accept *there*: a packet must pass every filter on its way, so an accept in a table of
//! our own does not help. kube-proxy always has such an accept, in `KUBE-FORWARD`; ours exists only if it is needed, so
//! on most nodes iptables is not touched at all.

use super::iptables_save::{Rule, Table};
use super::seen;

/// Our chain.
pub(super) const CHAIN: &str = "KUBE-IPVS-FORWARD";
/// The built-in chain that jumps to ours.
pub(super) const BUILT_IN: &str = "FORWARD";
const JUMP: &str = "-m comment --comment \"kube-ipvs: accept traffic of Services\" -j KUBE-IPVS-FORWARD";

/// What is to happen to our own rules in iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ours {
    /// This program serves: the accept exists if it is needed, and kube-proxy's chain for marking stays.
    Stays {
        /// The bit of the packet mark that stands for "masquerade this".
        mark: u32,
    },
    /// This program does not serve: all of its rules are removed.
    Goes,
}

/// Whether this is our chain.
pub(super) fn is_ours(table: &str, chain: &str) -> bool {
    (table, chain) == ("filter", CHAIN)
}

/// Whether this is the jump from the built-in chain to ours.
pub(super) fn is_jump(table: &str, from: &str, chain: &str) -> bool {
    from == BUILT_IN && is_ours(table, chain)
}

/// The rules of our chain, in the words of `iptables-save`.
fn rules(mark: u32) -> [String; 2] {
    [
        format!(
            "-m comment --comment \"kube-ipvs: marked to be masqueraded\" -m mark --mark {mark:#x}/{mark:#x} -j ACCEPT"
        ),
        "-m comment --comment \"kube-ipvs: replies of Services\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
            .to_owned(),
    ]
}

/// The lines for `iptables-restore --noflush` that make the accept, or remake it if it is damaged. Empty: the accept
/// exists, or it is not needed.
pub(super) fn missing(table: &Table, mark: u32) -> Vec<String> {
    let found = table.rules_of(CHAIN).map(|rule| &rule.text);
    let has_rules = if table.printed {
        found.eq(&rules(mark))
    } else {
        // Nobody else has a chain of this name: its existence counts, and damage is not seen.
        found.count() == rules(mark).len()
    };
    let has_jump = table.rules_of(BUILT_IN).any(|rule| rule.target() == Some(CHAIN));
    let mut lines = Vec::new();
    if !drops_the_rest(table, BUILT_IN) || has_rules && has_jump {
        return lines;
    }
    // Naming a user-defined chain like this creates or empties it.
    lines.push(format!(":{CHAIN} - [0:0]"));
    lines.extend(rules(mark).iter().map(|rule| format!("-A {CHAIN} {rule}")));
    if !has_jump {
        // At the front: the accept must come before any rule that drops.
        lines.push(format!("-I {BUILT_IN} 1 {JUMP}"));
    }
    lines
}

/// Whether FORWARD drops the replies of endpoints to clients elsewhere: it drops what no rule accepts, and no rule in
/// it or in the chains that it leads to accepts the replies. A rule that accepts by more than the connection's state,
/// the source, or interfaces of a kind (such as those of a network plugin's pods) is taken to be meant for other
/// traffic.
pub(super) fn drops_replies(table: &Table) -> bool {
    let mut reached = vec![BUILT_IN];
    let mut looked_at = 0;
    while let Some(chain) = reached.get(looked_at).copied() {
        for target in table.rules_of(chain).filter_map(Rule::target) {
            if !reached.contains(&target) {
                reached.push(target);
            }
        }
        looked_at += 1;
    }
    drops_the_rest(table, BUILT_IN)
        && !table.rules.iter().any(|rule| reached.contains(&&*rule.chain) && accepts_replies(rule))
}

fn accepts_replies(rule: &Rule) -> bool {
    // In a table that is not printed, the words say no more than this.
    let is_vague = |word: &&str| matches!(*word, "[ct]" | "[payload]" | "[bitwise]" | "[cmp]");
    rule.target() == Some("ACCEPT")
        && match rule.matches()[..] {
            ["-m", "conntrack", "--ctstate", states] | ["-m", "state", "--state", states] => {
                states.contains("ESTABLISHED")
            }
            ["-m", "conntrack" | "state", seen::SOMETHING] | ["-s", _] => true,
            ["-i", interface] => interface.ends_with('+'),
            ref others => others.iter().all(is_vague),
        }
}

/// Whether a built-in chain of table filter drops or rejects what none of its rules accepts: by its policy, or by a
/// rule that matches everything (as the default rules of some distributions do).
pub(super) fn drops_the_rest(table: &Table, built_in: &str) -> bool {
    let drops = |target: &str| matches!(target, "DROP" | "REJECT");
    table.name == "filter"
        && table.chain(built_in).is_some_and(|chain| {
            chain.policy.as_deref().is_some_and(drops)
                || table
                    .rules_of(built_in)
                    .any(|rule| rule.target().is_some_and(drops) && rule.matches().is_empty())
        })
}

#[cfg(test)]
mod tests {
    use super::super::iptables_save;
    use super::*;

    fn filter(policy: &str, rules: &str) -> Table {
        let text = format!("*filter\n:FORWARD {policy} [0:0]\n{rules}COMMIT\n");
        iptables_save::read(&text).expect("a readable text").pop().expect("a table")
    }

    #[test]
    fn it_is_made_where_forward_drops_what_is_left() {
        for (policy, rules, made) in [
            ("ACCEPT", "", false),
            ("DROP", "", true),
            ("ACCEPT", "-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n", true),
            ("ACCEPT", "-A FORWARD -m comment --comment last -j DROP\n", true),
            ("ACCEPT", "-A FORWARD -s 192.0.2.0/24 -j DROP\n", false),
            ("ACCEPT", "-A FORWARD -j SOMEWHERE\n", false),
        ] {
            assert_eq!(!missing(&filter(policy, rules), 0x4000).is_empty(), made, "{policy} {rules}");
        }
    }

    #[test]
    fn replies_are_dropped_where_nothing_accepts_them() {
        const DOCKERS: &str = "-A FORWARD -j DOCKER-FORWARD\n-A DOCKER-FORWARD -j DOCKER-CT\n\
             -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A DOCKER-FORWARD -i docker0 -j ACCEPT\n";
        let jumps =
            |accept: &str| format!("{DOCKERS}-A FORWARD -j A\n-A A -i x+ -j B\n-A B -j FORWARD\n{accept}");
        for (policy, rules, dropped) in [
            ("ACCEPT", jumps(""), false),
            ("DROP", jumps(""), true),
            ("ACCEPT", jumps("-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n"), true),
            ("DROP", jumps("-A B -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"), false),
            ("DROP", jumps("-A B -m comment --comment any -j ACCEPT\n"), false),
            ("DROP", jumps("-A A -s 10.244.0.0/16 -m comment --comment flanneld -j ACCEPT\n"), false),
            ("DROP", jumps("-A A -i lxc+ -j ACCEPT\n"), false),
            ("DROP", jumps("-A A -d 10.244.0.0/16 -j ACCEPT\n"), true),
            ("DROP", jumps("-A A -m conntrack --ctstate NEW -j ACCEPT\n"), true),
            ("DROP", jumps("-A C -m conntrack --ctstate ESTABLISHED -j ACCEPT\n"), true),
        ] {
            assert_eq!(drops_replies(&filter(policy, &rules)), dropped, "{policy} {rules}");
        }
        let made = missing(&filter("DROP", ""), 0x4000)[1..].join("\n").replace("-I FORWARD 1", "-A FORWARD");
        assert!(!drops_replies(&filter("DROP", &format!("{made}\n"))));
    }

    #[test]
    fn what_is_there_is_not_made_again_unless_it_is_damaged() {
        let all = missing(&filter("DROP", ""), 0x4000);
        let [_, marked, replies, jump] = &all[..] else { panic!("{all:?}") };
        let jump = jump.replace("-I FORWARD 1", "-A FORWARD");
        let found = |rules: &[&String]| {
            let rules: Vec<&str> = rules.iter().map(|rule| rule.as_str()).collect();
            filter("DROP", &format!("{}\n", rules.join("\n")))
        };
        assert_eq!(missing(&found(&[marked, replies, &jump]), 0x4000), [""; 0]);
        assert_eq!(missing(&found(&[marked, replies]), 0x4000), all);
        // A second jump is not made.
        assert_eq!(missing(&found(&[marked, &jump]), 0x4000), all[..3]);
        assert_eq!(missing(&found(&[marked, replies, &jump]), 0x8000).len(), 3, "another mark");
    }

    #[test]
    fn of_a_table_that_is_not_printed_the_rules_are_counted() {
        let found = |rules: &str| Table { printed: false, ..filter("DROP", rules) };
        let jump = format!("-A FORWARD {JUMP}\n");
        let ours = format!("-A {CHAIN} -j ACCEPT\n");
        assert_eq!(missing(&found(&format!("{ours}{ours}{jump}")), 0x4000), [""; 0], "whatever is in them");
        assert_eq!(missing(&found(&format!("{ours}{jump}")), 0x4000).len(), 3);
    }
}

//! The changes to a table of iptables, as data. Pure.
//!
//! All changes form one input for `iptables-restore --noflush`, which the kernel applies as a whole or not at all: at
//! no moment is there a jump without its chain, or a policy DROP in FORWARD without an accept for Services. (In
//! iptables-nft the chains, to which no jump leads any more, are removed afterwards.) For a table that is not printed,
//! only the accept is such an input, and it comes first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::forward::{self, Ours};
use super::iptables_save::{Rule, Table};
use super::names;

/// The changes to one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The table.
    pub(super) table: String,
    /// Jumps to remove, into chains that are removed: `CHAIN RULE`, as printed.
    pub(super) jumps: Vec<String>,
    /// Chains to remove, with everything in them.
    pub(super) chains: Vec<String>,
    /// Chains that would be removed if nobody else used them: each with the first rule that uses it (`CHAIN RULE`).
    pub(super) kept: BTreeMap<String, String>,
    /// The lines that make the accept for Services.
    pub(super) accept: Vec<String>,
    /// Accepts that are removed and that nobody makes again, although INPUT drops what no rule accepts: `CHAIN RULE`,
    /// as printed.
    pub(super) lost: Vec<String>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.jumps.is_empty() && self.chains.is_empty() && self.accept.is_empty()
    }

    /// The input for `iptables-restore --noflush`.
    pub(super) fn input(&self) -> String {
        let mut text = format!("*{}\n", self.table);
        let mut line = |line: std::fmt::Arguments<'_>| {
            writeln!(text, "{line}").expect("a string takes everything");
        };
        // Naming a user-defined chain like this empties it; `-X` deletes only empty chains.
        for chain in &self.chains {
            line(format_args!(":{chain} - [0:0]"));
        }
        for added in &self.accept {
            line(format_args!("{added}"));
        }
        for jump in &self.jumps {
            line(format_args!("-D {jump}"));
        }
        for chain in &self.chains {
            line(format_args!("-X {chain}"));
        }
        line(format_args!("COMMIT"));
        text
    }
}

/// Plans the changes to a table: `kube_proxys` says whether kube-proxy's chains are removed, `ours` what happens to our
/// own rules.
pub(super) fn plan(table: &Table, kube_proxys: bool, ours: Ours) -> Plan {
    let goes = |chain: &str| {
        kube_proxys && names::is_chain(&table.name, chain) && !marks_for_us(table, chain, ours)
            || ours == Ours::Goes && forward::is_ours(&table.name, chain)
    };
    let theirs: BTreeSet<&str> =
        table.chains.iter().map(|chain| chain.name.as_str()).filter(|name| goes(name)).collect();
    let is_way_in = |rule: &Rule, target: &str| {
        names::is_entered(&table.name, &rule.chain, target)
            || forward::is_jump(&table.name, &rule.chain, target)
    };

    let mut plan = Plan { table: table.name.clone(), ..Plan::default() };
    for rule in table.rules.iter().filter(|rule| !theirs.contains(rule.chain.as_str())) {
        let Some(target) = rule.target().filter(|target| theirs.contains(target)) else { continue };
        let text = text(rule);
        if is_way_in(rule, target) && is_jump(rule) {
            plan.jumps.push(text);
        } else {
            plan.kept.entry(target.to_owned()).or_insert(text);
        }
    }
    // What is used by a chain that stays also stays.
    let rules = table.rules_by_chain();
    let mut stays: BTreeSet<String> = plan.kept.keys().cloned().collect();
    while let Some(chain) = stays.pop_first() {
        for rule in rules.get(&*chain).into_iter().flatten() {
            if let Some(target) = rule.target().filter(|target| theirs.contains(target))
                && !plan.kept.contains_key(target)
            {
                plan.kept.insert(target.to_owned(), text(rule));
                stays.insert(target.to_owned());
            }
        }
    }
    plan.chains =
        theirs.into_iter().filter(|chain| !plan.kept.contains_key(*chain)).map(str::to_owned).collect();
    if let Ours::Stays { mark } = ours {
        plan.accept = forward::missing(table, mark);
        plan.lost = lost(table, &plan.chains);
    }
    plan
}

/// Whether a chain does nothing but set the bit that we obey. CNI plugins that are configured with its name (portmap's
/// `externalSetMarkChain`) jump to it for pods with host ports, and do not create it: without it, new pods of this kind
/// do not start.
fn marks_for_us(table: &Table, chain: &str, ours: Ours) -> bool {
    let Ours::Stays { mark } = ours else { return false };
    let bit = format!("{mark:#x}/{mark:#x}");
    // In a table that is not printed, the bit cannot be seen.
    let words: &[&str] = if table.printed { &["-j", "MARK", "--set-xmark", &bit] } else { &["-j", "MARK"] };
    (&*table.name, chain) == ("nat", names::MARK) && table.rules_of(chain).map(|rule| &rule.words).eq([words])
}

/// The accepts for traffic to the node itself in chains that are removed, if that traffic is dropped without them.
/// kube-proxy has them for health check node ports. An accept of ours would have to be made anew with each Service that
/// has such a port, and with iptables' own programs.
fn lost(table: &Table, chains: &[String]) -> Vec<String> {
    const INPUT: &str = "INPUT";
    if !forward::drops_the_rest(table, INPUT) {
        return Vec::new();
    }
    let goes = |rule: &Rule| rule.target().is_some_and(|target| chains.iter().any(|chain| chain == target));
    let entered = table.rules_of(INPUT).filter(|rule| goes(rule)).filter_map(Rule::target);
    let rules = entered.flat_map(|chain| table.rules_of(chain));
    rules.filter(|rule| rule.target() == Some("ACCEPT")).map(text).collect()
}

/// A rule as text, with its chain.
pub(super) fn text(rule: &Rule) -> String {
    format!("{} {}", rule.chain, rule.text)
}

/// Whether a rule is a jump of the kind that kube-proxy (or this program) makes: it matches everything, or new
/// connections, or an address of the node as the destination. A rule that looks at more belongs to somebody who uses
/// the chain.
fn is_jump(rule: &Rule) -> bool {
    matches!(
        rule.matches()[..],
        [] | ["-m", "conntrack", "--ctstate", "NEW"]
            | ["-m", "state", "--state", "NEW"]
            | ["-m", "addrtype", "--dst-type", "LOCAL"]
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    use super::super::iptables_save;
    use super::*;

    fn table(text: &str) -> Table {
        let tables = iptables_save::read(text).expect("a readable text");
        tables.into_iter().next().expect("a table")
    }

    const IPVS_MODE: &str = r#"*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A INPUT -j KUBE-FIREWALL
-A INPUT -i eth0 -j DOCKER
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set KUBE-IPVS-IPS dst -j REJECT --reject-with icmp-port-unreachable
-A KUBE-PROXY-FIREWALL -m set --match-set KUBE-LOAD-BALANCER-FW dst,dst -j KUBE-SOURCE-RANGES-FIREWALL
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
COMMIT
"#;

    #[test]
    fn kube_proxys_chains_go_with_their_jumps_and_the_accept_comes_in_the_same_transaction() {
        let plan = plan(&table(IPVS_MODE), true, Ours::Stays { mark: 0x4000 });
        assert_eq!(plan.kept, BTreeMap::new());
        assert_eq!(
            plan.input(),
            r#"*filter
:KUBE-FORWARD - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
:KUBE-IPVS-FORWARD - [0:0]
-A KUBE-IPVS-FORWARD -m comment --comment "kube-ipvs: marked to be masqueraded" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-IPVS-FORWARD -m comment --comment "kube-ipvs: replies of Services" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-I FORWARD 1 -m comment --comment "kube-ipvs: accept traffic of Services" -j KUBE-IPVS-FORWARD
-D INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-D FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-D FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-X KUBE-FORWARD
-X KUBE-IPVS-FILTER
-X KUBE-PROXY-FIREWALL
-X KUBE-SOURCE-RANGES-FIREWALL
COMMIT
"#
        );
    }

    #[test]
    fn accepts_that_are_missed_where_input_drops_are_named() {
        let health = r#"KUBE-NODE-PORT -m comment --comment "health checks" -m set --match-set KUBE-HEALTH-CHECK-NODE-PORT dst -j ACCEPT"#;
        let lost = |policy: &str, jump: &str, ours| {
            let text = format!(
                "*filter\n:INPUT {policy} [0:0]\n:FORWARD ACCEPT [0:0]\n:KUBE-NODE-PORT - [0:0]\n{jump}-A {health}\nCOMMIT\n"
            );
            plan(&table(&text), true, ours).lost
        };
        let (jump, stays) = ("-A INPUT -j KUBE-NODE-PORT\n", Ours::Stays { mark: 0x4000 });
        assert_eq!(lost("DROP", jump, stays), [health]);
        assert_eq!(lost("ACCEPT", jump, stays), [""; 0], "it comes in without");
        assert_eq!(lost("DROP", "", stays), [""; 0], "it did not come in before");
        assert_eq!(lost("DROP", jump, Ours::Goes), [""; 0], "nobody serves there any more");
    }

    #[test]
    fn a_table_without_leftovers_is_left_alone() {
        let plan = plan(&table(IPVS_MODE), false, Ours::Goes);
        assert!(plan.is_empty(), "{plan:?}");
    }

    #[test]
    fn what_others_use_stays_and_what_that_uses_too() {
        let table = table(
            r#"*nat
:PREROUTING ACCEPT [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-NPX46M4PTMTKRN6Y - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -s 10.9.0.0/16 -j KUBE-NODE-PORT
-A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -g KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODE-PORT -j KUBE-SVC-NPX46M4PTMTKRN6Y
-A KUBE-SERVICES -j KUBE-MARK-MASQ
COMMIT
"#,
        );
        let plan = plan(&table, true, Ours::Goes);
        assert_eq!(plan.chains, ["KUBE-SERVICES"]);
        assert_eq!(plan.jumps.len(), 1);
        let kept: Vec<(&str, &str)> = plan.kept.iter().map(|(chain, by)| (&**chain, &**by)).collect();
        assert_eq!(
            kept,
            [
                (
                    "KUBE-MARK-MASQ",
                    "CNI-HOSTPORT-SETMARK -m comment --comment \"CNI portfwd masquerade mark\" -g KUBE-MARK-MASQ"
                ),
                ("KUBE-NODE-PORT", "PREROUTING -s 10.9.0.0/16 -j KUBE-NODE-PORT"),
                ("KUBE-SVC-NPX46M4PTMTKRN6Y", "KUBE-NODE-PORT -j KUBE-SVC-NPX46M4PTMTKRN6Y"),
            ]
        );
    }

    #[test]
    fn the_chain_that_sets_our_bit_stays_where_somebody_serves() {
        const OURS: &str = "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n";
        let goes = |rules: &str, ours, printed| {
            let text = format!(
                "*nat\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -j KUBE-MARK-MASQ\n{rules}COMMIT\n"
            );
            let plan = plan(&Table { printed, ..table(&text) }, true, ours);
            assert_eq!(plan.kept, BTreeMap::new(), "nobody is told");
            plan.chains.contains(&"KUBE-MARK-MASQ".to_owned())
        };
        let stays = Ours::Stays { mark: 0x4000 };
        assert!(!goes(OURS, stays, true));
        for (rules, ours) in
            [(OURS, Ours::Goes), (OURS, Ours::Stays { mark: 0x8000 }), ("", stays), (&OURS.repeat(2), stays)]
        {
            assert!(goes(rules, ours, true), "{rules}{ours:?}");
        }
        assert!(!goes("-A KUBE-MARK-MASQ -j MARK\n", stays, false));
    }

    #[test]
    fn jumps_that_kube_proxy_never_makes_are_somebodys_use() {
        let table = table(
            r#"*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:OTHERS - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORT-CONTAINER - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SEP-2ZXJQTEYSFGY7C2G - [0:0]
:KUBE-SVC-NPX46M4PTMTKRN6Y - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j KUBE-MARK-MASQ
-A PREROUTING -m addrtype --dst-type LOCAL -m comment --comment userspace -j KUBE-NODEPORT-CONTAINER
-A PREROUTING -j KUBE-SVC-NPX46M4PTMTKRN6Y
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A POSTROUTING -m comment --comment mine -j KUBE-MARK-MASQ
-A KUBE-SVC-NPX46M4PTMTKRN6Y -j KUBE-SEP-2ZXJQTEYSFGY7C2G
-A OTHERS -j KUBE-POSTROUTING
COMMIT
"#,
        );
        let plan = plan(&table, true, Ours::Goes);
        assert_eq!(
            plan.jumps,
            [
                "PREROUTING -m addrtype --dst-type LOCAL -m comment --comment userspace -j KUBE-NODEPORT-CONTAINER",
                "POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING",
            ]
        );
        assert_eq!(plan.chains, ["KUBE-NODEPORT-CONTAINER"]);
        let kept: Vec<(&str, &str)> = plan.kept.iter().map(|(chain, by)| (&**chain, &**by)).collect();
        assert_eq!(
            kept,
            [
                ("KUBE-MARK-MASQ", "PREROUTING -m addrtype --dst-type LOCAL -j KUBE-MARK-MASQ"),
                ("KUBE-POSTROUTING", "OTHERS -j KUBE-POSTROUTING"),
                ("KUBE-SEP-2ZXJQTEYSFGY7C2G", "KUBE-SVC-NPX46M4PTMTKRN6Y -j KUBE-SEP-2ZXJQTEYSFGY7C2G"),
                ("KUBE-SVC-NPX46M4PTMTKRN6Y", "PREROUTING -j KUBE-SVC-NPX46M4PTMTKRN6Y"),
            ]
        );
    }

    /// As kube-proxy's mode iptables leaves them, with a rule of somebody else's that leads into them.
    #[test]
    fn many_chains_that_stay_take_no_time() {
        const COUNT: usize = 8_000;
        let chain = |number: usize| {
            let letter = |digit: u8| char::from(digit - b'0' + b'A');
            format!("KUBE-SVC-{}", format!("{number:016}").bytes().map(letter).collect::<String>())
        };
        let mut text = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n".to_owned();
        text += "-A PREROUTING -s 10.9.0.0/16 -j KUBE-SERVICES\n";
        let lines = |chain: String| {
            format!(":{chain} - [0:0]\n-A KUBE-SERVICES -j {chain}\n-A {chain} -j KUBE-SERVICES\n")
        };
        text.extend((0..COUNT).map(chain).map(lines));
        let table = table(&(text + "COMMIT\n"));
        let processor_time =
            || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("not negative");
        let begin = processor_time();
        let plan = plan(&table, true, Ours::Goes);
        let took = processor_time().saturating_sub(begin);
        assert_eq!((plan.kept.len(), plan.chains), (COUNT + 1, vec![]));
        assert!(took < Duration::from_secs(2), "{took:?}");
    }

    #[test]
    fn our_accept_goes_alone() {
        let jump =
            "FORWARD -m comment --comment \"kube-ipvs: accept traffic of Services\" -j KUBE-IPVS-FORWARD";
        let text = format!(
            "*filter\n:FORWARD DROP [0:0]\n:KUBE-FORWARD - [0:0]\n:KUBE-IPVS-FORWARD - [0:0]\n-A {jump}\n\
             -A KUBE-IPVS-FORWARD -j ACCEPT\nCOMMIT\n"
        );
        let plan = plan(&table(&text), false, Ours::Goes);
        assert_eq!(
            (&plan.chains[..], &plan.jumps[..]),
            (&["KUBE-IPVS-FORWARD".to_owned()][..], &[jump.to_owned()][..])
        );
    }
}

//! The fixed rules, as data: the content of our table for given settings.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::expressions::Phrase;
use super::sets::{
    self, ALLOWED, CLUSTER_ADDRESSES, DROP, EXTERNAL_ADDRESSES, HAIRPIN, HEALTH_CHECKS, IN_CLUSTER, INTERNAL,
    MASQUERADE, NUMBERED, OWNED, REFUSE, RESTRICTED, SHARED_ADDRESSES, Set,
};
use super::wire::Expression;
use crate::cluster::types::Family;
use crate::state::{Inside, InterfaceName, RuleSettings};

/// The name of our tables, one of family `ip`, one of `ip6`.
pub(super) const TABLE: &str = "kube-ipvs";
/// The table's comment.
pub(super) const NOTE: &str = "Made by kube-ipvs, which repairs what is changed here";

/// The version of the rules: to be raised with every change to what [`Ruleset::new`] returns. Most changes are noticed
/// because the rules in the kernel differ; this number reveals those that reading back does not show. Version 7 was
/// one: since then IPv6 ranges are looked up by words ([`sets::Part::range_fields`]).
const VERSION: u32 = 8;

/// Before destination addresses are translated, so that restrictions apply to the entry point that the client asked
/// for.
const BEFORE_TRANSLATION: i32 = -120;
/// Before iptables' nat (−100, fixed in the kernel), whose DNAT for a host port would otherwise end the walk over the
/// nat chains before ours; after conntrack (−200).
const BEFORE_DESTINATION_NAT: i32 = -110;
/// Before iptables' nat and the masquerading of CNI plugins (100), which would otherwise decide first.
const BEFORE_SOURCE_NAT: i32 = 90;
/// IPVS takes its packets from hook input at 98 and 99; nat has its own hook at 100. What reaches a chain behind them
/// is for no virtual server.
const AFTER_IPVS: i32 = 101;
const BEFORE_IPVS: i32 = 90;
/// IPVS takes the node's own packets from hook output at −98, just after nat.
const BEFORE_IPVS_IN_OUTPUT: i32 = -99;

/// `NF_INET_*`.
const HOOK_PREROUTING: u32 = 0;
const HOOK_INPUT: u32 = 1;
const HOOK_OUTPUT: u32 = 3;
const HOOK_POSTROUTING: u32 = 4;

const NOT_FROM_A_POD: &str = "not from a pod";

/// What a table holds, except for elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) sets: Vec<Set>,
    pub(super) chains: Vec<Chain>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    /// `nat` or `filter`.
    pub(super) kind: &'static str,
    /// `NF_INET_*`.
    pub(super) hook: u32,
    pub(super) priority: i32,
    pub(super) rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) comment: String,
    pub(super) expressions: Vec<Expression>,
}

/// The variants of the rules, which depend on the kernel: the first one that it accepts is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Source ports of masqueraded connections are chosen at random, which avoids collisions (and lost packets) when
    /// several processors choose at once.
    FullyRandom,
    /// Source ports are kept where possible.
    Plain,
}

impl Variant {
    /// All variants, the best one first.
    pub(super) const ALL: [Self; 2] = [Self::FullyRandom, Self::Plain];
}

/// Who opens a connection.
#[derive(Clone, Copy)]
enum Asker {
    /// This node.
    Node,
    /// A pod, or a host other than this node.
    Other,
}

/// Writes the rules of one table.
struct Writer<'a> {
    family: Family,
    settings: &'a RuleSettings,
    random: bool,
}

impl Ruleset {
    /// The rules for these settings. The pods' network must be of the same family.
    pub(super) fn new(family: Family, settings: &RuleSettings, variant: Variant) -> Self {
        let writer = Writer { family, settings, random: variant == Variant::FullyRandom };
        let chain = |name, kind, hook, priority, rules| Chain { name, kind, hook, priority, rules };
        let restrict = writer.restrict();
        Self {
            sets: sets::of(family),
            chains: vec![
                chain("restrict", "filter", HOOK_PREROUTING, BEFORE_TRANSLATION, restrict.clone()),
                chain("restrict-node", "filter", HOOK_OUTPUT, BEFORE_TRANSLATION, restrict),
                chain("prerouting", "nat", HOOK_PREROUTING, BEFORE_DESTINATION_NAT, writer.prerouting()),
                chain("output", "nat", HOOK_OUTPUT, BEFORE_DESTINATION_NAT, writer.output()),
                chain("postrouting", "nat", HOOK_POSTROUTING, BEFORE_SOURCE_NAT, writer.postrouting()),
                chain("before-ipvs", "filter", HOOK_INPUT, BEFORE_IPVS, writer.before_ipvs_clients()),
                chain(
                    "before-ipvs-node",
                    "filter",
                    HOOK_OUTPUT,
                    BEFORE_IPVS_IN_OUTPUT,
                    writer.before_ipvs_node(),
                ),
                chain("input", "filter", HOOK_INPUT, AFTER_IPVS, writer.input()),
            ],
        }
    }
}

impl Writer<'_> {
    fn rule(&self, comment: &str, phrases: &[Phrase]) -> Rule {
        Rule {
            comment: comment.to_owned(),
            expressions: phrases.iter().flat_map(|phrase| phrase.compile(self.family)).collect(),
        }
    }

    /// Restricts who may use an entry point. Existing connections remain.
    fn restrict(&self) -> Vec<Rule> {
        let phrases = [
            Phrase::NewConnection,
            Phrase::EntryPointIn(RESTRICTED.name),
            Phrase::EntryPointAndSourceNotIn(ALLOWED.name),
            Phrase::Drop,
        ];
        vec![self.rule("the source is not in the service's ranges", &phrases)]
    }

    fn prerouting(&self) -> Vec<Rule> {
        let mut rules = vec![self.loopback()];
        if let Some(inside) = &self.settings.inside {
            let phrases = [Phrase::From(inside.clone()), Phrase::RewriteBy(IN_CLUSTER.name)];
            rules.push(self.rule("a pod, and the service's policy Local is not about it", &phrases));
        }
        rules.extend(self.marks(Asker::Other));
        rules.extend(self.settle());
        rules
    }

    /// The rules that mark what is to be masqueraded.
    fn marks(&self, asker: Asker) -> Vec<Rule> {
        let marked = |(comment, mut phrases): (_, Vec<_>)| {
            phrases.push(Phrase::Mark(self.settings.masquerade_mark));
            self.rule(comment, &phrases)
        };
        self.masqueraded(asker).into_iter().map(marked).collect()
    }

    /// Which connections of this asker are masqueraded, each with the comment of its rule.
    fn masqueraded(&self, asker: Asker) -> Vec<(&'static str, Vec<Phrase>)> {
        let to_cluster_ip = Phrase::DestinationInSet(CLUSTER_ADDRESSES.name);
        let clusters = match (&self.settings.inside, asker) {
            _ if self.settings.masquerade_all => Some(("masquerade-all", vec![to_cluster_ip])),
            // The node's own packets came in by no device.
            (Some(Inside::Interface(_) | Inside::InterfacePrefix(_)), Asker::Node) => {
                Some((NOT_FROM_A_POD, vec![to_cluster_ip]))
            }
            (Some(inside), _) => Some((NOT_FROM_A_POD, vec![to_cluster_ip, Phrase::NotFrom(inside.clone())])),
            (None, _) => None,
        };
        let entry_points = ("to endpoints on any node", vec![Phrase::EntryPointIn(MASQUERADE.name)]);
        [entry_points].into_iter().chain(clusters).collect()
    }

    fn output(&self) -> Vec<Rule> {
        let rewritten = [Phrase::RewriteBy(IN_CLUSTER.name)];
        let mut rules = vec![
            self.loopback(),
            self.rule("the node, and the service's policy Local is not about it", &rewritten),
        ];
        rules.extend(self.marks(Asker::Node));
        // Also if the pods' network is known: it may contain the service addresses.
        if !self.settings.masquerade_all {
            for set in [CLUSTER_ADDRESSES, EXTERNAL_ADDRESSES] {
                let phrases = [
                    Phrase::DestinationInSet(CLUSTER_ADDRESSES.name),
                    Phrase::SourceInSet(set.name),
                    Phrase::Mark(self.settings.masquerade_mark),
                ];
                rules.push(self.rule("the node with a service address as its source", &phrases));
            }
        }
        rules.extend(self.settle());
        rules
    }

    fn loopback(&self) -> Rule {
        let network = Inside::Network(loopback(self.family));
        self.rule("loopback addresses are left alone", &[Phrase::From(network), Phrase::Return])
    }

    /// Translates a connection to a service to its own destination: then no other nat chain, like that of a CNI
    /// plugin's host ports, can send it elsewhere. On an address that another device has too, this applies only to the
    /// Services' ports.
    fn settle(&self) -> Vec<Rule> {
        let settled =
            |to| self.rule("nobody else translates this", &[to, Phrase::ToThisNode, Phrase::RewriteToItself]);
        vec![
            settled(Phrase::EntryPointIn(OWNED.name)),
            self.rule(
                "other ports are the node's",
                &[Phrase::DestinationInSet(SHARED_ADDRESSES.name), Phrase::Return],
            ),
            settled(Phrase::DestinationInSet(CLUSTER_ADDRESSES.name)),
            settled(Phrase::DestinationInSet(EXTERNAL_ADDRESSES.name)),
        ]
    }

    fn postrouting(&self) -> Vec<Rule> {
        let bit = self.settings.masquerade_mark;
        // If the endpoint is the node itself, the pair is the same as for everything that the node sends to itself.
        let hairpin = [Phrase::LeavesNotByLoopback, Phrase::PairInSet(HAIRPIN.name), Phrase::Mark(bit)];
        let mut rules = vec![
            self.rule("a pod that reached itself through a service", &hairpin),
            self.rule("everything else keeps its source", &[Phrase::NotMarked(bit), Phrase::Return]),
            self.rule("the mark has served", &[Phrase::Unmark(bit)]),
        ];
        if let Some(address) = self.settings.node_address {
            let phrases = [
                Phrase::LeavesByNoneOf(NUMBERED.name),
                Phrase::SourceBecomes { address, random: self.random },
            ];
            rules.push(self.rule("the device has no address to take", &phrases));
        }
        rules.push(self.rule(&identity(self.settings), &[Phrase::Masquerade { random: self.random }]));
        rules
    }

    fn before_ipvs(&self) -> Vec<Rule> {
        let no_endpoint = [Phrase::NewConnection, Phrase::EntryPointIn(DROP.name), Phrase::Drop];
        let internal = [Phrase::EntryPointIn(INTERNAL.name), Phrase::NotRewritten, Phrase::Reject];
        vec![
            self.rule("no endpoint on this node", &no_endpoint),
            self.rule("not by way of in-cluster", &internal),
        ]
    }

    /// The rules for what others send. A client whose connection was rewritten answers a segment that was not
    /// translated back with a reset to the cluster IP.
    fn before_ipvs_clients(&self) -> Vec<Rule> {
        // The rarest match first: all packets come by here.
        let phrases = [
            Phrase::OfNoConnection,
            Phrase::TcpReset,
            Phrase::DestinationInSet(CLUSTER_ADDRESSES.name),
            Phrase::Drop,
        ];
        let mut rules = self.before_ipvs();
        rules.push(self.rule("a reset of no connection", &phrases));
        rules.extend(self.invalid_segments());
        rules
    }

    /// The rules for invalid segments. Connection tracking looks up what IPVS sends on once more, with the endpoint as
    /// destination, and would take it for a new connection. The order is that of `prerouting`, whose rules see no
    /// invalid segments; once untracked, a segment no longer counts as invalid.
    fn invalid_segments(&self) -> Vec<Rule> {
        let invalid = |comment, phrases: &[Phrase]| {
            self.rule(comment, &[&[Phrase::OfNoConnection, Phrase::TcpWithoutSyn], phrases].concat())
        };
        let mark = Phrase::Mark(self.settings.masquerade_mark);
        let masqueraded = |phrases: &[Phrase]| {
            invalid(
                "a segment of no connection is not masqueraded",
                &[phrases, &[mark.clone(), Phrase::Untrack]].concat(),
            )
        };
        let keeps_its_source =
            |to| invalid("a segment of no connection keeps its source", &[to, Phrase::Untrack]);
        let to_owned = Phrase::EntryPointIn(OWNED.name);
        let to_cluster_ip = Phrase::DestinationInSet(CLUSTER_ADDRESSES.name);
        let to_external = Phrase::DestinationInSet(EXTERNAL_ADDRESSES.name);

        let mut rules: Vec<_> =
            self.masqueraded(Asker::Other).iter().map(|(_, phrases)| masqueraded(phrases)).collect();
        rules.push(keeps_its_source(to_cluster_ip));
        if let Some(inside) = &self.settings.inside {
            // All other connections of a pod were rewritten. The map is not consulted here: old kernels cannot look up
            // a map only to see whether it has a key.
            let rewritten = |to, end| {
                let from = Phrase::From(inside.clone());
                let phrases = [Phrase::OfNoConnection, Phrase::TcpWithoutSynAndFin, from, to, end];
                self.rule("a segment of no connection is not rewritten", &phrases)
            };
            rules.extend([
                rewritten(to_owned.clone(), Phrase::Drop),
                rewritten(Phrase::DestinationInSet(SHARED_ADDRESSES.name), Phrase::Return),
                rewritten(to_external.clone(), Phrase::Drop),
            ]);
        }
        rules.extend([keeps_its_source(to_owned), keeps_its_source(to_external)]);
        rules
    }

    /// The rules for what the node sends. The rule in `output` that rewrites ends there, so its connections are marked
    /// here.
    fn before_ipvs_node(&self) -> Vec<Rule> {
        let phrases = [
            Phrase::NewConnection,
            Phrase::Rewritten,
            Phrase::DestinationInSet(CLUSTER_ADDRESSES.name),
            Phrase::Mark(self.settings.masquerade_mark),
        ];
        let mut rules = self.before_ipvs();
        rules.push(self.rule("the node, by way of in-cluster", &phrases));
        // What IPVS sends on comes by here again. A FIN of a lost connection is always invalid, and must be answered.
        let not_masqueraded = [
            Phrase::Untracked,
            Phrase::TcpWithoutSynAndFin,
            Phrase::Marked(self.settings.masquerade_mark),
            Phrase::Drop,
        ];
        rules.push(self.rule("the endpoint knows another source", &not_masqueraded));
        rules
    }

    fn input(&self) -> Vec<Rule> {
        let mut rules = vec![
            self.rule("connections that exist", &[Phrase::KnownConnection, Phrase::Accept]),
            self.rule("service addresses answer to ping", &[Phrase::Ping, Phrase::Accept]),
            self.rule(
                "health checks of load balancers",
                &[Phrase::EntryPointIn(HEALTH_CHECKS.name), Phrase::Accept],
            ),
        ];
        let refuse = |to: &Phrase| {
            [
                self.rule(
                    "no such connection",
                    &[to.clone(), Phrase::TcpWithoutSyn, Phrase::RejectWithReset],
                ),
                self.rule("no such port, or no endpoints", &[to.clone(), Phrase::Reject]),
            ]
        };
        rules.extend(refuse(&Phrase::EntryPointIn(REFUSE.name)));
        rules.push(self.rule(
            "other ports are the node's",
            &[Phrase::DestinationInSet(SHARED_ADDRESSES.name), Phrase::Accept],
        ));
        rules.extend(refuse(&Phrase::DestinationInSet(CLUSTER_ADDRESSES.name)));
        rules.extend(refuse(&Phrase::DestinationInSet(EXTERNAL_ADDRESSES.name)));
        rules
    }
}

fn loopback(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
        Family::V6 => Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
    }
}

/// What precedes the name of a device in the comment that holds the settings.
const NAME: &str = "by-";
/// What precedes the beginning of device names there.
const PREFIX: &str = "begins-with-";

/// The settings as the comment of the rule that masquerades: everything that is needed to make the same rules again.
/// They are in a rule because kernels before 5.10 do not keep the comment of a table.
fn identity(settings: &RuleSettings) -> String {
    let all = if settings.masquerade_all { "yes" } else { "no" };
    let pods = match &settings.inside {
        None => "unknown".to_owned(),
        Some(Inside::Network(network)) => network.to_string(),
        Some(Inside::Interface(name)) => format!("{NAME}{name}"),
        // Not with the `*` of patterns: a name may end in `*`.
        Some(Inside::InterfacePrefix(prefix)) => format!("{PREFIX}{prefix}"),
    };
    let node = settings.node_address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
    format!(
        "rules={VERSION} mark={:#010x} masquerade-all={all} pods={pods} node={node}",
        settings.masquerade_mark
    )
}

/// The settings in a comment that [`identity`] made, of any version.
pub(super) fn settings_of(comment: &str) -> Option<RuleSettings> {
    let value = |word: Option<&str>, name: &str| -> Option<String> {
        Some(word?.strip_prefix(name)?.strip_prefix('=')?.to_owned())
    };
    let mut words = comment.split(' ');
    value(words.next(), "rules")?;
    let mark = value(words.next(), "mark")?;
    let all = value(words.next(), "masquerade-all")?;
    let pods = value(words.next(), "pods")?;
    let node = value(words.next(), "node")?;
    let inside = if pods == "unknown" {
        None
    } else if let Some(name) = pods.strip_prefix(NAME) {
        Some(Inside::Interface(InterfaceName::new(name)?))
    } else if let Some(prefix) = pods.strip_prefix(PREFIX) {
        Some(Inside::InterfacePrefix(InterfaceName::new(prefix)?))
    } else {
        Some(Inside::Network(pods.parse().ok()?))
    };
    Some(RuleSettings {
        masquerade_mark: u32::from_str_radix(mark.strip_prefix("0x")?, 16).ok()?,
        masquerade_all: all == "yes",
        inside,
        node_address: if node == "unknown" { None } else { Some(node.parse().ok()?) },
    })
}

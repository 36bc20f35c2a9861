//! The fixed rules, as data: what stands in our table for given settings.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::phrase::Phrase;
use super::wire::Expression;
use crate::cluster::types::Family;
use crate::state::RuleSettings;

/// The name of our tables, one of family `ip`, one of `ip6`.
pub(super) const TABLE: &str = "kube-ipvs";
/// The set of service addresses.
pub(super) const SERVICE_ADDRESSES: &str = "service-addresses";
/// The set of this node's endpoints, each with itself: `nf_tables` cannot compare two fields of a packet.
pub(super) const HAIRPIN: &str = "hairpin";
/// What the table says about itself.
pub(super) const NOTE: &str = "Made by kube-ipvs, which repairs what is changed here";

/// The version of the rules: to be raised with every change to what [`Ruleset::new`] gives. It is only for people:
/// rules of another version are noticed because they are different.
const VERSION: u32 = 1;

/// Before iptables' nat (−100, fixed in the kernel), whose DNAT of a host port would end the walk over nat chains
/// before ours; after conntrack (−200).
const BEFORE_DESTINATION_NAT: i32 = -110;
/// Before iptables' nat and the masquerading of CNI plugins (100), which would decide first otherwise.
const BEFORE_SOURCE_NAT: i32 = 90;
/// IPVS takes its packets from hook input at 98 and 99; nat has its own hook at 100. What is left behind them is
/// for no virtual server.
const AFTER_IPVS: i32 = 101;

/// `NF_INET_*`.
const HOOK_PREROUTING: u32 = 0;
const HOOK_INPUT: u32 = 1;
const HOOK_OUTPUT: u32 = 3;
const HOOK_POSTROUTING: u32 = 4;

/// What a table holds but elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) sets: [Set; 2],
    pub(super) chains: [Chain; 4],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) name: &'static str,
    pub(super) comment: &'static str,
    /// How many addresses make a key.
    pub(super) parts: u32,
    /// `nft`'s number for the type, by which it prints elements; the kernel does not care.
    pub(super) key_type: u32,
    /// Bytes of a key.
    pub(super) key_length: u32,
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

/// What depends on the kernel: the first that it accepts is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Source ports of masqueraded connections are chosen at random, which avoids collisions (and lost packets) when
    /// several processors choose at once.
    FullyRandom,
    /// They are kept where possible.
    Plain,
}

impl Variant {
    /// The best first.
    pub(super) const ALL: [Self; 2] = [Self::FullyRandom, Self::Plain];
}

impl Ruleset {
    /// The rules for these settings. The pods' network is of the same family.
    pub(super) fn new(family: Family, settings: &RuleSettings, variant: Variant) -> Self {
        use Phrase::{
            Accept, DestinationInSet, KnownConnection, Mark, Marked, Masquerade, MasqueradeFullyRandom,
            PairInSet, Ping, Reject, RejectWithReset, Return, SourceIn, SourceInSet, SourceNotIn,
            TcpWithoutSyn, Unmark,
        };
        let rule = |comment: &str, phrases: &[Phrase]| Rule {
            comment: comment.to_owned(),
            expressions: phrases.iter().flat_map(|phrase| phrase.compile(family)).collect(),
        };
        let bit = settings.masquerade_mark;
        let to_service = DestinationInSet(SERVICE_ADDRESSES);

        let mut prerouting =
            vec![rule("loopback addresses are never masqueraded", &[SourceIn(loopback(family)), Return])];
        if settings.masquerade_all {
            prerouting.push(rule("masquerade-all", &[to_service.clone(), Mark(bit)]));
        } else if let Some(pods) = settings.pod_network {
            prerouting.push(rule("not from a pod", &[to_service.clone(), SourceNotIn(pods), Mark(bit)]));
        }
        let mut output = prerouting.clone();
        if !settings.masquerade_all {
            let phrases = [SourceInSet(SERVICE_ADDRESSES), to_service.clone(), Mark(bit)];
            output.push(rule("the node with a service address as its source", &phrases));
        }
        let masquerade = match variant {
            Variant::FullyRandom => MasqueradeFullyRandom,
            Variant::Plain => Masquerade,
        };
        let postrouting = vec![
            rule("a pod that reached itself through a service", &[PairInSet(HAIRPIN), Masquerade]),
            rule(&identity(settings), &[Marked(bit), Unmark(bit), masquerade]),
        ];
        let input = vec![
            rule("connections that exist", &[KnownConnection, Accept]),
            rule("service addresses answer to ping", &[Ping, Accept]),
            rule("no such connection", &[to_service.clone(), TcpWithoutSyn, RejectWithReset]),
            rule("no such port, or no endpoints", &[to_service, Reject]),
        ];

        let (address_type, length) = match family {
            Family::V4 => (7, 4),
            Family::V6 => (8, 16),
        };
        let set = |name, comment, parts, key_type| Set {
            name,
            comment,
            parts,
            key_type,
            key_length: parts * length,
        };
        let chain = |name, kind, hook, priority, rules| Chain { name, kind, hook, priority, rules };
        Self {
            sets: [
                set(
                    SERVICE_ADDRESSES,
                    "what goes there belongs to a service, or is refused",
                    1,
                    address_type,
                ),
                set(HAIRPIN, "endpoints on this node, each with itself", 2, address_type << 6 | address_type),
            ],
            chains: [
                chain("prerouting", "nat", HOOK_PREROUTING, BEFORE_DESTINATION_NAT, prerouting),
                chain("output", "nat", HOOK_OUTPUT, BEFORE_DESTINATION_NAT, output),
                chain("postrouting", "nat", HOOK_POSTROUTING, BEFORE_SOURCE_NAT, postrouting),
                chain("input", "filter", HOOK_INPUT, AFTER_IPVS, input),
            ],
        }
    }
}

fn loopback(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
        Family::V6 => Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
    }
}

/// The settings as the comment of the rule that masquerades: all that is needed to make the same rules again. In a
/// rule, since kernels before 5.10 keep no comment of a table.
fn identity(settings: &RuleSettings) -> String {
    let all = if settings.masquerade_all { "yes" } else { "no" };
    let pods = settings.pod_network.map_or_else(|| "unknown".to_owned(), |network| network.to_string());
    format!("rules={VERSION} mark={:#010x} masquerade-all={all} pods={pods}", settings.masquerade_mark)
}

/// The settings in a comment made by [`identity`], of whatever version.
pub(super) fn settings_of(comment: &str) -> Option<RuleSettings> {
    let value = |word: Option<&str>, name: &str| -> Option<String> {
        Some(word?.strip_prefix(name)?.strip_prefix('=')?.to_owned())
    };
    let mut words = comment.split(' ');
    value(words.next(), "rules")?;
    let mark = value(words.next(), "mark")?;
    let all = value(words.next(), "masquerade-all")?;
    let pods = value(words.next(), "pods")?;
    Some(RuleSettings {
        masquerade_mark: u32::from_str_radix(mark.strip_prefix("0x")?, 16).ok()?,
        masquerade_all: all == "yes",
        pod_network: if pods == "unknown" { None } else { Some(pods.parse().ok()?) },
    })
}

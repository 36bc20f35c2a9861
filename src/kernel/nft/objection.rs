//! What the kernel objected to in a transaction, in words, and which modules it may lack.
//!
//! The kernel answers with an error number and the number of a message, and "No such file or directory" does not help
//! anybody to load a module. The kernel tries all messages of a transaction and names each one that it refuses. So
//! whatever an accepted message consists of is there.

use std::collections::BTreeSet;

use super::wire::{self, comment_of};
use crate::cluster::types::Family;
use crate::kernel::netlink::{Attribute, Frames, Message};
use crate::kernel::{Refusal, nfnetlink};

/// The refusal of a transaction: the first objection, what it is about, and the modules that all objections together
/// point to.
pub(super) fn told(
    frames: &Frames,
    family: Family,
    first: (usize, Refusal),
    others: &[(usize, Refusal)],
) -> Refusal {
    let (index, refusal) = first;
    let objections =
        std::iter::once((index, &refusal)).chain(others.iter().map(|(index, other)| (*index, other)));
    let lacking = objections.filter(|(_, refusal)| refusal.is_of_a_lack()).map(|(index, _)| index).collect();
    let about = described(&frames.message(index)).map(|what| format!("{what}: "));
    let text = [about.unwrap_or_default(), refusal.text, hint(frames, family, &lacking)].concat();
    Refusal { errno: refusal.errno, text }
}

/// What the kernel may lack, since it refused these messages; empty where it does not seem to lack anything.
fn hint(frames: &Frames, family: Family, lacking: &BTreeSet<usize>) -> String {
    if lacking.iter().any(|index| frames.message(*index).kind == wire::NEW_TABLE) {
        // All other messages are refused because there is no table.
        let option = match family {
            Family::V4 => "CONFIG_NF_TABLES_IPV4",
            Family::V6 => "CONFIG_NF_TABLES_IPV6",
        };
        return format!("; the kernel may be built without {option}");
    }
    let modules = suspects(frames, family, lacking);
    if modules.is_empty() {
        return String::new();
    }
    let modules = modules.into_iter().collect::<Vec<_>>().join(" ");
    format!("; the kernel may lack a module: run `modprobe -a {modules}` as root on the node")
}

/// What a message is about; `None`: the table or the transaction, as a whole.
fn described(message: &Message<'_>) -> Option<String> {
    let attributes = nfnetlink::attributes(message);
    let text = |kind| attributes.get(kind).and_then(Attribute::text);
    match message.kind {
        wire::NEW_CHAIN => {
            let (name, kind) = (text(wire::chain::NAME)?, text(wire::chain::TYPE)?);
            Some(format!("chain {name} of type {kind}"))
        }
        wire::NEW_RULE => {
            let comment = comment_of(attributes.get(wire::rule::USER_DATA)?.value)?;
            Some(format!("rule \"{comment}\" of chain {}", text(wire::rule::CHAIN)?))
        }
        wire::NEW_SET => Some(format!("set {}", text(wire::set::NAME)?)),
        wire::NEW_ELEMENTS => Some(format!("elements of set {}", text(wire::elements::SET)?)),
        _ => None,
    }
}

/// The modules of what is in the messages that were refused for a lack, without those of what is in accepted messages.
/// A rule that is refused because its chain was refused says nothing about its expressions.
fn suspects(frames: &Frames, family: Family, lacking: &BTreeSet<usize>) -> BTreeSet<&'static str> {
    let (mut there, mut suspects) = (BTreeSet::new(), BTreeSet::new());
    let mut refused_chains = BTreeSet::new();
    for index in 0..frames.len() {
        let message = frames.message(index);
        let attributes = nfnetlink::attributes(&message);
        let text = |kind| attributes.get(kind).and_then(Attribute::text);
        let of = if lacking.contains(&index) { &mut suspects } else { &mut there };
        match message.kind {
            wire::NEW_CHAIN => {
                if lacking.contains(&index) {
                    refused_chains.extend(text(wire::chain::NAME));
                }
                of.extend(text(wire::chain::TYPE).into_iter().flat_map(of_chains));
            }
            wire::NEW_RULE if text(wire::rule::CHAIN).is_none_or(|chain| !refused_chains.contains(chain)) => {
                let expressions =
                    attributes.get(wire::rule::EXPRESSIONS).into_iter().flat_map(Attribute::nested);
                let names = expressions.filter_map(|item| item.nested().get(wire::expression::NAME)?.text());
                of.extend(names.flat_map(|name| of_expressions(name, family)));
            }
            _ => {}
        }
    }
    suspects.retain(|module| !there.contains(module));
    suspects
}

/// The modules that a type of chains is in, beyond `nf_tables` itself.
fn of_chains(kind: &str) -> &'static [&'static str] {
    match kind {
        "nat" => &["nft_chain_nat"],
        _ => &[],
    }
}

/// The modules that an expression is in, beyond `nf_tables` itself.
fn of_expressions(name: &str, family: Family) -> &'static [&'static str] {
    match (name, family) {
        ("ct" | "notrack", _) => &["nft_ct"],
        ("nat", _) => &["nft_nat"],
        ("masq", _) => &["nft_masq"],
        ("fib", Family::V4) => &["nft_fib", "nft_fib_ipv4"],
        ("fib", Family::V6) => &["nft_fib", "nft_fib_ipv6"],
        ("reject", Family::V4) => &["nft_reject", "nft_reject_ipv4"],
        ("reject", Family::V6) => &["nft_reject", "nft_reject_ipv6"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::kernel::nft::rules::{NOTE, Ruleset, Variant};
    use crate::kernel::nft::wire::Transaction;
    use crate::state::{Element, RuleSettings};

    fn transaction(family: Family) -> Frames {
        let node_address = (family == Family::V4).then_some(std::net::Ipv4Addr::LOCALHOST);
        let settings = RuleSettings { masquerade_mark: 1, masquerade_all: false, inside: None, node_address };
        let mut transaction = Transaction::new();
        transaction.replace_table(family, NOTE);
        transaction.add_ruleset(family, &Ruleset::new(family, &settings, Variant::FullyRandom));
        transaction.finish()
    }

    fn expressions<'a>(message: &Message<'a>) -> Vec<&'a str> {
        if message.kind != wire::NEW_RULE {
            return Vec::new();
        }
        let expressions = nfnetlink::attributes(message).get(wire::rule::EXPRESSIONS).unwrap().nested();
        expressions.map(|item| item.nested().get(wire::expression::NAME).unwrap().text().unwrap()).collect()
    }

    /// What a kernel says that does not have these expressions and types of chains.
    fn without(lacks: &[&str], family: Family, errno: Errno) -> Refusal {
        let frames = transaction(family);
        let mut refused_chains = BTreeSet::new();
        let mut objections = Vec::new();
        for index in 0..frames.len() {
            let message = frames.message(index);
            let text = |kind| nfnetlink::attributes(&message).get(kind).and_then(Attribute::text);
            let is_refused = match message.kind {
                wire::NEW_CHAIN => {
                    let is_refused =
                        lacks.contains(&format!("type {}", text(wire::chain::TYPE).unwrap()).as_str());
                    refused_chains.extend(text(wire::chain::NAME).filter(|_| is_refused));
                    is_refused
                }
                wire::NEW_RULE => {
                    refused_chains.contains(text(wire::rule::CHAIN).unwrap())
                        || expressions(&message).iter().any(|name| lacks.contains(name))
                }
                _ => false,
            };
            objections.extend(is_refused.then(|| (index, Refusal::of(&errno.into()))));
        }
        let first = objections.remove(0);
        told(&frames, family, first, &objections)
    }

    #[test]
    fn what_a_kernel_lacks_is_named_with_its_modules() {
        let cases: [(&[&str], &str, [&str; 2]); 6] = [
            (
                &["ct", "notrack"],
                "rule \"the source is not in the service's ranges\" of chain restrict",
                ["nft_ct", "nft_ct"],
            ),
            (&["type nat"], "chain prerouting of type nat", ["nft_chain_nat", "nft_chain_nat"]),
            (
                &["fib"],
                "rule \"nobody else translates this\" of chain prerouting",
                ["nft_fib nft_fib_ipv4", "nft_fib nft_fib_ipv6"],
            ),
            // No rule has a `fib` alone.
            (
                &["nat"],
                "rule \"nobody else translates this\" of chain prerouting",
                ["nft_fib nft_fib_ipv4 nft_nat", "nft_fib nft_fib_ipv6 nft_nat"],
            ),
            (
                &["reject"],
                "rule \"not by way of in-cluster\" of chain before-ipvs",
                ["nft_reject nft_reject_ipv4", "nft_reject nft_reject_ipv6"],
            ),
            (
                &["fib", "masq", "reject"],
                "rule \"nobody else translates this\" of chain prerouting",
                [
                    "nft_fib nft_fib_ipv4 nft_masq nft_reject nft_reject_ipv4",
                    "nft_fib nft_fib_ipv6 nft_masq nft_reject nft_reject_ipv6",
                ],
            ),
        ];
        for (lacks, what, modules) in cases {
            for (family, modules) in Family::ALL.into_iter().zip(modules) {
                let refusal = without(lacks, family, Errno::NOENT);
                let text = format!(
                    "{what}: No such file or directory (os error 2); the kernel may lack a module: run \
                     `modprobe -a {modules}` as root on the node"
                );
                assert_eq!(refusal, Refusal { errno: 2, text }, "{family}");
            }
        }
    }

    /// No module is missing where the kernel refuses for another reason.
    #[test]
    fn what_is_refused_for_another_reason_is_named_alone() {
        let text = without(&["masq"], Family::V4, Errno::INVAL).text;
        assert!(text.starts_with("rule \"rules="), "{text}");
        assert!(text.ends_with(" of chain postrouting: Invalid argument (os error 22)"), "{text}");
    }

    #[test]
    fn a_kernel_without_tables_of_a_family_lacks_no_module() {
        for (family, option) in
            Family::ALL.into_iter().zip(["CONFIG_NF_TABLES_IPV4", "CONFIG_NF_TABLES_IPV6"])
        {
            let frames = transaction(family);
            let table = (1, Refusal::of(&Errno::OPNOTSUPP.into()));
            let others: Vec<_> =
                (2..frames.len() - 1).map(|index| (index, Refusal::of(&Errno::NOENT.into()))).collect();
            let text = told(&frames, family, table, &others).text;
            let refused = "Operation not supported (os error 95)";
            assert_eq!(text, format!("{refused}; the kernel may be built without {option}"));
        }
    }

    /// It has no permission, or no memory.
    #[test]
    fn a_transaction_that_is_refused_as_a_whole_says_why() {
        let refusal = Refusal::of(&Errno::PERM.into());
        assert_eq!(told(&transaction(Family::V4), Family::V4, (0, refusal.clone()), &[]), refusal);
    }

    #[test]
    fn each_set_and_its_elements_have_a_name() {
        let address = std::net::IpAddr::from([10, 96, 0, 1]);
        let mut transaction = Transaction::new();
        transaction.fill(Family::V4, &[Element::ClusterAddress(address)]);
        let named = |frames: &Frames, index| {
            told(frames, Family::V4, (index, Refusal::of(&Errno::INVAL.into())), &[]).text
        };
        assert_eq!(
            named(&transaction.finish(), 1),
            "elements of set cluster-addresses: Invalid argument (os error 22)"
        );
        let frames = self::transaction(Family::V4);
        let is_set = |index: &usize| frames.message(*index).kind == wire::NEW_SET;
        let sets: Vec<_> = (0..frames.len()).filter(is_set).map(|index| named(&frames, index)).collect();
        assert!(sets.contains(&"set allowed: Invalid argument (os error 22)".to_owned()), "{sets:?}");
    }

    /// A new expression has to be looked up: is it in a module of its own?
    #[test]
    fn what_is_in_no_module_is_in_nf_tables_itself() {
        const BUILT_IN: [&str; 6] = ["bitwise", "cmp", "immediate", "lookup", "meta", "payload"];
        for family in Family::ALL {
            let frames = transaction(family);
            let names: BTreeSet<&str> =
                (0..frames.len()).flat_map(|index| expressions(&frames.message(index))).collect();
            let unknown = names.iter().filter(|name| of_expressions(name, family).is_empty());
            assert_eq!(unknown.copied().collect::<Vec<_>>(), BUILT_IN, "{family}");
        }
    }
}

use super::rules::{Ruleset, Variant, settings_of};
use super::wire::{Expression, Field, comment, comment_of};
use super::*;
use crate::kernel::netlink::{Attribute, Attributes};

fn settings(masquerade_all: bool, pods: Option<&str>) -> RuleSettings {
    let pod_network = pods.map(|network| network.parse().unwrap());
    RuleSettings { masquerade_mark: 0x4000, masquerade_all, pod_network }
}

fn comments(settings: &RuleSettings, chain: usize) -> Vec<String> {
    let ruleset = Ruleset::new(Family::V4, settings, Variant::FullyRandom);
    ruleset.chains[chain].rules.iter().map(|rule| rule.comment.clone()).collect()
}

#[test]
fn what_is_marked_follows_from_the_settings() {
    const LOOPBACK: &str = "loopback addresses are never masqueraded";
    const VIP: &str = "the node with a service address as its source";
    type Case = (bool, Option<&'static str>, &'static [&'static str], &'static [&'static str]);
    let expected: [Case; 4] = [
        (false, None, &[LOOPBACK], &[LOOPBACK, VIP]),
        (false, Some("10.244.0.0/16"), &[LOOPBACK, "not from a pod"], &[LOOPBACK, "not from a pod", VIP]),
        (true, None, &[LOOPBACK, "masquerade-all"], &[LOOPBACK, "masquerade-all"]),
        (true, Some("10.244.0.0/16"), &[LOOPBACK, "masquerade-all"], &[LOOPBACK, "masquerade-all"]),
    ];
    for (masquerade_all, pods, prerouting, output) in expected {
        let settings = settings(masquerade_all, pods);
        assert_eq!(comments(&settings, 0), prerouting, "{settings:?}");
        assert_eq!(comments(&settings, 1), output, "{settings:?}");
    }
}

#[test]
fn the_settings_are_told_by_the_rules() {
    for masquerade_all in [false, true] {
        for pods in [None, Some("10.244.0.0/16"), Some("10.244.3.1/16"), Some("fd00:10:244::/56")] {
            for bit in [0, 14, 31] {
                let settings = RuleSettings { masquerade_mark: 1 << bit, ..settings(masquerade_all, pods) };
                let told: Vec<_> =
                    comments(&settings, 2).iter().filter_map(|text| settings_of(text)).collect();
                assert_eq!(told, [settings]);
            }
        }
    }
    for text in ["", "masquerade", "rules=1", "rules=1 mark=16384 masquerade-all=no pods=unknown"] {
        assert_eq!(settings_of(text), None, "{text}");
    }
}

/// `nft` cuts comments at 128 bytes.
#[test]
fn comments_are_short_enough_for_nft() {
    let longest = settings(true, Some("2001:db8:1111:2222:3333:4444:5555:6666/127"));
    for chain in 0..4 {
        for text in comments(&longest, chain) {
            assert!(text.len() < 128, "{text}");
            assert_eq!(comment_of(&comment(&text)), Some(text.as_str()));
        }
    }
    // Entries of other types come before, or the data is cut off.
    assert_eq!(comment_of(&[9, 1, 0, 0, 2, b'a', 0]), Some("a"));
    assert_eq!(comment_of(&[0, 3, b'a', 0]), None);
    assert_eq!(comment_of(&[]), None);
}

/// A list item with `NFTA_EXPR_NAME` "meta" and these bytes as attributes of `NFTA_EXPR_DATA`.
fn dumped_meta(data: &[u8]) -> Vec<u8> {
    let length = u8::try_from(data.len()).unwrap();
    let name = [9, 0, 1, 0, b'm', b'e', b't', b'a', 0, 0, 0, 0];
    [&[20 + length, 0, 1, 0][..], &name, &[4 + length, 0, 2, 0], data].concat()
}

#[test]
fn expressions_are_compared_by_meaning() {
    let wanted = Expression {
        name: "meta",
        fields: vec![Field::number(2, 3), Field::nest(4, vec![Field::number(1, 7)])],
    };
    let key = [8, 0, 2, 0, 0, 0, 0, 3];
    let nest = [12, 0, 4, 0, 8, 0, 1, 0, 0, 0, 0, 7];
    let zero = [8, 0, 9, 0, 0, 0, 0, 0];
    let flag = [8, 0, 9, 0, 0, 0, 0, 1];
    let wrong_key = [8, 0, 2, 0, 0, 0, 0, 4];
    let wrong_nest = [12, 0, 4, 0, 8, 0, 1, 0, 0, 0, 0, 8];
    let is = |parts: &[&[u8]]| {
        let bytes = dumped_meta(&parts.concat());
        let items: Vec<Attribute<'_>> = Attributes::new(&bytes).collect();
        assert_eq!(items.len(), 1);
        wanted.is(&items[0])
    };
    assert!(is(&[&key, &nest]));
    assert!(is(&[&nest, &key, &zero]), "another order, and a default spelled out");
    assert!(!is(&[&nest, &key, &flag]), "an unknown attribute that is not zero");
    assert!(!is(&[&key]));
    assert!(!is(&[&nest]));
    assert!(!is(&[&wrong_key, &nest]));
    assert!(!is(&[&key, &wrong_nest]));
    let other = Expression { name: "ct", ..wanted.clone() };
    let bytes = dumped_meta(&[&key[..], &nest].concat());
    assert!(Attributes::new(&bytes).all(|item| !other.is(&item)));
}

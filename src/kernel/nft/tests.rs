use std::net::Ipv4Addr;

use super::read::{elements_of, joined};
use super::rules::{Ruleset, Variant, settings_of};
use super::sets::{self, encode};
use super::wire::{self, Expression, Field, Transaction, comment, comment_of};
use super::*;
use crate::cluster::types::Protocol;
use crate::kernel::netlink::{Attribute, Attributes, Dump, settled};
use crate::kernel::nfnetlink;
use crate::state::{InterfaceName, VirtualServerKey};

fn settings(masquerade_all: bool, pods: Option<&str>) -> RuleSettings {
    let inside = pods.map(|network| Inside::Network(network.parse().unwrap()));
    RuleSettings { masquerade_mark: 0x4000, masquerade_all, inside, node_address: None }
}

fn comments(settings: &RuleSettings, chain: &str) -> Vec<String> {
    let ruleset = Ruleset::new(Family::V4, settings, Variant::FullyRandom);
    let chain = ruleset.chains.iter().find(|known| known.name == chain).unwrap();
    chain.rules.iter().map(|rule| rule.comment.clone()).collect()
}

/// A lesser variant would stay for as long as the table does.
#[test]
fn another_variant_is_for_kernels_that_do_not_know_the_best_one() {
    let is_tried = |errno: Errno| is_of_a_variant(&Refusal::of(&errno.into()));
    // Objections to a flag, to an expression, and to either.
    assert!([Errno::INVAL, Errno::NOENT, Errno::OPNOTSUPP].into_iter().all(is_tried));
    assert!(![Errno::NOMEM, Errno::NOBUFS, Errno::BUSY, Errno::PERM, Errno::AGAIN].into_iter().any(is_tried));
}

#[test]
fn what_is_said_of_several_variants() {
    let of = |errno: Errno| Outcome::Refused(Refusal::of(&errno.into()));
    let said = |best: Outcome, plain: Outcome| {
        let mut outcomes = [best, plain].into_iter();
        let said = best_variant(|_| outcomes.next().expect("there are two variants"));
        (said, outcomes.count())
    };
    assert_eq!(said(Outcome::Done, Outcome::Done), (Outcome::Done, 1));
    assert_eq!(said(of(Errno::INVAL), Outcome::Done), (Outcome::Done, 0));
    assert_eq!(said(of(Errno::NOENT), of(Errno::INVAL)), (of(Errno::NOENT), 0), "the best one's");
    assert_eq!(said(of(Errno::NOMEM), Outcome::Done), (of(Errno::NOMEM), 1));
    assert_eq!(said(Outcome::Unknown, Outcome::Done), (Outcome::Unknown, 1));
    // A kernel that does not know the best one may have the other, and no memory for it.
    assert_eq!(said(of(Errno::INVAL), of(Errno::NOMEM)), (of(Errno::NOMEM), 0));
    assert_eq!(said(of(Errno::INVAL), Outcome::Unknown), (Outcome::Unknown, 0));
}

#[test]
fn who_is_refused_in_a_transaction() {
    let refused = |changes: &[usize], objections: &[(usize, Errno)]| {
        let objections = objections.iter().map(|(message, errno)| (*message, Refusal::of(&(*errno).into())));
        let refused = refused(changes, objections).into_iter();
        refused.map(|(index, refusal)| (index, refusal.errno)).collect::<Vec<_>>()
    };
    let (exists, absent) = (Errno::EXIST.raw_os_error(), Errno::NOENT.raw_os_error());
    let several = [5, 8, 2];
    assert_eq!(
        refused(&several, &[(1, Errno::EXIST), (3, Errno::NOENT)]),
        [(2, absent), (5, exists)],
        "those that are named"
    );
    for errno in [Errno::NOMEM, Errno::PERM] {
        let number = errno.raw_os_error();
        assert_eq!(refused(&several, &[(0, errno)]), [(2, number), (5, number), (8, number)], "all at once");
    }
    assert_eq!(refused(&several, &[(0, Errno::INVAL)]), [], "one of them may be why");
    // A single change cannot be split.
    for message in [0, 2] {
        assert_eq!(refused(&[8], &[(message, Errno::EXIST)]), [(8, exists)]);
    }
}

#[test]
fn what_is_marked_follows_from_the_settings() {
    const POD: &str = "not from a pod";
    const ALL: &str = "masquerade-all";
    const VIP: &str = "the node with a service address as its source";
    type Case = (bool, Option<&'static str>, &'static [&'static str], &'static [&'static str]);
    let expected: [Case; 4] = [
        (false, None, &[], &[VIP, VIP]),
        (false, Some("10.244.0.0/16"), &[POD], &[POD, VIP, VIP]),
        (true, None, &[ALL], &[ALL]),
        (true, Some("10.244.0.0/16"), &[ALL], &[ALL]),
    ];
    for (masquerade_all, pods, prerouting, output) in expected {
        let settings = settings(masquerade_all, pods);
        let marks = |chain| {
            let comments = comments(&settings, chain);
            comments.into_iter().filter(|text| [POD, ALL, VIP].contains(&text.as_str())).collect::<Vec<_>>()
        };
        assert_eq!(marks("prerouting"), prerouting, "{settings:?}");
        assert_eq!(marks("output"), output, "{settings:?}");
    }
}

#[test]
fn the_settings_are_told_by_the_rules() {
    let networks = ["10.244.0.0/16", "10.244.3.1/16", "fd00:10:244::/56"];
    let networks = networks.map(|network| Some(Inside::Network(network.parse().unwrap())));
    let name = |name| InterfaceName::new(name).unwrap();
    // To Linux, the `*` of patterns is a letter like any other.
    let devices = ["cni0", "br*"].map(|device| Some(Inside::Interface(name(device))));
    let begins = ["cali", "cali*"].map(|prefix| Some(Inside::InterfacePrefix(name(prefix))));
    for masquerade_all in [false, true] {
        for inside in networks.iter().chain(&devices).chain(&begins).chain([&None]) {
            for (bit, node_address) in [(0, None), (14, Some(Ipv4Addr::new(192, 0, 2, 1))), (31, None)] {
                let settings = RuleSettings {
                    masquerade_mark: 1 << bit,
                    masquerade_all,
                    inside: inside.clone(),
                    node_address,
                };
                let told: Vec<_> =
                    comments(&settings, "postrouting").iter().filter_map(|text| settings_of(text)).collect();
                assert_eq!(told, [settings]);
            }
        }
    }
    for text in
        ["", "masquerade", "rules=1", "rules=1 mark=16384 masquerade-all=no pods=unknown node=unknown"]
    {
        assert_eq!(settings_of(text), None, "{text}");
    }
}

#[test]
fn elements_are_what_they_were_written_as() {
    let server = |address: &str, protocol, port| VirtualServerKey {
        address: address.parse().unwrap(),
        protocol,
        port,
    };
    for (family, address, network) in
        [(Family::V4, "10.96.0.1", "203.0.113.0/25"), (Family::V6, "fd00::1", "2001:db8:8000::/33")]
    {
        let ip: std::net::IpAddr = address.parse().unwrap();
        let http = server(address, Protocol::Tcp, 80);
        for element in [
            Element::ClusterAddress(ip),
            Element::ExternalAddress(ip),
            Element::SharedAddress(ip),
            Element::Hairpin(ip),
            Element::HealthCheck(server(address, Protocol::Tcp, 32_000)),
            Element::Owned(http),
            Element::Masquerade(server(address, Protocol::Udp, 1)),
            Element::InCluster(http, ip, 65_535),
            Element::Internal(server(address, Protocol::Sctp, 256)),
            Element::Dropped(http),
            Element::Refused(http),
            Element::Restricted(http),
            Element::Allowed(http, network.parse().unwrap()),
            Element::Allowed(http, ipnet::IpNet::from(ip)),
        ] {
            let (set, encoded) = encode(element);
            assert!(sets::of(family).contains(&set), "{element}");
            assert_eq!(set.name, element.set_name());
            assert_eq!(encoded.key.len(), set.key.length(family) as usize, "{element}");
            assert_eq!(sets::decode(family, &set, &encoded), Some(element));
        }
    }
    let (set, mut encoded) =
        encode(Element::Allowed(server("10.0.0.1", Protocol::Tcp, 80), "10.0.0.0/8".parse().unwrap()));
    assert_eq!(encoded.key[12..], [10, 0, 0, 0]);
    encoded.key[15] = 1;
    assert_eq!(sets::decode(Family::V4, &set, &encoded), None, "no network");
}

/// The elements of one kind fill several messages, whose lists have 16-bit lengths.
#[test]
fn any_number_of_elements_of_every_kind_is_written() {
    const COUNT: u16 = 5000;
    for family in Family::ALL {
        let elements: BTreeSet<Element> =
            (0..COUNT).flat_map(|number| one_of_each_kind(family, number)).collect();
        assert_eq!(elements.len(), usize::from(COUNT) * sets::of(family).len());
        let mut transaction = Transaction::new();
        transaction.fill(family, &elements.iter().copied().collect::<Vec<_>>());
        let frames = transaction.finish();
        let mut written = BTreeSet::new();
        // The first and the last message enclose the others.
        for index in 1..frames.len() - 1 {
            let message = frames.message(index);
            let name = nfnetlink::attributes(&message).get(wire::elements::SET).unwrap();
            let set = sets::of(family).into_iter().find(|set| Some(set.name) == name.text()).unwrap();
            let found = elements_of(message);
            assert!(!found.is_empty());
            written.extend(found.iter().map(|encoded| sets::decode(family, &set, encoded).unwrap()));
        }
        assert_eq!(written, elements);
    }
}

/// An element for each set of the family; another number gives other elements.
fn one_of_each_kind(family: Family, number: u16) -> Vec<Element> {
    let address: std::net::IpAddr = match family {
        Family::V4 => Ipv4Addr::from_bits(0x0a60_0000 + u32::from(number)).into(),
        Family::V6 => std::net::Ipv6Addr::from_bits((0xfd00 << 112) + u128::from(number)).into(),
    };
    let server = VirtualServerKey { address, protocol: Protocol::Tcp, port: 80 };
    let mut elements = vec![
        Element::ClusterAddress(address),
        Element::ExternalAddress(address),
        Element::SharedAddress(address),
        Element::Hairpin(address),
        Element::HealthCheck(server),
        Element::Owned(server),
        Element::Masquerade(server),
        Element::InCluster(server, address, 80),
        Element::Internal(server),
        Element::Dropped(server),
        Element::Refused(server),
        Element::Restricted(server),
        Element::Allowed(server, address.into()),
    ];
    if family == Family::V4 {
        elements.push(Element::Numbered(InterfaceName::new(&format!("eth{number}")).unwrap()));
    }
    elements
}

/// Between two dumps, the kernel may run short of memory or find some again.
#[test]
fn a_set_is_the_same_wherever_its_list_is_cut() {
    let mut dumps = [vec![vec!['a', 'b'], vec!['c'], vec![]], vec![vec!['a'], vec!['b', 'c'], vec![]]]
        .into_iter()
        .map(|items| joined(Dump { datagrams: items.len(), items }));
    let found = settled(|| Ok(dumps.next().expect("two are enough")), PartialEq::eq).unwrap();
    assert_eq!(found, ['a', 'b', 'c']);
}

/// The kernel's lookup of 16-byte fields is not to be relied upon; and the fields must cover the whole key.
#[test]
fn ranges_are_looked_up_by_short_fields() {
    for family in Family::ALL {
        let sets = sets::of(family);
        let mut transaction = Transaction::new();
        transaction.add_ruleset(family, &Ruleset::new(family, &settings(false, None), Variant::Plain));
        let frames = transaction.finish();
        let mut ranges = 0;
        // The sets follow the message that opens the transaction.
        for (index, set) in (1..).zip(&sets) {
            let message = frames.message(index);
            let attributes = nfnetlink::attributes(&message);
            assert_eq!(attributes.get(wire::set::NAME).unwrap().text(), Some(set.name));
            let Some(description) = attributes.get(wire::set::DESCRIPTION) else { continue };
            assert!(set.interval);
            ranges += 1;
            let fields = description.nested().get(wire::set::FIELDS).unwrap().nested();
            let lengths: Vec<u32> = fields
                .map(|field| field.nested().get(wire::set::FIELD_LENGTH).unwrap().be32().unwrap())
                .collect();
            assert!(lengths.iter().all(|length| *length <= 4), "{family} {}: {lengths:?}", set.name);
            // NFT_REG32_COUNT.
            assert!(lengths.len() <= 16);
            let padded: u32 = lengths.iter().map(|length| length.next_multiple_of(4)).sum();
            assert_eq!(padded, set.key.length(family), "{family} {}: {lengths:?}", set.name);
        }
        assert_eq!(ranges, sets.iter().filter(|set| set.interval).count());
    }
}

/// `nft` cuts comments at 128 bytes.
#[test]
fn comments_are_short_enough_for_nft() {
    let longest = RuleSettings {
        node_address: Some(Ipv4Addr::BROADCAST),
        ..settings(true, Some("2001:db8:1111:2222:3333:4444:5555:6666/127"))
    };
    for chain in Ruleset::new(Family::V4, &longest, Variant::Plain).chains {
        for text in comments(&longest, chain.name) {
            assert!(text.len() < 128, "{text}");
            assert_eq!(comment_of(&comment(&text)), Some(text.as_str()));
        }
    }
    // Entries of other types come first, or the data is cut off.
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

//! Our nftables tables: written over netlink, printed and reloaded by `nft`, damaged and read back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "common/host.rs"]
mod host;
#[path = "common/lab.rs"]
mod lab;
#[path = "nft/packets.rs"]
mod packets;
#[path = "common/talk.rs"]
mod talk;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnet::IpNet;
use kube_ipvs::cluster::types::{Family, Protocol};
use kube_ipvs::diff::Step;
use kube_ipvs::kernel::nft::Tables;
use kube_ipvs::kernel::{Outcome, version};
use kube_ipvs::state::{Element, Inside, InterfaceName, RuleSettings, Rules, VirtualServerKey};

use self::packets::{
    a_pod_network_that_holds_the_services, a_stray_segment_ends_no_connection, an_invalid_segment_arrives,
    an_invalid_segment_ends_no_masqueraded_connection, an_invalid_segment_ends_no_rewritten_connection,
    ipv4_pods_node_and_outside, ipv6_pods_node_and_outside, lost_connections_are_reset, masquerade_all,
    networks_of_every_length_are_told_from_their_neighbours, other_traffic_is_untouched,
    pods_are_known_by_their_bridge, the_end_of_a_lost_connection_is_answered,
    without_a_pod_network_only_the_node_is_masqueraded,
};

fn main() -> std::process::ExitCode {
    lab::run(lab::tests![
        every_combination_of_settings_is_read_back_printed_and_loaded_again,
        installing_replaces_whatever_is_there,
        every_kind_of_damage_is_seen,
        the_plain_variant_is_intact_too,
        elements_are_added_and_deleted,
        a_refused_change_does_not_stop_the_others,
        changes_without_a_table_are_refused,
        steps_of_the_wrong_family_are_refused_and_not_sent,
        what_is_refused_of_a_table_is_named,
        without_the_right_every_step_is_refused,
        many_elements,
        many_ranges,
        ranges_of_an_entry_point_are_exchanged_at_once,
        a_way_inside_is_turned_at_once,
        ipv4_pods_node_and_outside,
        ipv6_pods_node_and_outside,
        pods_are_known_by_their_bridge,
        without_a_pod_network_only_the_node_is_masqueraded,
        a_pod_network_that_holds_the_services,
        masquerade_all,
        lost_connections_are_reset,
        other_traffic_is_untouched,
        a_stray_segment_ends_no_connection,
        an_invalid_segment_arrives,
        an_invalid_segment_ends_no_masqueraded_connection,
        an_invalid_segment_ends_no_rewritten_connection,
        the_end_of_a_lost_connection_is_answered,
        networks_of_every_length_are_told_from_their_neighbours,
    ])
}

fn settings(pods: Option<&str>) -> RuleSettings {
    RuleSettings {
        masquerade_mark: 0x4000,
        masquerade_all: false,
        inside: pods.map(|network| Inside::Network(network.parse().unwrap())),
        node_address: None,
    }
}

/// One element of each kind, and some more.
fn elements(family: Family) -> Vec<Element> {
    let texts: [&str; 5] = match family {
        Family::V4 => ["10.96.0.1", "10.96.0.10", "10.244.0.7", "203.0.113.0/25", "198.51.100.0/31"],
        Family::V6 => {
            ["fd00:10:96::1", "fd00:10:96::a", "fd00:10:244::7", "2001:db8:1::/49", "2001:db8:2::/127"]
        }
    };
    let [first, second, endpoint]: [IpAddr; 3] =
        [texts[0], texts[1], texts[2]].map(|text| text.parse().unwrap());
    let server = |protocol, port| VirtualServerKey { address: second, protocol, port };
    let http = server(Protocol::Tcp, 80);
    let mut elements = vec![
        Element::ClusterAddress(first),
        Element::ClusterAddress(second),
        Element::Hairpin(endpoint),
        Element::ExternalAddress(second),
        Element::SharedAddress(second),
        Element::HealthCheck(server(Protocol::Tcp, 32_000)),
        Element::Owned(http),
        Element::Masquerade(server(Protocol::Udp, 53)),
        Element::InCluster(http, first, 8080),
        Element::InCluster(server(Protocol::Sctp, 65_535), first, 1),
        Element::Internal(server(Protocol::Tcp, 30_080)),
        Element::Dropped(http),
        Element::Refused(server(Protocol::Udp, 80)),
        Element::Restricted(http),
        Element::Allowed(http, texts[3].parse().unwrap()),
        Element::Allowed(http, texts[4].parse().unwrap()),
        Element::Allowed(server(Protocol::Sctp, 80), IpNet::from(first)),
        Element::Allowed(server(Protocol::Udp, 80), texts[3].parse().unwrap()),
    ];
    if family == Family::V4 {
        elements.push(Element::Numbered(InterfaceName::new("eth0").unwrap()));
        elements.push(Element::Numbered(InterfaceName::new("fifteen-letters").unwrap()));
    }
    elements
}

fn set(elements: &[Element]) -> BTreeSet<Element> {
    elements.iter().copied().collect()
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn apply(tables: &mut Tables, steps: &[Step]) -> Vec<Outcome> {
    tables.apply(&steps.iter().collect::<Vec<_>>())
}

/// Carries out steps, all of which must succeed.
fn done(tables: &mut Tables, steps: &[Step]) {
    for (step, outcome) in steps.iter().zip(apply(tables, steps)) {
        assert_eq!(outcome, Outcome::Done, "{step:?}");
    }
}

/// 0 for done, the errno for refused.
fn errno(outcome: &Outcome) -> i32 {
    match outcome {
        Outcome::Done => 0,
        Outcome::Refused(refusal) => refusal.errno,
        Outcome::Unknown | Outcome::Skipped(_) => panic!("{outcome:?}"),
    }
}

fn every_combination_of_settings_is_read_back_printed_and_loaded_again() {
    let mut tables = Tables::open().unwrap();
    let networks = [
        [None, Some("10.244.0.0/16"), Some("10.128.0.0/9"), Some("10.1.2.3/32"), Some("0.0.0.0/0")],
        [None, Some("fd00:10:244::/56"), Some("fd00:8000::/17"), Some("fd00::7/128"), Some("::/0")],
    ];
    for (family, networks) in Family::ALL.into_iter().zip(networks) {
        let table = format!("{} kube-ipvs", name(family));
        let combinations = networks.into_iter().flat_map(|pods| [(pods, false), (pods, true)]);
        // nft prints the bits at the edges differently.
        let combinations = combinations.flat_map(|(pods, all)| [14, 31].map(|bit| (pods, all, bit)));
        let bits = [0, 1, 15, 16, 30].map(|bit| (networks[1], false, bit));
        let of_networks = combinations.chain(bits).map(|(pods, masquerade_all, bit)| RuleSettings {
            masquerade_mark: 1 << bit,
            masquerade_all,
            ..settings(pods)
        });
        let name = |name| InterfaceName::new(name).unwrap();
        let by_device = [Inside::Interface(name("cni0")), Inside::InterfacePrefix(name("cali"))];
        let of_devices = by_device.map(|inside| RuleSettings { inside: Some(inside), ..settings(None) });
        let numbered = (family == Family::V4).then(|| RuleSettings {
            node_address: Some("192.0.2.1".parse().unwrap()),
            ..settings(networks[1])
        });
        for settings in of_networks.chain(of_devices).chain(numbered) {
            done(&mut tables, &[Step::InstallRules(family, settings.clone(), elements(family))]);
            let expected = (Some(Rules::Intact(settings.clone())), set(&elements(family)));
            assert_eq!(tables.read(family).unwrap(), expected, "{settings:?}");

            let script = format!(
                "f=$(mktemp); nft list table {table} | tee $f; nft delete table {table}; nft -f $f; rm $f
                 echo AGAIN; nft list table {table}"
            );
            let printed = lab::shell(&script);
            let (before, after) = printed.split_once("AGAIN\n").unwrap();
            assert_eq!(before, after);
            assert_eq!(tables.read(family).unwrap(), expected, "{settings:?} loaded again:\n{printed}");
        }
    }
}

fn installing_replaces_whatever_is_there() {
    let mut tables = Tables::open().unwrap();
    let settings = settings(None);
    for family in Family::ALL {
        let table = format!("{} kube-ipvs", name(family));
        assert_eq!(tables.read(family).unwrap(), (None, BTreeSet::new()));
        // A table of the same name but another design, dormant, with chains that refer to each other.
        lab::shell(&format!(
            "nft 'table {table} {{
               flags dormant;
               set hairpin {{ type inet_service; flags interval; elements = {{ 1-3 }}; }}
               map m {{ type mark : verdict; elements = {{ 1 : jump b }}; }}
               chain b {{ counter; }}
               chain a {{ type filter hook input priority 0; policy drop; meta mark vmap @m; jump b; }}
             }}'"
        ));
        let (rules, found) = tables.read(family).unwrap();
        assert!(matches!(rules, Some(Rules::Other(_))) && found.is_empty(), "{rules:?} {found:?}");
        for _ in 0..2 {
            let install = Step::InstallRules(family, settings.clone(), elements(family));
            done(&mut tables, &[install]);
            let expected = (Some(Rules::Intact(settings.clone())), set(&elements(family)));
            assert_eq!(tables.read(family).unwrap(), expected);
        }
    }
    drop(tables);
    let tables = lab::shell("nft list tables");
    assert_eq!(tables, "table ip kube-ipvs\ntable ip6 kube-ipvs\n", "they stay when their maker goes");
}

/// Damages of the table, each with a part of the reason that is found.
const DAMAGES: &[(&str, &str)] = &[
    ("delete rule T input handle $(handle input 'other ports')", "chain input: rule 6"),
    (
        "delete rule T postrouting handle $(handle postrouting rules=)",
        "no rule has the comment in which kube-ipvs records its settings",
    ),
    ("add rule T input counter", "chain input: rule 11"),
    ("insert rule T prerouting counter", "chain prerouting: rule 1"),
    (
        "add rule T input position $(handle input exist) ct state established,related accept",
        "chain input: rule 2",
    ),
    (
        "replace rule T input handle $(handle input exist) ct state established accept comment '\"connections that exist\"'",
        "chain input: rule 1",
    ),
    (
        "replace rule T input handle $(handle input exist) ct state established,related counter accept comment '\"connections that exist\"'",
        "chain input: rule 1",
    ),
    (
        "replace rule T input handle $(handle input exist) ct state established,related accept",
        "chain input: rule 1",
    ),
    (
        "replace rule T postrouting handle $(handle postrouting itself) oif != lo ADDRESS saddr . ADDRESS daddr != @hairpin meta mark set meta mark or 0x4000 comment '\"a pod that reached itself through a service\"'",
        "chain postrouting: rule 1",
    ),
    ("flush chain T output", "chain output: rule 1"),
    ("flush table T", "no rule has the comment in which kube-ipvs records its settings"),
    ("'flush chain T output; delete chain T output'", "chain output is missing"),
    ("add chain T stranger", "chains, sets and other objects instead of"),
    (
        "add chain T stranger '{ type filter hook input priority 0; policy drop; }'",
        "other objects instead of",
    ),
    ("add set T stranger '{ type mark; }'", "other objects instead of"),
    ("add chain T input '{ policy drop; }'", "chain input has another"),
    ("add table T '{ flags dormant; }'", "the table has flags 0x1"),
    ("add element T hairpin '{ ONE . OTHER }'", "set hairpin holds"),
    ("add element T hairpin '{ * }'", "set hairpin holds an element that kube-ipvs never adds: *"),
    ("add element T masqueraded '{ * }'", "set masqueraded holds an element that kube-ipvs never adds: *"),
    ("add element T allowed '{ * }'", "set allowed holds an element that kube-ipvs never adds: *"),
    (
        "add element T in-cluster '{ * : ONE . 80 }'",
        "set in-cluster holds an element that kube-ipvs never adds: *",
    ),
    // nft prints the priority as a number, or since 1.1.3 by the name of the next one.
    ("REPRINT s/priority 101/priority 102/; s/priority srcnat + 1/priority 102/", "chain input has another"),
    ("REPRINT /chain.restrict-node/,/}/s/hook.output/hook input/", "chain restrict-node has another"),
    ("REPRINT s/rules=8.mark=0x00004000/rules=8 mark=0x00008000/", "chain prerouting: rule 3"),
    ("REPRINT s/pods=[^\" ]*/pods=unknown/", "chain prerouting: rule 2"),
    (
        "REPRINT s/pods=[^\" ]*/pods=somewhere/",
        "no rule has the comment in which kube-ipvs records its settings",
    ),
    (
        "REPRINT s/node=[^\" ]*/node=elsewhere/",
        "no rule has the comment in which kube-ipvs records its settings",
    ),
    ("REPRINT /set.hairpin/,/}/s/comment.*/size 65536;/", "set hairpin is of another kind"),
    (
        "REPRINT /set.cluster-addresses/,/}/s/comment.*/timeout 1h;/",
        "set cluster-addresses is of another kind",
    ),
    ("REPRINT /map.in-cluster/,/}/s/comment.*/timeout 1h;/", "set in-cluster is of another kind"),
    // Rules of chain input are swapped.
    ("REPRINT /such.connection/{h;d};/such.port/{G}", "chain input: rule 4"),
];

fn every_kind_of_damage_is_seen() {
    let mut tables = Tables::open().unwrap();
    let networks = ["10.244.0.0/16", "fd00:10:244::/56"];
    for (family, network) in Family::ALL.into_iter().zip(networks) {
        let (one, other) = match family {
            Family::V4 => ("10.0.0.1", "10.0.0.2"),
            Family::V6 => ("fd00::1", "fd00::2"),
        };
        let table = format!("{} kube-ipvs", name(family));
        let expected = (Some(Rules::Intact(settings(Some(network)))), set(&elements(family)));
        for (damage, why) in DAMAGES {
            // An element for all other keys exists since Linux 5.13.
            if damage.contains("{ *") && version::running() < (5, 13) {
                println!("left out, this kernel cannot be damaged so: {damage}");
                continue;
            }
            let install = Step::InstallRules(family, settings(Some(network)), elements(family));
            done(&mut tables, &[install]);
            assert_eq!(tables.read(family).unwrap(), expected);
            let command = match damage.strip_prefix("REPRINT ") {
                Some(edit) => format!(
                    "nft list table T | tee /dev/shm/old | sed '{edit}' >/dev/shm/new
                     if cmp -s /dev/shm/old /dev/shm/new; then echo nothing edited; exit 1; fi
                     nft delete table T; nft -f /dev/shm/new"
                ),
                None => format!("nft {damage}"),
            };
            let command =
                command.replace("ADDRESS", name(family)).replace("ONE", one).replace("OTHER", other);
            let command = command.replace('T', &table);
            lab::shell(&format!(
                "handle() {{ nft -a list chain {table} $1 | sed -n \"s/.*$2.* # handle //p\"; }}\n{command}"
            ));
            let read = tables.read(family).unwrap();
            let Some(Rules::Other(found)) = &read.0 else { panic!("{command}: not seen: {read:?}") };
            assert!(found.contains(why), "{command}: {found}");
        }
    }
}

/// As on a kernel without `masquerade fully-random`.
fn the_plain_variant_is_intact_too() {
    let mut tables = Tables::open().unwrap();
    let settings = settings(Some("10.244.0.0/16"));
    done(&mut tables, &[Step::InstallRules(Family::V4, settings.clone(), elements(Family::V4))]);
    lab::shell(
        "nft list ruleset | sed 's/masquerade fully-random/masquerade/' >/dev/shm/plain
         nft flush ruleset; nft -f /dev/shm/plain; ! nft list ruleset | grep fully-random",
    );
    let expected = (Some(Rules::Intact(settings)), set(&elements(Family::V4)));
    assert_eq!(tables.read(Family::V4).unwrap(), expected);
}

fn elements_are_added_and_deleted() {
    let mut tables = Tables::open().unwrap();
    for family in Family::ALL {
        done(&mut tables, &[Step::InstallRules(family, settings(None), Vec::new())]);
    }
    let all: Vec<Element> = Family::ALL.into_iter().flat_map(elements).collect();
    let add: Vec<Step> = all.iter().copied().map(Step::AddElement).collect();
    done(&mut tables, &add);
    for family in Family::ALL {
        let expected = (Some(Rules::Intact(settings(None))), set(&elements(family)));
        assert_eq!(tables.read(family).unwrap(), expected);
    }
    // Deletions come first: one call can recreate an element, whatever the order of the steps.
    done(&mut tables, &[Step::AddElement(all[0]), Step::DeleteElement(all[0])]);
    assert!(tables.read(Family::V4).unwrap().1.contains(&all[0]));
    let delete: Vec<Step> = all.iter().copied().map(Step::DeleteElement).collect();
    done(&mut tables, &delete);
    for family in Family::ALL {
        assert!(tables.read(family).unwrap().1.is_empty());
    }
}

fn a_refused_change_does_not_stop_the_others() {
    let mut tables = Tables::open().unwrap();
    let present = elements(Family::V4);
    done(&mut tables, &[Step::InstallRules(Family::V4, settings(None), present.clone())]);
    let missing = Element::Hairpin("10.244.0.9".parse().unwrap());
    let no_table = elements(Family::V6)[0];
    let new = Element::ClusterAddress("10.96.0.11".parse().unwrap());
    let steps = [
        Step::AddElement(present[0]),
        Step::DeleteElement(missing),
        Step::DeleteElement(present[1]),
        Step::AddElement(no_table),
        Step::AddElement(new),
        Step::AddElement(new),
    ];
    let outcomes = apply(&mut tables, &steps);
    assert_eq!(outcomes.iter().map(errno).collect::<Vec<_>>(), [17, 2, 0, 2, 0, 17], "{outcomes:?}");
    let rest: Vec<Element> =
        present.iter().copied().filter(|element| *element != present[1]).chain([new]).collect();
    assert_eq!(tables.read(Family::V4).unwrap().1, set(&rest));
}

fn changes_without_a_table_are_refused() {
    let mut tables = Tables::open().unwrap();
    let all = many(Family::V4, 2500);
    let steps: Vec<Step> = all.iter().copied().map(Step::AddElement).collect();
    let outcomes = apply(&mut tables, &steps);
    assert!(outcomes.iter().all(|outcome| errno(outcome) == 2), "ENOENT for each");
}

fn steps_of_the_wrong_family_are_refused_and_not_sent() {
    let mut tables = Tables::open().unwrap();
    let steps = [
        Step::InstallRules(Family::V4, settings(Some("fd00::/56")), Vec::new()),
        Step::InstallRules(Family::V6, settings(None), elements(Family::V4)),
        Step::AddDevice,
    ];
    let outcomes = apply(&mut tables, &steps);
    assert_eq!(outcomes.iter().map(errno).collect::<Vec<_>>(), [22, 22, 22]);
    assert_eq!(lab::shell("nft list tables"), "");
}

/// The kernel says by number which message of the transaction it objects to. What it does not have is refused in the
/// same way.
fn what_is_refused_of_a_table_is_named() {
    let mut tables = Tables::open().unwrap();
    for (family, outer, inner) in
        [(Family::V4, "10.0.0.0/8", "10.1.0.0/16"), (Family::V6, "fd00::/16", "fd00:1::/32")]
    {
        let key = VirtualServerKey {
            address: if family == Family::V4 { [192, 0, 2, 1].into() } else { Ipv6Addr::LOCALHOST.into() },
            protocol: Protocol::Tcp,
            port: 80,
        };
        let overlapping =
            [outer, inner].map(|network| Element::Allowed(key, network.parse().unwrap())).to_vec();
        let install = Step::InstallRules(family, settings(None), overlapping);
        let outcomes = apply(&mut tables, std::slice::from_ref(&install));
        let Outcome::Refused(refusal) = &outcomes[0] else { panic!("{outcomes:?}") };
        assert_eq!(refusal.text, "elements of set allowed: File exists (os error 17)");
    }
    assert_eq!(lab::shell("nft list tables"), "");
}

fn without_the_right_every_step_is_refused() {
    let mut tables = Tables::open().unwrap();
    done(&mut tables, &[Step::InstallRules(Family::V4, settings(None), Vec::new())]);
    let steps: Vec<Step> = many(Family::V4, 1500).into_iter().map(Step::AddElement).collect();
    let install = Step::InstallRules(Family::V6, settings(None), elements(Family::V6));
    // Capabilities belong to the thread, which ends with the test.
    let mut capabilities = rustix::thread::capabilities(None).unwrap();
    capabilities.effective.remove(rustix::thread::CapabilitySet::NET_ADMIN);
    rustix::thread::set_capabilities(None, capabilities).unwrap();
    for mut tables in [tables, Tables::open().unwrap()] {
        let outcomes = apply(&mut tables, &steps);
        assert!(outcomes.iter().all(|outcome| errno(outcome) == 1), "EPERM for each");
        assert_eq!(errno(&apply(&mut tables, std::slice::from_ref(&install))[0]), 1);
    }
}

/// Distinct elements, half service addresses, half endpoints.
fn many(family: Family, count: u32) -> Vec<Element> {
    let address = |number: u32| -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::from_bits(0x0a60_0000 + number).into(),
            Family::V6 => Ipv6Addr::from_bits((0xfd00 << 112) + u128::from(number)).into(),
        }
    };
    let kind = |number| {
        if number % 2 == 0 {
            Element::ClusterAddress(address(number))
        } else {
            Element::Hairpin(address(number))
        }
    };
    (0..count).map(kind).collect()
}

fn many_elements() {
    let mut tables = Tables::open().unwrap();
    for family in Family::ALL {
        let all = many(family, 20_000);
        let start = Instant::now();
        done(&mut tables, &[Step::InstallRules(family, settings(None), all.clone())]);
        println!("{family}: table with 20,000 elements made in {:?}", start.elapsed());
        let start = Instant::now();
        let (rules, found) = tables.read(family).unwrap();
        println!("{family}: read back in {:?}", start.elapsed());
        assert_eq!((rules, found.len()), (Some(Rules::Intact(settings(None))), 20_000));
        assert_eq!(found, set(&all));
        let start = Instant::now();
        done(&mut tables, &[Step::InstallRules(family, settings(None), all.clone())]);
        println!("{family}: the same replaced in {:?}", start.elapsed());

        let (first, second) = all.split_at(10_000);
        for (word, make) in
            [("deleted", Step::DeleteElement as fn(Element) -> Step), ("added", Step::AddElement)]
        {
            let steps: Vec<Step> = first.iter().copied().map(make).collect();
            let start = Instant::now();
            done(&mut tables, &steps);
            println!("{family}: 10,000 elements {word} in {:?}", start.elapsed());
            if word == "deleted" {
                assert_eq!(tables.read(family).unwrap().1, set(second));
            }
        }
        let steps: Vec<Step> = all.iter().copied().map(Step::AddElement).collect();
        let start = Instant::now();
        assert!(apply(&mut tables, &steps).iter().all(|outcome| errno(outcome) == 17));
        println!("{family}: 20,000 additions refused one by one in {:?}", start.elapsed());
        let one = [Step::DeleteElement(all[0]), Step::AddElement(all[1])];
        let start = Instant::now();
        apply(&mut tables, &one);
        println!("{family}: one deleted, one refused, in {:?}", start.elapsed());
    }
}

/// More elements than one list of a message can hold.
fn many_ranges() {
    let mut tables = Tables::open().unwrap();
    for family in Family::ALL {
        let allowed = |element: Element| match element {
            Element::ClusterAddress(address) | Element::Hairpin(address) => {
                let server = VirtualServerKey { address, protocol: Protocol::Tcp, port: 80 };
                Element::Allowed(server, address.into())
            }
            other => other,
        };
        let all: Vec<Element> = many(family, 2000).into_iter().map(allowed).collect();
        done(&mut tables, &[Step::InstallRules(family, settings(None), all.clone())]);
        assert_eq!(tables.read(family).unwrap(), (Some(Rules::Intact(settings(None))), set(&all)));
    }
}

/// Old and new ranges overlap; the order of the steps does not matter.
fn ranges_of_an_entry_point_are_exchanged_at_once() {
    let mut tables = Tables::open().unwrap();
    let server = VirtualServerKey { address: "10.0.0.1".parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
    let allowed = |network: &str| Element::Allowed(server, network.parse().unwrap());
    let old = [allowed("10.0.0.0/8"), allowed("192.168.0.0/24"), allowed("192.168.2.0/24")];
    done(&mut tables, &[Step::InstallRules(Family::V4, settings(None), old.to_vec())]);
    let new = [allowed("10.1.0.0/16"), allowed("10.2.0.0/16"), allowed("192.168.0.0/16")];
    let steps: Vec<Step> =
        new.into_iter().map(Step::AddElement).chain(old.into_iter().map(Step::DeleteElement)).collect();
    done(&mut tables, &steps);
    assert_eq!(tables.read(Family::V4).unwrap().1, set(&new));
}

fn a_way_inside_is_turned_at_once() {
    let mut tables = Tables::open().unwrap();
    let server = VirtualServerKey { address: "10.0.0.1".parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
    let to = |port| Element::InCluster(server, "10.96.0.1".parse().unwrap(), port);
    done(&mut tables, &[Step::InstallRules(Family::V4, settings(None), vec![to(80)])]);
    done(&mut tables, &[Step::AddElement(to(30_080)), Step::DeleteElement(to(80))]);
    assert_eq!(tables.read(Family::V4).unwrap().1, BTreeSet::from([to(30_080)]));
}

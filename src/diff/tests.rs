use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Plan, Step, StepKind, accepts, diff, order};
use crate::cluster::types::{Family, Protocol};
use crate::state::{
    Address, Element, Key, RealServer, RealServerKey, RuleSettings, Rules, Scope, State, VirtualServer,
    VirtualServerKey, Weight,
};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn tcp(address: &str, port: u16) -> VirtualServerKey {
    VirtualServerKey { address: ip(address), protocol: Protocol::Tcp, port }
}

fn allowed(network: &str) -> Element {
    Element::Allowed(tcp("203.0.113.1", 80), network.parse().expect("a network"))
}

/// A state with these elements, and virtual servers with this many real servers each.
fn state(elements: &[Element], servers: &[(VirtualServerKey, u8)]) -> State {
    let server = |count: u8| VirtualServer {
        scheduler: "rr".into(),
        flags: 0,
        timeout_seconds: 0,
        netmask_bits: 32,
        real_servers: (1..=count)
            .map(|number| {
                let key = RealServerKey { address: ip(&format!("10.244.0.{number}")), port: 8080 };
                (key, RealServer::with(Weight::Exactly(1)))
            })
            .collect(),
    };
    State {
        elements: elements.iter().copied().collect(),
        virtual_servers: servers.iter().map(|(key, count)| (*key, server(*count))).collect(),
        ..State::default()
    }
}

/// The same state with the addresses of its virtual servers.
fn local(elements: &[Element], servers: &[(VirtualServerKey, u8)]) -> State {
    let address = |(server, _): &(VirtualServerKey, u8)| (server.address, Address::wanted(server.address));
    State { addresses: servers.iter().map(address).collect(), ..state(elements, servers) }
}

/// The plan from one state to the other, after checking that it leads there.
fn plan(actual: &State, wanted: &State) -> Plan {
    let scope: Scope = actual.keys().chain(wanted.keys()).collect();
    let plan = diff(wanted, actual, &scope);
    let after = done(&plan, actual);
    assert_eq!(after, *wanted, "{plan:?}");
    assert!(accepts(wanted, &after, &scope), "{plan:?}");
    assert!(diff(wanted, &after, &scope).is_empty(), "{plan:?}");
    plan
}

/// The state after all steps of a plan.
fn done(plan: &Plan, before: &State) -> State {
    let mut after = before.clone();
    for planned in &plan.steps {
        planned.step.apply_to(&mut after);
    }
    after
}

/// The elements that a replaced table is made with.
fn installed(plan: &Plan) -> Option<BTreeSet<Element>> {
    plan.steps.iter().find_map(|planned| match &planned.step {
        Step::InstallRules(_, _, elements) => Some(elements.iter().copied().collect()),
        _ => None,
    })
}

/// The phase of the steps that match; all of them must be in the same one.
fn phase(plan: &Plan, is_it: impl Fn(&Step) -> bool) -> u8 {
    let found: BTreeSet<u8> =
        plan.steps.iter().filter(|planned| is_it(&planned.step)).map(|planned| planned.phase.0).collect();
    assert_eq!(found.len(), 1, "{plan:?}");
    found.into_iter().next().expect("one")
}

/// Whether a step needs a matching one.
fn needs(plan: &Plan, step: &Step, needed: impl Fn(&Step) -> bool) -> bool {
    let planned = plan.steps.iter().find(|planned| planned.step == *step).expect("the step");
    planned.needs.iter().any(|index| needed(&plan.steps[*index].step))
}

/// This holds whether the virtual server stays or goes with its last endpoint: the ranges exclude each other.
#[test]
fn ranges_are_exchanged_in_one_phase() {
    let server = tcp("203.0.113.1", 80);
    let before = state(&[Element::Restricted(server), allowed("10.0.0.0/8")], &[(server, 1)]);
    for servers in [&[(server, 1)][..], &[]] {
        let after = state(&[Element::Restricted(server), allowed("10.1.0.0/16")], servers);
        let plan = plan(&before, &after);
        let added = phase(&plan, |step| matches!(step, Step::AddElement(_)));
        assert_eq!(phase(&plan, |step| matches!(step, Step::DeleteElement(_))), added);
    }
}

/// This holds even if no other range comes: a client that may no longer use the entry point must not reach what is new
/// there.
#[test]
fn a_range_goes_before_real_servers_come() {
    let server = tcp("203.0.113.1", 80);
    let (stays, goes) = (allowed("10.0.0.0/8"), allowed("192.168.0.0/16"));
    let before = state(&[Element::Restricted(server), stays, goes], &[(server, 1)]);
    let plan = plan(&before, &state(&[Element::Restricted(server), stays], &[(server, 2)]));
    let gone = phase(&plan, |step| *step == Step::DeleteElement(goes));
    assert!(gone < phase(&plan, |step| matches!(step, Step::AddRealServer(..))));
}

#[test]
fn a_restriction_lasts_as_long_as_its_virtual_server() {
    let server = tcp("203.0.113.1", 80);
    let before = state(&[Element::Restricted(server), allowed("10.0.0.0/8")], &[(server, 1)]);
    let plan = plan(&before, &State::default());
    let gone = phase(&plan, |step| matches!(step, Step::DeleteVirtualServer(_)));
    assert!(phase(&plan, |step| matches!(step, Step::DeleteElement(_))) > gone);
}

#[test]
fn a_way_inside_comes_after_where_it_leads_and_is_turned_at_once() {
    let (from, to) = (tcp("203.0.113.1", 80), tcp("10.96.0.1", 30_080));
    let way = Element::InCluster(from, to.address, to.port);
    let made = plan(&State::default(), &state(&[way], &[(from, 1), (to, 2)]));
    let served = phase(&made, |step| matches!(step, Step::AddRealServer(..)));
    assert!(phase(&made, |step| matches!(step, Step::AddElement(_))) > served);

    let other = Element::InCluster(from, to.address, 80);
    let servers = [(from, 1), (to, 2), (tcp("10.96.0.1", 80), 2)];
    let turned = plan(&state(&[way], &servers), &state(&[other], &servers));
    let added = phase(&turned, |step| matches!(step, Step::AddElement(_)));
    assert_eq!(phase(&turned, |step| matches!(step, Step::DeleteElement(_))), added);
}

/// Clients that are sent to a virtual server must find it for as long as they are sent there.
#[test]
fn a_way_inside_goes_before_where_it_leads() {
    let (from, to) = (tcp("203.0.113.1", 80), tcp("10.96.0.1", 30_080));
    let way = Element::InCluster(from, to.address, to.port);
    let before = state(&[way, Element::Internal(to)], &[(from, 1), (to, 2)]);
    let after = state(&[Element::Masquerade(from)], &[(from, 2)]);
    let plan = plan(&before, &after);
    let gone = phase(&plan, |step| *step == Step::DeleteElement(way));
    assert!(gone > phase(&plan, |step| matches!(step, Step::AddRealServer(..))));
    assert!(gone < phase(&plan, |step| matches!(step, Step::DeleteVirtualServer(_))));
    // And if the way cannot be deleted, the virtual server stays.
    assert!(needs(&plan, &Step::DeleteVirtualServer(to), |step| *step == Step::DeleteElement(way)));
}

/// Not even for a moment: a client that is dropped tries again only after a second. Elements of one phase change
/// together.
#[test]
fn whoever_is_not_sent_past_an_entry_point_any_more_is_not_dropped_there() {
    let from = tcp("203.0.113.1", 80);
    let (stays, goes) = (tcp("10.96.0.1", 80), tcp("10.96.0.1", 30_080));
    for to in [stays, goes] {
        let way = Element::InCluster(from, to.address, to.port);
        let before = state(&[way, Element::Dropped(from)], &[(stays, 2), (goes, 2)]);
        let after = state(&[Element::Masquerade(from)], &[(stays, 2), (from, 2)]);
        let plan = plan(&before, &after);
        let dropped = phase(&plan, |step| *step == Step::DeleteElement(Element::Dropped(from)));
        assert!(dropped <= phase(&plan, |step| *step == Step::DeleteElement(way)), "{to}");
        assert!(dropped > phase(&plan, |step| matches!(step, Step::AddRealServer(..))), "{to}");
    }
}

/// Elements of one phase change together. Where nobody serves yet, clients are sent only once somebody does.
#[test]
fn clients_inside_are_sent_past_an_entry_point_before_it_drops() {
    let (from, to) = (tcp("203.0.113.1", 80), tcp("10.96.0.1", 80));
    let way = Element::InCluster(from, to.address, to.port);
    let sent_and_dropped = |plan: &Plan| {
        let sent = phase(plan, |step| *step == Step::AddElement(way));
        assert_eq!(sent, phase(plan, |step| *step == Step::AddElement(Element::Dropped(from))));
        sent
    };
    let after = local(&[way, Element::Dropped(from)], &[(to, 2)]);
    let with_another = local(&[way, Element::Dropped(from)], &[(to, 2), (tcp("10.96.0.2", 80), 1)]);
    let served = plan(&local(&[], &[(from, 2), (to, 2)]), &with_another);
    assert!(sent_and_dropped(&served) < phase(&served, |step| matches!(step, Step::AddVirtualServer(..))));
    for before in [local(&[], &[(from, 2)]), state(&[], &[(from, 2)])] {
        let made = plan(&before, &after);
        assert!(sent_and_dropped(&made) > phase(&made, |step| matches!(step, Step::AddRealServer(..))));
    }
    // A client that is sent to an address that the node does not have leaves the node.
    let unreached = plan(&state(&[], &[(from, 2), (to, 2)]), &after);
    assert_eq!(sent_and_dropped(&unreached), phase(&unreached, |step| matches!(step, Step::AddAddress(_))));
    // A way that is excluded goes in the same phase.
    let elsewhere = Element::InCluster(from, to.address, 81);
    let turned = plan(&local(&[elsewhere], &[(from, 2), (to, 2)]), &after);
    let gone = phase(&turned, |step| *step == Step::DeleteElement(elsewhere));
    assert_eq!(gone, sent_and_dropped(&turned));
}

/// Whether to drop is decided after a client was sent on. Elements of one phase change together.
#[test]
fn nobody_is_sent_to_an_entry_point_that_drops() {
    let from = tcp("203.0.113.1", 80);
    let (cluster_ip, inside) = (tcp("10.96.0.1", 80), tcp("10.96.0.1", 30_080));
    let way = |to: VirtualServerKey| Element::InCluster(from, to.address, to.port);
    // The internal policy is Local, and no endpoint is on this node: the cluster IP drops.
    let by_itself = local(&[way(inside), Element::Dropped(cluster_ip)], &[(inside, 2)]);
    let by_cluster_ip = local(&[way(cluster_ip)], &[(cluster_ip, 2)]);
    let opened = plan(&by_itself, &by_cluster_ip);
    let turned = phase(&opened, |step| *step == Step::AddElement(way(cluster_ip)));
    assert_eq!(turned, phase(&opened, |step| *step == Step::DeleteElement(Element::Dropped(cluster_ip))));
    let closed = plan(&by_cluster_ip, &by_itself);
    let turned = phase(&closed, |step| *step == Step::AddElement(way(inside)));
    assert_eq!(turned, phase(&closed, |step| *step == Step::AddElement(Element::Dropped(cluster_ip))));
    // Nobody is sent to the cluster IP any more, and it drops.
    let alone = local(&[Element::Dropped(cluster_ip)], &[(from, 2)]);
    let ended = plan(&local(&[way(cluster_ip)], &[(from, 2), (cluster_ip, 2)]), &alone);
    let gone = phase(&ended, |step| *step == Step::DeleteElement(way(cluster_ip)));
    assert_eq!(gone, phase(&ended, |step| *step == Step::AddElement(Element::Dropped(cluster_ip))));
}

/// This holds although the plan's scope does not have its key.
#[test]
fn what_is_in_the_way_of_a_wanted_element_goes() {
    let from = tcp("203.0.113.1", 80);
    let way = |port| Element::InCluster(from, ip("10.96.0.1"), port);
    for (old, new) in
        [(way(80), way(81)), (way(81), way(80)), (allowed("10.0.0.0/8"), allowed("10.1.0.0/16"))]
    {
        let (actual, wanted) = (state(&[old], &[]), state(&[new], &[]));
        let plan = diff(&wanted, &actual, &[Key::Element(new)].into());
        let steps: Vec<&Step> = plan.steps.iter().map(|planned| &planned.step).collect();
        assert_eq!(steps, [&Step::DeleteElement(old), &Step::AddElement(new)]);
    }
    let elsewhere = Element::InCluster(tcp("203.0.113.2", 80), ip("10.96.0.1"), 80);
    let actual = state(&[elsewhere, allowed("10.0.0.0/9")], &[]);
    let wanted = state(&[way(80), allowed("10.128.0.0/9")], &[]);
    let scope = [Key::Element(way(80)), Key::Element(allowed("10.128.0.0/9"))].into();
    assert!(diff(&wanted, &actual, &scope).steps.iter().all(|p| matches!(p.step, Step::AddElement(_))));
}

/// If the restriction is refused, the virtual server is not made, and everybody is refused.
#[test]
fn that_not_everybody_may_use_an_entry_point_is_said_before_it_is_made() {
    let server = tcp("203.0.113.1", 80);
    let elements = [Element::Owned(server), Element::Restricted(server), allowed("10.0.0.0/8")];
    let made = plan(&State::default(), &state(&elements, &[(server, 1)]));
    let mut steps = made.steps.iter().map(|planned| &planned.step);
    let add = steps.find(|step| matches!(step, Step::AddVirtualServer(..))).expect("a step");
    for element in [Element::Owned(server), Element::Restricted(server)] {
        assert!(needs(&made, add, |step| *step == Step::AddElement(element)), "{element}");
    }
}

#[test]
fn ownership_is_told_first_and_given_up_last() {
    let server = tcp("192.168.0.1", 30_080);
    let there = state(&[Element::Owned(server)], &[(server, 1)]);
    let made = plan(&State::default(), &there);
    let add = made
        .steps
        .iter()
        .map(|planned| &planned.step)
        .find(|step| matches!(step, Step::AddVirtualServer(..)));
    assert!(needs(&made, add.expect("a step"), |step| *step == Step::AddElement(Element::Owned(server))));
    let unmade = plan(&there, &State::default());
    let give_up = Step::DeleteElement(Element::Owned(server));
    assert!(needs(&unmade, &give_up, |step| *step == Step::DeleteVirtualServer(server)));
}

/// The table of a family is replaced in one transaction, long before the virtual servers that go.
#[test]
fn a_table_made_anew_still_tells_whose_the_virtual_servers_are_that_go() {
    let (cluster_ip, shared, node) = (ip("10.96.0.1"), ip("203.0.113.1"), tcp("192.168.0.1", 30_080));
    let telling = [
        Element::ClusterAddress(cluster_ip),
        Element::ExternalAddress(shared),
        Element::SharedAddress(shared),
        Element::Owned(node),
    ];
    let others = [
        Element::ClusterAddress(ip("10.96.0.2")),
        Element::ExternalAddress(ip("203.0.113.2")),
        Element::Owned(tcp("192.168.0.1", 30_081)),
        Element::Masquerade(node),
        Element::Hairpin(ip("10.244.0.1")),
    ];
    let servers = [(tcp("10.96.0.1", 80), 1), (tcp("203.0.113.1", 80), 1), (node, 1)];
    let mut before = state(&[&telling[..], &others].concat(), &servers);
    before.rules.insert(Family::V4, Rules::Other("somebody changed it".into()));
    let mut after = State::default();
    let settings =
        RuleSettings { masquerade_mark: 0x4000, masquerade_all: false, inside: None, node_address: None };
    after.rules.insert(Family::V4, Rules::Intact(settings));

    let plan = plan(&before, &after);
    assert_eq!(installed(&plan), Some(telling.into()));
    // The other elements are gone with the old table: the kernel would not find them.
    let deleted = plan.steps.iter().filter(|planned| matches!(planned.step, Step::DeleteElement(_)));
    assert_eq!(deleted.count(), telling.len(), "{plan:?}");
    for element in telling {
        assert!(needs(&plan, &Step::DeleteElement(element), |step| matches!(
            step,
            Step::DeleteVirtualServer(_)
        )));
    }
}

#[test]
fn a_real_server_needs_its_virtual_server() {
    let (web, db) = (tcp("10.96.0.1", 80), tcp("10.96.0.2", 5432));
    let made = plan(&state(&[], &[(db, 1)]), &state(&[], &[(web, 2), (db, 3)]));
    for planned in &made.steps {
        if let Step::AddRealServer(server, ..) = planned.step {
            let is_of = |step: &Step| matches!(step, Step::AddVirtualServer(made, _) if *made == server);
            assert_eq!(needs(&made, &planned.step, is_of), server == web, "{planned:?}");
        }
    }
}

/// The kernel walks a chain for each step, and is faster while it still has the chain in its caches.
#[test]
fn steps_about_one_chain_follow_each_other() {
    let servers: Vec<_> = (0..1024)
        .map(|number: u32| (tcp(&format!("10.96.{}.{}", number / 256, number % 256), 80), 1))
        .collect();
    let made = plan(&State::default(), &state(&[], &servers));
    for kind in [StepKind::AddVirtualServer, StepKind::AddRealServer] {
        let steps = made.steps.iter().filter(|planned| planned.step.kind() == kind);
        let mut chains: Vec<_> = steps
            .map(|planned| match planned.step.key() {
                Key::VirtualServer(server) => server.chain(),
                other => panic!("{other}"),
            })
            .collect();
        assert_eq!(chains.len(), 1024);
        chains.dedup();
        assert_eq!(chains.len(), 256, "{kind}");
    }
}

/// Connections continue: nothing is deleted and added again.
#[test]
fn a_virtual_server_is_changed_in_place_whatever_is_different() {
    let server = tcp("10.96.0.1", 80);
    let before = state(&[], &[(server, 2)]);
    let changes: [fn(&mut VirtualServer); 4] = [
        |server| server.scheduler = "lc".into(),
        |server| server.flags = VirtualServer::PERSISTENT,
        |server| server.timeout_seconds = 60,
        |server| server.netmask_bits = 24,
    ];
    for change in changes {
        let mut after = before.clone();
        after.virtual_servers.values_mut().for_each(change);
        let plan = plan(&before, &after);
        assert!(
            matches!(&plan.steps[..], [only] if only.step.kind() == StepKind::EditVirtualServer),
            "{plan:?}"
        );
    }
}

/// One working port is enough to attract traffic, and an address that already has one needs nothing.
#[test]
fn an_address_needs_the_first_of_its_virtual_servers() {
    let (first, second) = (tcp("10.96.0.1", 80), tcp("10.96.0.1", 443));
    let with_address = |servers: &[(VirtualServerKey, u8)]| {
        let mut state = state(&[], servers);
        state.addresses.insert(first.address, Address::wanted(first.address));
        state
    };
    let add = Step::AddAddress(first.address);
    let made = plan(&State::default(), &with_address(&[(first, 1), (second, 1)]));
    let needed = |port| {
        needs(&made, &add, |step| matches!(step, Step::AddVirtualServer(server, _) if server.port == port))
    };
    assert!(needed(80) && !needed(443));

    let beside = plan(&state(&[], &[(first, 1)]), &with_address(&[(first, 1), (second, 1)]));
    assert!(!needs(&beside, &add, |_| true));
}

/// Traffic to other ports of a service address is refused: this must not hit the node's own ports, not even for a
/// moment.
#[test]
fn an_address_that_is_new_and_shared_is_never_ours_alone() {
    let (server, address) = (tcp("203.0.113.1", 80), ip("203.0.113.1"));
    let shared = |step: &Step| *step == Step::AddElement(Element::SharedAddress(address));
    let elements = |element| [element, Element::SharedAddress(address), Element::Owned(server)];
    for element in [Element::ExternalAddress(address), Element::ClusterAddress(address)] {
        let plan = plan(&State::default(), &state(&elements(element), &[(server, 1)]));
        let known = phase(&plan, |step| *step == Step::AddElement(element));
        // Steps of one phase are one transaction.
        assert_eq!(phase(&plan, shared), known, "{element}");
    }
    // The address was ours before: then the order is the other one, as below.
    let before = state(&[Element::ClusterAddress(address)], &[]);
    let plan = plan(&before, &state(&elements(Element::ExternalAddress(address)), &[(server, 1)]));
    assert!(phase(&plan, shared) > phase(&plan, |step| matches!(step, Step::AddRealServer(..))));
}

/// Once an address is shared, a virtual server there is ours only if it is owned.
#[test]
fn an_address_is_not_called_shared_while_it_has_what_nobody_would_own() {
    let address = ip("203.0.113.1");
    let (kept, gone) = (tcp("203.0.113.1", 80), tcp("203.0.113.1", 81));
    let mut before = state(&[Element::ExternalAddress(address)], &[(kept, 1), (gone, 1)]);
    before.addresses.insert(address, Address::wanted(address));
    let shared = Element::SharedAddress(address);
    let after = state(&[Element::ExternalAddress(address), shared, Element::Owned(kept)], &[(kept, 1)]);
    let plan = plan(&before, &after);
    assert!(needs(&plan, &Step::AddElement(shared), |step| *step == Step::DeleteVirtualServer(gone)));
    let called = phase(&plan, |step| *step == Step::AddElement(shared));
    assert!(phase(&plan, |step| matches!(step, Step::DeleteAddress(_))) > called);
}

/// This holds even if the table is replaced along with it, in one transaction before everything else.
#[test]
fn a_table_made_anew_owns_what_goes_from_an_address_that_is_shared_now() {
    let address = ip("203.0.113.1");
    let (kept, gone, others) = (tcp("203.0.113.1", 80), tcp("203.0.113.1", 81), tcp("203.0.113.1", 82));
    // The Service of this one stays, and has no endpoint.
    let idle = tcp("203.0.113.1", 83);
    // This one is of a family whose table stays.
    let gone6 = tcp("fd00::1", 81);
    let services = [Element::ExternalAddress(address), Element::ExternalAddress(gone6.address)];
    let mut before = state(&services, &[(kept, 1), (gone, 1), (idle, 1), (others, 1), (gone6, 1)]);
    for address in [address, gone6.address] {
        before.addresses.insert(address, Address::wanted(address));
    }
    let shared = [services[0], Element::SharedAddress(address), Element::Owned(kept), Element::Owned(idle)];
    let shared6 = [services[1], Element::SharedAddress(gone6.address)];
    let mut after = state(&[&shared[..], &shared6].concat(), &[(kept, 1)]);
    let settings = RuleSettings {
        masquerade_mark: 0x4000,
        masquerade_all: false,
        inside: None,
        node_address: Some(std::net::Ipv4Addr::new(203, 0, 113, 1)),
    };
    after.rules.insert(Family::V4, Rules::Intact(settings));
    let mut scope: Scope = before.keys().chain(after.keys()).collect();
    // Nobody wants this one, and it is not ours.
    scope.remove(&Key::VirtualServer(others));

    let plan = diff(&after, &before, &scope);
    assert_eq!(installed(&plan), Some(shared.into_iter().chain([Element::Owned(gone)]).collect()));
    let give_up = Step::DeleteElement(Element::Owned(gone));
    assert!(needs(&plan, &give_up, |step| *step == Step::DeleteVirtualServer(gone)));
    let given_up = plan.steps.iter().filter(|planned| matches!(planned.step, Step::DeleteElement(_)));
    assert_eq!(given_up.count(), 1, "{plan:?}");

    let there = done(&plan, &before);
    assert_eq!(there.elements, after.elements);
    assert!(diff(&after, &there, &scope).is_empty(), "{there:?}");
}

#[test]
fn nodes_begin_with_different_real_servers() {
    let server = tcp("10.96.0.1", 80);
    let whole = plan(&State::default(), &state(&[], &[(server, 5)]));
    let order = |seed| {
        let mut plan = whole.clone();
        order::rotate(&mut plan, seed);
        let steps = plan.steps.iter().filter_map(|planned| match &planned.step {
            Step::AddRealServer(_, real, _) => Some(*real),
            _ => None,
        });
        let order: Vec<RealServerKey> = steps.collect();
        // Apart from the order, the plan is the same.
        assert_eq!(plan.steps.len(), whole.steps.len());
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 5);
        order
    };
    let mut firsts: BTreeMap<RealServerKey, usize> = BTreeMap::new();
    for seed in 0..200 {
        assert_eq!(order(seed), order(seed), "the same node begins with the same one");
        *firsts.entry(order(seed)[0]).or_default() += 1;
    }
    assert_eq!(firsts.len(), 5);
    assert!(firsts.values().all(|count| (20..=70).contains(count)), "{firsts:?}");

    // A scheduler that hashes chooses the same on all nodes.
    let mut hashing = state(&[], &[(server, 5)]);
    hashing.virtual_servers.values_mut().for_each(|server| server.scheduler = "mh".into());
    let hashing = plan(&State::default(), &hashing);
    let mut rotated = hashing.clone();
    order::rotate(&mut rotated, 1);
    assert_eq!(rotated, hashing);

    // If the virtual server already exists, the kernel decides whose turn it is.
    let more = plan(&state(&[], &[(server, 2)]), &state(&[], &[(server, 5)]));
    let mut rotated = more.clone();
    order::rotate(&mut rotated, 1);
    assert_eq!(rotated, more);
}

/// A packet that is not translated reaches a pod under an address that the pod does not have.
#[test]
fn a_real_server_that_is_forwarded_otherwise_is_changed_in_place() {
    /// `IP_VS_CONN_F_DROUTE`, as `ipvsadm -e -g` sets it.
    const ROUTED: u8 = 3;
    let server = tcp("10.96.0.1", 80);
    let after = state(&[], &[(server, 2)]);
    let mut before = after.clone();
    let known = &mut before.virtual_servers.get_mut(&server).expect("it is there").real_servers;
    let first = *known.keys().next().expect("two");
    let live = RealServer::with(Weight::Exactly(1));
    known.insert(first, RealServer { forwarding: ROUTED, ..live });
    let plan = plan(&before, &after);
    let steps: Vec<&Step> = plan.steps.iter().map(|planned| &planned.step).collect();
    assert_eq!(steps, [&Step::EditRealServer(server, first, live)]);
}

/// A threshold keeps connections away from a wanted real server, and any write removes it.
#[test]
fn a_threshold_is_not_left_and_not_believed_to_stay() {
    let server = tcp("10.96.0.1", 80);
    let after = state(&[], &[(server, 2)]);
    let mut before = after.clone();
    let mut ending = after.clone();
    let live = RealServer::with(Weight::Exactly(1));
    let known = &mut before.virtual_servers.get_mut(&server).expect("it is there").real_servers;
    let first = *known.keys().next().expect("two");
    known.insert(first, RealServer { is_limited: true, ..live });
    let real_servers = &mut ending.virtual_servers.get_mut(&server).expect("it is there").real_servers;
    real_servers.insert(first, RealServer::with(Weight::DrainIfPresent));
    for (wanted, written) in [(&after, live), (&ending, RealServer::with(Weight::Exactly(0)))] {
        let plan = diff(wanted, &before, &wanted.keys().collect());
        let steps: Vec<&Step> = plan.steps.iter().map(|planned| &planned.step).collect();
        assert_eq!(steps, [&Step::EditRealServer(server, first, written)]);
    }
}

/// Everything that reports that all is well asks only [`accepts`], and so do the properties in these tests.
#[test]
fn only_what_is_as_wanted_is_accepted() {
    let server = tcp("10.96.0.1", 80);
    let wanted = State { device: true, ..state(&[], &[(server, 2)]) };
    let scope: Scope = wanted.keys().collect();
    let accepts_with = |change: &dyn Fn(&mut VirtualServer)| {
        let mut actual = wanted.clone();
        actual.virtual_servers.values_mut().for_each(change);
        accepts(&wanted, &actual, &scope)
    };
    let (known, other) = (
        RealServerKey { address: ip("10.244.0.1"), port: 8080 },
        RealServerKey { address: ip("10.244.0.9"), port: 8080 },
    );
    assert!(accepts_with(&|_| {}));
    assert!(!accepts_with(&|server| server.scheduler = "lc".into()));
    assert!(!accepts_with(&|server| {
        server.real_servers.insert(other, RealServer::with(Weight::Exactly(1)));
    }));
    assert!(!accepts_with(&|server| {
        server.real_servers.insert(known, RealServer::with(Weight::Exactly(0)));
    }));
    assert!(!accepts_with(&|server| {
        server.real_servers.remove(&known);
    }));
    assert!(!accepts(&wanted, &State { device: false, ..wanted.clone() }, &scope));
    // A setting that is not wanted may be anything.
    for device in [false, true] {
        assert!(accepts(&State::default(), &State { device, ..State::default() }, &[Key::Device].into()));
    }
}

/// Such a real server gets no new connections, or is gone already.
#[test]
fn a_real_server_that_drains_is_accepted_without_weight_or_not_at_all() {
    let server = tcp("10.96.0.1", 80);
    let actual = state(&[], &[(server, 2)]);
    let mut wanted = actual.clone();
    let real_servers = &mut wanted.virtual_servers.get_mut(&server).expect("it is there").real_servers;
    let first = *real_servers.keys().next().expect("two");
    real_servers.insert(first, RealServer::with(Weight::DrainIfPresent));
    let accepts_with = |change: &dyn Fn(&mut VirtualServer)| {
        let mut actual = actual.clone();
        actual.virtual_servers.values_mut().for_each(change);
        accepts(&wanted, &actual, &wanted.keys().collect())
    };
    assert!(!accepts_with(&|_| {}));
    assert!(accepts_with(&|server| {
        server.real_servers.insert(first, RealServer::with(Weight::Exactly(0)));
    }));
    assert!(accepts_with(&|server| {
        server.real_servers.remove(&first);
    }));
}

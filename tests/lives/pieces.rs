//! A start that writes in pieces uses an order in which no client is cut off from what it may reach.

use kube_ipvs::cluster::types::{External, Policy};
use kube_ipvs::state::{Element, Weight};

use super::*;

const COUNT: u16 = 300;

/// The steps of a start on a node with these addresses, whatever this kernel holds.
fn started(kernel: &MemoryKernel, services: Vec<Service>, addresses: &BTreeSet<NodeAddress>) -> Vec<Step> {
    let mut life = Life::at_pace(options(), kernel.clone(), Duration::ZERO, NEVER);
    let [_, slices, node] = cluster(COUNT);
    let addresses = Event::NodeAddresses(addresses.clone());
    life.feed([addresses, Event::Service(Change::Replace(services)), slices, node]);
    // Slow work makes the pieces small: within one piece, the order is right anyway.
    while let Next::Work(work) = life.reconciler.next(life.now) {
        life.work_for(&work, Duration::from_millis(20));
    }
    life.settle();
    life.kernel.take_written()
}

/// The steps of a start that finds our tables without any element of a Service.
fn written(services: Vec<Service>, addresses: &BTreeSet<NodeAddress>) -> Vec<Step> {
    let kernel = MemoryKernel::default();
    started(&kernel, Vec::new(), addresses);
    let written = started(&kernel, services, addresses);
    assert!(!written.iter().any(|step| matches!(step, Step::InstallRules(..))), "with all elements at once");
    written
}

/// Services with these ways in from outside.
fn reached(external: impl Fn(IpAddr) -> External) -> Vec<Service> {
    let with = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let external = external([203, 0, 113 + high, low].into());
        Service { external: Some(Box::new(external)), ..service(number) }
    };
    (0..COUNT).map(with).collect()
}

/// Services with a load balancer address each, and this policy for it.
fn balanced(policy: Policy) -> Vec<Service> {
    reached(|address| External { load_balancer_ips: vec![address], policy, ..External::default() })
}

/// Adds a node port to each of these Services.
fn with_node_ports(mut services: Vec<Service>) -> Vec<Service> {
    for (service, number) in services.iter_mut().zip(0..) {
        service.ports[0].node_port = Some(30_000 + number);
    }
    services
}

/// The plans of a start on a node with an address and an empty kernel.
fn planned(services: Vec<Service>) -> Vec<Vec<Step>> {
    let node =
        NodeAddress { address: ip("192.168.0.1"), interface: "eth0".into(), scope: AddressScope::Global };
    let mut life = Life::at_pace(options(), MemoryKernel::default(), Duration::ZERO, NEVER);
    let [_, slices, of_node] = cluster(COUNT);
    let addresses = Event::NodeAddresses([node].into());
    life.feed([addresses, Event::Service(Change::Replace(services)), slices, of_node]);
    let mut plans = Vec::new();
    while let Next::Work(work) = life.reconciler.next(life.now) {
        if let Work::Apply(plan) = &work {
            plans.push(plan.steps.iter().map(|planned| planned.step.clone()).collect());
        }
        life.work(&work);
    }
    plans
}

fn position(written: &[Step], is_it: impl Fn(&Step) -> bool) -> usize {
    written.iter().position(is_it).expect("it was written")
}

#[test]
fn a_way_inside_comes_after_those_who_take_what_it_sends() {
    let services = balanced(Policy::Local);
    let written = written(services, &BTreeSet::new());
    let mut ways = 0;
    for (index, step) in written.iter().enumerate() {
        let Step::AddElement(Element::InCluster(from, address, port)) = step else { continue };
        let to = VirtualServerKey { address: *address, port: *port, ..*from };
        let real =
            position(&written, |step| matches!(step, Step::AddRealServer(server, ..) if *server == to));
        assert!(real < index, "{step} before {to} has a real server");
        ways += 1;
    }
    assert_eq!(ways, COUNT);
}

/// The next life begins with other policies for the Services, which have no endpoint on the node.
#[test]
fn a_way_inside_goes_before_where_it_led_and_after_everybody_is_served_where_it_began() {
    let with = |external, internal| {
        balanced(external)
            .into_iter()
            .map(|service| Service { internal_policy: internal, ..service })
            .collect()
    };
    let (kernel, none) = (MemoryKernel::default(), BTreeSet::new());
    started(&kernel, with(Policy::Local, Policy::Local), &none);
    let before = kernel.state().elements;
    let written = started(&kernel, with(Policy::Cluster, Policy::Cluster), &none);
    let mut ways = 0;
    for element in before {
        let Element::InCluster(from, address, port) = element else { continue };
        let to = VirtualServerKey { address, port, ..from };
        let at = |step: Step| position(&written, |written| *written == step);
        let gone = at(Step::DeleteElement(element));
        let dropped = at(Step::DeleteElement(Element::Dropped(from)));
        let unmade = at(Step::DeleteVirtualServer(to));
        let served =
            position(&written, |step| matches!(step, Step::AddRealServer(server, ..) if *server == from));
        assert!(served < dropped && dropped < gone && gone < unmade, "{element}");
        ways += 1;
    }
    assert_eq!(ways, COUNT);
}

/// The state that kube-proxy's ipvs mode leaves: a Service without local endpoints has all of them.
#[test]
fn a_way_inside_to_who_serves_comes_before_its_beginning_is_dropped() {
    let (kernel, none) = (MemoryKernel::default(), BTreeSet::new());
    started(&kernel, balanced(Policy::Cluster), &none);
    let written = started(&kernel, balanced(Policy::Local), &none);
    let mut ways = BTreeSet::new();
    let (mut dropped, mut drained) = (0, 0);
    for step in &written {
        match step {
            Step::AddElement(Element::InCluster(from, ..)) => _ = ways.insert(*from),
            Step::AddElement(Element::Dropped(server)) => {
                assert!(ways.contains(server), "{step}");
                dropped += 1;
            }
            Step::EditRealServer(server, _, real) if real.weight == Weight::Exactly(0) => {
                assert!(ways.contains(server), "{step}");
                drained += 1;
            }
            _ => {}
        }
    }
    assert_eq!((ways.len(), dropped, drained), (COUNT.into(), COUNT, 2 * COUNT));
}

/// The address is the node's: kube-proxy's rules serve the entry point until ours declare it ours.
#[test]
fn a_node_port_is_not_taken_from_who_serves_it_long_before_it_is_served() {
    let mut owned = 0;
    let plans = planned(with_node_ports(reached(|_| External::default())));
    for steps in &plans {
        for step in steps {
            let Step::AddElement(Element::Owned(server)) = step else { continue };
            let is_made = |step: &Step| matches!(step, Step::AddVirtualServer(made, _) if made == server);
            assert!(steps.iter().any(is_made), "{step} without its virtual server");
            owned += 1;
        }
    }
    assert!(owned == COUNT && plans.len() > 3, "{owned} node ports in {} plans", plans.len());
}

/// Until then kube-proxy's rules serve these clients there, and afterwards those rules would not be reached.
#[test]
fn clients_inside_are_sent_past_an_entry_point_before_it_is_taken_from_who_serves_it() {
    let services = balanced(Policy::Local);
    let plans = planned(with_node_ports(services));
    let plan_of = |is_it: &dyn Fn(&Step) -> bool| plans.iter().position(|steps| steps.iter().any(is_it));
    let mut ways = 0;
    for (index, steps) in plans.iter().enumerate() {
        for step in steps {
            let Step::AddElement(Element::InCluster(from, ..)) = step else { continue };
            let owned = plan_of(&|step| *step == Step::AddElement(Element::Owned(*from)));
            let dropped = plan_of(&|step| *step == Step::AddElement(Element::Dropped(*from)));
            let address = plan_of(&|step| *step == Step::AddAddress(from.address));
            assert_eq!(owned.is_none(), address.is_some(), "one of both tells whose {from} is");
            for later in [owned, dropped, address].into_iter().flatten() {
                assert!(later >= index, "{step} in plan {index} of {}, and {later}", plans.len());
            }
            ways += 1;
        }
    }
    assert_eq!(ways, 2 * COUNT);
}

/// The state that a life leaves when it ends early: addresses are written last.
#[test]
fn clients_inside_are_not_sent_to_an_address_that_the_node_does_not_have_yet() {
    let (kernel, none) = (MemoryKernel::default(), BTreeSet::new());
    started(&kernel, (0..COUNT).map(service).collect(), &none);
    kernel.meddle(|state| state.addresses.clear());
    let services = balanced(Policy::Local);
    let written = started(&kernel, services, &none);
    let mut ways = 0;
    for (index, step) in written.iter().enumerate() {
        let Step::AddElement(Element::InCluster(_, to, _)) = step else { continue };
        assert!(position(&written, |step| *step == Step::AddAddress(*to)) < index, "{step}");
        ways += 1;
    }
    assert_eq!(ways, COUNT);
}

#[test]
fn who_may_use_an_entry_point_is_said_before_others_may_not() {
    let services = reached(|address| External {
        load_balancer_ips: vec![address],
        source_ranges: vec!["10.0.0.0/8".parse().expect("a network"), "172.16.0.0/12".parse().expect("one")],
        ..External::default()
    });
    let written = written(services, &BTreeSet::new());
    let mut restricted = BTreeSet::new();
    for step in &written {
        match step {
            Step::AddElement(Element::Restricted(server)) => _ = restricted.insert(*server),
            Step::AddElement(Element::Allowed(server, _)) => assert!(!restricted.contains(server), "{step}"),
            _ => {}
        }
    }
    assert_eq!(restricted.len(), usize::from(COUNT));
}

/// Half a restriction restricts nothing. The same holds at the start, where elements and virtual servers are written in
/// pieces.
#[test]
fn an_entry_point_is_not_open_to_everybody_while_its_restriction_is_refused() {
    const ENOMEM: i32 = 12;
    let services = reached(|address| External {
        load_balancer_ips: vec![address],
        source_ranges: vec!["10.0.0.0/8".parse().expect("a network")],
        ..External::default()
    });
    let mut life = Life::at_pace(options(), MemoryKernel::default(), Duration::ZERO, NEVER);
    let [_, slices, node] = cluster(COUNT);
    let is_restriction = |step: &Step| matches!(step, Step::AddElement(Element::Restricted(_)));
    life.kernel.set_faults(Some(Box::new(move |step| is_restriction(step).then_some(Fault::Refuse(ENOMEM)))));
    life.feed([Event::Service(Change::Replace(services)), slices, node]);
    let is_external = |server: &&VirtualServerKey| server.address.to_string().starts_with("203.");
    let is_closed = |life: &Life| {
        let state = life.kernel.state();
        assert_eq!(state.virtual_servers.keys().filter(is_external).count(), 0);
        assert_eq!(state.virtual_servers.len(), usize::from(COUNT), "those at cluster IPs");
    };
    life.pass(Duration::from_secs(1));
    is_closed(&life);
    // This holds whatever happens to the Services meanwhile.
    let endpoints = ["10.244.0.1", "10.244.0.2", "10.244.0.3"];
    life.feed((0..COUNT).map(|number| Event::Slice(Change::Upsert(slice(number, &endpoints)))));
    life.pass(Duration::from_millis(100));
    is_closed(&life);
    life.kernel.set_unreadable([Part::Table(Family::V4)]);
    life.pass(Duration::from_mins(2));
    is_closed(&life);
    life.kernel.set_unreadable([]);
    life.kernel.set_faults(None);
    life.pass(Duration::from_mins(2));
    assert_eq!(life.kernel.state().virtual_servers.keys().filter(is_external).count(), usize::from(COUNT));
}

/// Traffic to other ports of a service address is refused, but the node's own ports must not be.
#[test]
fn what_the_node_has_too_is_said_before_its_other_ports_would_be_refused() {
    let services = reached(|address| External { external_ips: vec![address], ..External::default() });
    let addresses: BTreeSet<_> = services
        .iter()
        .flat_map(|service| service.external.as_ref().expect("a way in").external_ips.clone())
        .map(|address| NodeAddress { address, interface: "eth0".into(), scope: AddressScope::Global })
        .collect();
    let written = written(services, &addresses);
    let mut shared = BTreeSet::new();
    for step in &written {
        match step {
            Step::AddElement(Element::SharedAddress(address)) => _ = shared.insert(*address),
            Step::AddElement(Element::ExternalAddress(address)) => {
                assert!(shared.contains(address), "{step} before {address} is shared");
            }
            _ => {}
        }
    }
    assert_eq!(shared.len(), usize::from(COUNT));
}

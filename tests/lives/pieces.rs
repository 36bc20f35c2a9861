//! What a start writes in pieces comes in an order in which nobody is kept from what he may reach.

use kube_ipvs::cluster::types::{External, Policy};
use kube_ipvs::state::Element;

use super::*;

const COUNT: u16 = 300;

/// The steps of a start that finds our tables without any element of a Service.
fn written(services: Vec<Service>, addresses: &BTreeSet<NodeAddress>) -> Vec<Step> {
    let start = |kernel: MemoryKernel, services: Vec<Service>| {
        let mut life = Life::at_pace(options(), kernel, Duration::ZERO, NEVER);
        let [_, slices, node] = cluster(COUNT);
        let addresses = Event::NodeAddresses(addresses.clone());
        life.feed([addresses, Event::Service(Change::Replace(services)), slices, node]);
        life.settle();
        life.kernel.take_written()
    };
    let kernel = MemoryKernel::default();
    start(kernel.clone(), Vec::new());
    let written = start(kernel, services);
    assert!(!written.iter().any(|step| matches!(step, Step::InstallRules(..))), "with all elements at once");
    written
}

/// Services with these ways in.
fn reached(external: impl Fn(IpAddr) -> External) -> Vec<Service> {
    let with = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let external = external([203, 0, 113 + high, low].into());
        Service { external: Some(Box::new(external)), ..service(number) }
    };
    (0..COUNT).map(with).collect()
}

fn position(written: &[Step], is_it: impl Fn(&Step) -> bool) -> usize {
    written.iter().position(is_it).expect("it was written")
}

#[test]
fn a_way_inside_comes_after_those_who_take_what_it_sends() {
    let services = reached(|address| External {
        load_balancer_ips: vec![address],
        policy: Policy::Local,
        ..External::default()
    });
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

/// The next life begins with other policies of the Services, which have no endpoint on the node.
#[test]
fn a_way_inside_goes_before_where_it_led_and_after_everybody_is_served_where_it_began() {
    let with = |external, internal| {
        let reached = reached(|address| External {
            load_balancer_ips: vec![address],
            policy: external,
            ..External::default()
        });
        reached.into_iter().map(|service| Service { internal_policy: internal, ..service }).collect()
    };
    let life = |kernel: MemoryKernel, services: Vec<Service>| {
        let mut life = Life::at_pace(options(), kernel, Duration::ZERO, NEVER);
        let [_, slices, node] = cluster(COUNT);
        life.feed([Event::Service(Change::Replace(services)), slices, node]);
        life.settle();
        life.kernel.take_written()
    };
    let kernel = MemoryKernel::default();
    life(kernel.clone(), with(Policy::Local, Policy::Local));
    let before = kernel.state().elements;
    let written = life(kernel, with(Policy::Cluster, Policy::Cluster));
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

/// What goes to other ports of a service address is refused, and the node's own ports must not be.
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

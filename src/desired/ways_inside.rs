//! Where clients inside the cluster are sent from external entry points with policy `Local`, and from those whose
//! address would lead them out of the node: for each port of a Service, an entry point on its cluster IP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::node::NodeFacts;
use crate::cluster::types::{Policy, Protocol, Service, ServicePort};
use crate::state::VirtualServerKey;

/// The ports of a Service, each with the entry point where clients inside are sent from its external entry points, in
/// the family of this cluster IP. Takes all ports at once: which port numbers are unused depends on all of them.
pub(super) fn of<'a>(
    service: &'a Service,
    cluster_ip: IpAddr,
    node: &NodeFacts,
) -> impl Iterator<Item = (&'a ServicePort, VirtualServerKey)> + use<'a> {
    let unused =
        if needs_unused_ports(service, cluster_ip, node) { unused_ports(service) } else { Vec::new() };
    service.ports.iter().enumerate().map(move |(index, port)| {
        let number = unused.get(index).copied().unwrap_or(port.port);
        (port, VirtualServerKey { address: cluster_ip, protocol: port.protocol, port: number })
    })
}

/// Whether clients that should reach all endpoints are sent to the cluster IP, whose own ports do not lead to all. Such
/// clients come from all external entry points if their policy is `Local`, and otherwise from those at an address of
/// this node that no device has.
fn needs_unused_ports(service: &Service, cluster_ip: IpAddr, node: &NodeFacts) -> bool {
    let is_local = |policy| policy == Policy::Local;
    let Some(external) = service.external.as_deref().filter(|_| is_local(service.internal_policy)) else {
        return false;
    };
    let mut addresses = external.load_balancer_ips.iter().chain(&external.external_ips);
    is_local(external.policy) && external.is_reached(service)
        || addresses.any(|address| address.is_ipv4() == cluster_ip.is_ipv4() && node.is_away(address))
}

/// For each port, a port number that the Service does not use: its node port if it has one, since nobody else has that
/// on the cluster IP; otherwise one of the highest numbers, by the port's index. A running node's table holds these
/// numbers: another choice would move its clients.
fn unused_ports(service: &Service) -> Vec<u16> {
    let used: BTreeSet<(Protocol, u16)> =
        service.ports.iter().map(|port| (port.protocol, port.port)).collect();
    let node_ports: BTreeSet<u16> = service.ports.iter().filter_map(|port| port.node_port).collect();
    let highest = |protocol| -> Vec<u16> {
        (1..=u16::MAX)
            .rev()
            .filter(|number| !used.contains(&(protocol, *number)) && !node_ports.contains(number))
            .take(service.ports.len())
            .collect()
    };
    let mut highest_of: BTreeMap<Protocol, Vec<u16>> = BTreeMap::new();
    let unused = |(index, port): (usize, &ServicePort)| {
        port.node_port.filter(|number| !used.contains(&(port.protocol, *number))).unwrap_or_else(|| {
            let numbers = highest_of.entry(port.protocol).or_insert_with(|| highest(port.protocol));
            // A Service has far fewer ports than there are numbers.
            numbers.get(index).copied().unwrap_or(u16::MAX)
        })
    };
    service.ports.iter().enumerate().map(unused).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::examples;
    use crate::cluster::types::{External, ServiceKey};

    /// How each number was found before all were found at once. The numbers must stay the same.
    fn one_at_a_time(service: &Service, port: &ServicePort) -> u16 {
        let is_free = |number: u16| {
            service.ports.iter().all(|other| other.protocol != port.protocol || other.port != number)
        };
        if let Some(number) = port.node_port.filter(|number| is_free(*number)) {
            return number;
        }
        let is_node_port = |number: u16| service.ports.iter().any(|other| other.node_port == Some(number));
        let index = service.ports.iter().take_while(|other| *other != port).count();
        (1..=u16::MAX)
            .rev()
            .filter(|number| is_free(*number) && !is_node_port(*number))
            .nth(index)
            .unwrap_or(u16::MAX)
    }

    fn protocol() -> impl Strategy<Value = Protocol> {
        prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)]
    }

    /// Mostly numbers that are also chosen for the ways inside.
    fn number() -> impl Strategy<Value = u16> {
        prop_oneof![4 => u16::MAX - 40..=u16::MAX, 1 => 1..=u16::MAX]
    }

    fn service(numbers: BTreeMap<(Protocol, u16), Option<u16>>) -> Service {
        let port = |((protocol, port), node_port)| ServicePort { name: "".into(), protocol, port, node_port };
        Service {
            ports: numbers.into_iter().map(port).collect(),
            internal_policy: Policy::Local,
            external: Some(Box::new(External {
                external_ips: vec![IpAddr::from([198, 51, 100, 1])],
                policy: Policy::Local,
                ..External::default()
            })),
            ..examples::service(ServiceKey::new("default", "web"))
        }
    }

    fn assert_as_before(service: &Service) {
        let cluster_ip = IpAddr::from([10, 96, 0, 1]);
        let found: Vec<(&ServicePort, u16)> =
            of(service, cluster_ip, &NodeFacts::default()).map(|(p, way)| (p, way.port)).collect();
        let expected = service.ports.iter().map(|port| (port, one_at_a_time(service, port)));
        assert_eq!(found, expected.collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn the_numbers_are_those_of_always(
            numbers in proptest::collection::btree_map(
                (protocol(), number()), proptest::option::of(number()), 1..40,
            ),
            shuffled_by in any::<u64>(),
        ) {
            let mut service = service(numbers);
            let count = u64::try_from(service.ports.len()).expect("a few");
            service.ports.rotate_left(usize::try_from(shuffled_by % count).expect("a few"));
            assert_as_before(&service);
        }
    }

    /// More ports than unused numbers: the surplus ports get the last number, which the Service uses.
    #[test]
    fn a_service_may_have_all_ports_but_a_few() {
        let all_but_two = (3..=u16::MAX).map(|port| ((Protocol::Tcp, port), None)).collect();
        let service = service(all_but_two);
        let cluster_ip = IpAddr::from([10, 96, 0, 1]);
        let numbers: Vec<u16> =
            of(&service, cluster_ip, &NodeFacts::default()).map(|(_, way)| way.port).collect();
        assert_eq!(numbers[..3], [2, 1, u16::MAX]);
    }
}

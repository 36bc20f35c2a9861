//! Lives that end in the middle of their start.

use super::life::kill_before;
use super::*;

/// Two Services at one address, which the node gets while nobody runs, and one of them goes.
#[test]
fn what_goes_from_an_address_that_is_the_nodes_now_is_not_left_to_nobody() {
    let address = service(0).cluster_ips[0];
    let second = Service {
        cluster_ips: vec![address],
        ports: vec![ServicePort { port: 81, ..service(1).ports[0].clone() }],
        ..service(1)
    };
    let gone = VirtualServerKey { address, protocol: Protocol::Tcp, port: 81 };
    let of_node = NodeAddress { address, interface: "eth0".into(), scope: AddressScope::Global };
    let now = || {
        let [_, slices, node] = cluster(1);
        let services = Event::Service(Change::Replace(vec![service(0)]));
        [services, slices, node, Event::NodeAddresses([of_node.clone()].into())]
    };
    let other_settings = ProxyOptions { masquerade_all: true, ..options() };
    for settings in [options(), other_settings] {
        for killed_at in 1.. {
            let mut first = settled(2, NEVER);
            first.feed([Event::Service(Change::Upsert(second.clone()))]);
            first.settle();
            let kernel = first.kernel;
            assert!(kernel.state().virtual_servers.contains_key(&gone));
            kernel.take_written();

            let mut killed = Life::with(settings.clone(), kernel.clone());
            kill_before(&kernel, killed_at);
            killed.feed(now());
            for _ in 0..20 {
                killed.step();
            }
            let is_through = kernel.take_written().len() + 1 < killed_at;

            kernel.set_faults(None);
            let mut next = Life::with(settings.clone(), kernel.clone());
            next.feed(now());
            next.settle();
            let there = kernel.state();
            assert!(!there.virtual_servers.contains_key(&gone), "killed before step {killed_at}");
            assert!(there.virtual_servers.contains_key(&VirtualServerKey { port: 80, ..gone }));
            if is_through {
                assert!(killed_at > 3, "there were steps to be killed at");
                break;
            }
        }
    }
}

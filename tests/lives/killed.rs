//! Lives that end in the middle of their start.

use super::*;

/// Two Services share an address. While no program runs, the node gets that address, and one of the Services goes. The
/// other one may be among those that are written first.
#[test]
fn what_goes_from_an_address_that_is_the_nodes_now_is_not_left_to_nobody() {
    let other_settings = ProxyOptions { masquerade_all: true, ..options() };
    for name in ["other", "kubernetes"] {
        for settings in [options(), other_settings.clone()] {
            for killed_at in 1.. {
                if is_through(name, &settings, killed_at) {
                    assert!(killed_at > 3, "there were steps to be killed at");
                    break;
                }
            }
        }
    }
}

/// Whether a life with these settings has nothing left to do before it would be killed at this step. `name` is that of
/// the Service that stays.
fn is_through(name: &str, settings: &ProxyOptions, killed_at: usize) -> bool {
    let stays = Service { key: ServiceKey::new("default", name), ..service(0) };
    let address = stays.cluster_ips[0];
    let goes = Service {
        cluster_ips: vec![address],
        ports: vec![ServicePort { port: 81, ..service(1).ports[0].clone() }],
        ..service(1)
    };
    let gone = VirtualServerKey { address, protocol: Protocol::Tcp, port: 81 };
    let of_node = |address| NodeAddress { address, interface: "eth0".into(), scope: AddressScope::Global };
    let facts = |services, addresses: &[IpAddr]| {
        let of_stays = EndpointSlice { service: stays.key.clone(), ..slice(0, &["10.244.0.1"]) };
        [
            Event::NodeAddresses(addresses.iter().copied().map(of_node).collect()),
            Event::Service(Change::Replace(services)),
            Event::Slice(Change::Replace(vec![of_stays, slice(1, &["10.244.0.2"])])),
            Event::Node(Change::Replace(vec![])),
        ]
    };
    let own = ip("10.0.0.1");
    let now = || facts(vec![stays.clone()], &[own, address]);

    let mut first = Life::with(options(), MemoryKernel::default());
    first.feed(facts(vec![stays.clone(), goes.clone()], &[own]));
    first.settle();
    let kernel = first.kernel;
    assert!(kernel.state().virtual_servers.contains_key(&gone));
    kernel.take_written();

    let is_killed = Life::with(settings.clone(), kernel.clone()).die_before(killed_at, now());

    let mut next = Life::with(settings.clone(), kernel.clone());
    next.feed(now());
    next.settle();
    let there = kernel.state();
    assert!(!there.virtual_servers.contains_key(&gone), "{name}, killed before step {killed_at}");
    assert!(there.virtual_servers.contains_key(&VirtualServerKey { port: 80, ..gone }));
    // The result is that of a start on an empty kernel, including what is known about the address.
    let mut anew = Life::with(settings.clone(), MemoryKernel::default());
    anew.feed(now());
    anew.settle();
    assert_eq!(there, anew.kernel.state(), "{name}, killed before step {killed_at}");
    !is_killed
}

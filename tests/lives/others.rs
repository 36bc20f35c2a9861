//! Virtual servers that others make while the loop runs, which its audit comes upon.

use kube_ipvs::state::Address;

use super::*;

/// Long enough for a round of the audit, and for what it finds to be looked at.
const ROUND: Duration = Duration::from_mins(2);

fn at(address: &str, port: u16) -> VirtualServerKey {
    VirtualServerKey { address: ip(address), protocol: Protocol::Tcp, port }
}

/// Makes virtual servers like that of the first Service.
fn add(kernel: &MemoryKernel, keys: &[VirtualServerKey]) {
    kernel.meddle(|state| {
        let like = state.virtual_servers[&at("10.96.0.0", 80)].clone();
        state.virtual_servers.extend(keys.iter().map(|key| (*key, like.clone())));
    });
}

/// What is told of others' virtual servers while a round passes.
fn told(life: &mut Life) -> Vec<Vec<VirtualServerKey>> {
    life.pass(ROUND);
    let foreign = |note| match note {
        Note::Foreign(servers) => Some(servers.into_iter().collect()),
        _ => None,
    };
    life.reconciler.take_notes().into_iter().filter_map(foreign).collect()
}

#[test]
fn what_others_make_is_told_once_and_left_alone() {
    let mut life = settled(3, Duration::from_secs(1));
    assert_eq!(told(&mut life), [[]; 0]);
    let theirs = [at("203.0.113.7", 80), at("203.0.113.7", 443)];
    add(&life.kernel, &theirs);
    let before = life.kernel.state();
    assert_eq!(told(&mut life), [theirs]);
    assert_eq!(told(&mut life), [[]; 0]);
    assert_eq!(life.kernel.state(), before);
    life.kernel.meddle(|state| _ = state.virtual_servers.remove(&theirs[0]));
    assert_eq!(told(&mut life), [[theirs[1]]]);
    life.kernel.meddle(|state| _ = state.virtual_servers.remove(&theirs[1]));
    assert_eq!(told(&mut life), [[]]);
}

#[test]
fn what_others_make_at_a_service_address_goes() {
    let mut life = settled(3, Duration::from_secs(1));
    let before = life.kernel.state();
    add(&life.kernel, &[at("10.96.0.1", 9999)]);
    assert_eq!(told(&mut life), [[]; 0], "whatever is at a service address is ours");
    assert_eq!(life.kernel.state(), before);
}

/// With a service address that others put on the device.
#[test]
fn what_others_make_at_an_address_of_our_device_goes() {
    let mut life = settled(3, Duration::from_secs(1));
    let before = life.kernel.state();
    let address = ip("10.96.77.1");
    life.kernel.meddle(|state| _ = state.addresses.insert(address, Address::wanted(address)));
    add(&life.kernel, &[at("10.96.77.1", 80)]);
    life.pass(ROUND);
    assert_eq!(life.kernel.state(), before);
}

/// The networks that are left alone hold a Service as well.
#[test]
fn what_others_make_in_a_network_to_be_left_alone_stays() {
    let mut life = settled(3, Duration::from_secs(1));
    let own = Service { cluster_ips: vec![ip("192.0.2.1")], ..service(3) };
    let endpoints = Event::Slice(Change::Upsert(slice(3, &["10.244.0.1"])));
    life.feed([Event::Service(Change::Upsert(own)), endpoints]);
    life.settle();
    let theirs = [at("192.0.2.1", 9999)];
    add(&life.kernel, &theirs);
    let before = life.kernel.state();
    assert!(before.virtual_servers.contains_key(&at("192.0.2.1", 80)), "its own is made");
    assert_eq!(told(&mut life), [theirs]);
    assert_eq!(life.kernel.state(), before);
}

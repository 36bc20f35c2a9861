//! Virtual servers that others make while the loop runs, and that its audit finds.

use kube_ipvs::state::Address;

use super::*;

/// Long enough for a round of the audit, and for a look at what it finds.
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

/// The notes about others' virtual servers while a round passes.
fn told(life: &mut Life) -> Vec<Vec<VirtualServerKey>> {
    life.pass(ROUND);
    foreign(life.reconciler.take_notes())
}

/// What these notes report about others' virtual servers.
fn foreign(notes: Vec<Note>) -> Vec<Vec<VirtualServerKey>> {
    let foreign = |note| match note {
        Note::Foreign(servers) => Some(servers.into_iter().collect()),
        _ => None,
    };
    notes.into_iter().filter_map(foreign).collect()
}

/// A Service with this cluster IP, and its slice.
fn service_at(number: u16, address: &str) -> [Event; 2] {
    let service = Service { cluster_ips: vec![ip(address)], ..service(number) };
    let slice = slice(number, &["10.244.0.1", "10.244.0.2"]);
    [Event::Service(Change::Upsert(service)), Event::Slice(Change::Upsert(slice))]
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

/// Each note is a copy of all that remain.
#[test]
fn what_services_take_over_of_others_is_told_once_for_all_that_come_together() {
    let mut life = settled(3, Duration::from_secs(1));
    let addresses: Vec<String> = (0..100).map(|number| format!("203.0.113.{number}")).collect();
    let theirs: Vec<_> = addresses.iter().map(|address| at(address, 80)).collect();
    add(&life.kernel, &theirs);
    assert_eq!(told(&mut life), [theirs]);
    life.feed(addresses.iter().zip(3..).flat_map(|(address, number)| service_at(number, address)));
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

/// At a service address that others put on the device.
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

/// The excluded networks contain a Service, too.
#[test]
fn what_others_make_in_a_network_to_be_left_alone_stays() {
    let mut life = settled(3, Duration::from_secs(1));
    life.feed(service_at(3, "192.0.2.1"));
    life.settle();
    let theirs = [at("192.0.2.1", 9999)];
    add(&life.kernel, &theirs);
    let before = life.kernel.state();
    assert!(before.virtual_servers.contains_key(&at("192.0.2.1", 80)), "its own is made");
    assert_eq!(told(&mut life), [theirs]);
    assert_eq!(life.kernel.state(), before);
}

#[test]
fn what_a_service_asks_for_is_not_others_any_more() {
    let mut life = settled(3, Duration::from_secs(1));
    let theirs = [at("203.0.113.7", 80), at("203.0.113.8", 80)];
    add(&life.kernel, &theirs);
    assert_eq!(told(&mut life), [theirs]);
    // The second one still exists when its Service comes.
    life.kernel.meddle(|state| _ = state.virtual_servers.remove(&theirs[0]));
    for (number, server) in (3..).zip(theirs) {
        life.feed(service_at(number, &server.address.to_string()));
        assert_eq!(foreign(life.settle()), [theirs[usize::from(number) - 2..].to_vec()], "{server}");
    }
    let ours = life.kernel.state();
    life.kernel.meddle(|state| {
        for server in &theirs {
            state.virtual_servers.get_mut(server).expect("it is there").flags = 1;
        }
    });
    assert_eq!(told(&mut life), [[]; 0]);
    assert_eq!(life.kernel.state(), ours, "it is looked at as all that is ours");
}

#[test]
fn what_is_left_alone_is_others_from_then_on() {
    let mut life = settled(3, Duration::from_secs(1));
    let server = at("192.0.2.1", 80);
    life.feed(service_at(3, "192.0.2.1"));
    life.settle();
    life.feed([Event::Service(Change::Delete(service(3).key))]);
    assert_eq!(foreign(life.settle()), [[server]]);
    life.kernel.meddle(|state| state.virtual_servers.get_mut(&server).expect("it stays").flags = 1);
    let left = life.kernel.state();
    life.pass(ROUND);
    let notes = life.reconciler.take_notes();
    assert!(!notes.iter().any(|note| matches!(note, Note::Drift(_))), "{notes:?}");
    assert_eq!(life.kernel.state(), left);
    // With its Service, it becomes ours again.
    life.feed(service_at(3, "192.0.2.1"));
    assert_eq!(foreign(life.settle()), [[]]);
    assert_eq!(life.kernel.state().virtual_servers[&server].flags, 0);
}

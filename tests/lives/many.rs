//! Everything may change at once, as after a time without the API server: later changes do not wait for all of that.

use kube_ipvs::cluster::types::External;
use kube_ipvs::state::Weight;

use super::*;

const COUNT: u16 = 2000;

/// The complete set of slices, with these endpoints for each Service.
fn slices(endpoints: &[&str]) -> Event {
    Event::Slice(Change::Replace((0..COUNT).map(|number| slice(number, endpoints)).collect()))
}

/// The endpoints of each Service to which the kernel sends new connections.
fn used(life: &Life) -> Vec<Vec<String>> {
    let state = life.kernel.state();
    let of = |number| {
        let address = service(number).cluster_ips[0];
        let key = VirtualServerKey { address, protocol: Protocol::Tcp, port: 80 };
        let real_servers = state.virtual_servers[&key].real_servers.iter();
        real_servers
            .filter(|(_, server)| server.weight != Weight::Exactly(0))
            .map(|(real, _)| real.to_string())
            .collect()
    };
    (0..COUNT).map(of).collect()
}

#[test]
fn a_change_does_not_wait_for_many_others() {
    let mut life = settled(COUNT, NEVER);
    life.reconciler.take_notes();
    life.feed([slices(&["10.244.0.1", "10.244.0.3"])]);
    assert!(life.step());
    let before = ["10.244.0.1:8080", "10.244.0.2:8080"];
    let after = ["10.244.0.1:8080", "10.244.0.3:8080"];
    let last = COUNT - 1;
    let first_piece = used(&life);
    assert_eq!(first_piece[0], after);
    assert_eq!(first_piece[usize::from(last)], before, "not all at once");
    life.feed([Event::Slice(Change::Upsert(slice(last, &["10.244.0.9"])))]);
    assert!(life.step());
    let mut piece = used(&life);
    assert_eq!(piece.pop().expect("the last"), ["10.244.0.9:8080"]);
    assert_eq!(piece, first_piece[..usize::from(last)], "nothing else comes before it");
    assert!(life.reconciler.changes().slices_pending > 0);
    // A change counts as written only when all of it is.
    let is_synced = |note: &Note| matches!(note, Note::Synced { .. });
    assert!(!life.reconciler.take_notes().iter().any(is_synced));

    let notes = life.settle();
    let mut all = used(&life);
    assert_eq!(all.pop().expect("the last"), ["10.244.0.9:8080"]);
    assert!(all.iter().all(|used| *used == after), "{all:?}");
    assert_eq!(life.reconciler.changes().slices_pending, 0);
    let synced = notes.iter().position(is_synced).expect("all is written");
    let written = notes.iter().rposition(|note| matches!(note, Note::Wrote { .. }));
    assert!(written < Some(synced), "{written:?} {synced}");
}

#[test]
fn many_are_not_held_back_piece_by_piece() {
    let pause = Duration::from_mins(1);
    let mut life = Life::at_pace(options(), MemoryKernel::default(), pause, NEVER);
    life.feed(cluster(COUNT));
    life.settle();
    life.pass(pause);
    life.feed([slices(&["10.244.0.1", "10.244.0.3"])]);
    let begun = life.now;
    while used(&life).iter().any(|used| *used != ["10.244.0.1:8080", "10.244.0.3:8080"]) {
        life.step();
        assert!(life.now < begun + pause);
    }
}

#[test]
fn what_many_had_goes_to_others_without_a_conflict() {
    let mut life = settled(COUNT, NEVER);
    life.reconciler.take_notes();
    // By name, these come before the others; by age, after them.
    let key = |number: u16| ServiceKey::new("alone", format!("s{number}"));
    let services = (0..COUNT).map(|number| Service { key: key(number), ..service(number) });
    let slices = (0..COUNT).map(|number| EndpointSlice {
        key: SliceKey::new("alone", format!("s{number}")),
        service: key(number),
        ..slice(number, &["10.244.0.4"])
    });
    life.feed([Event::Service(Change::Replace(services.collect()))]);
    life.feed([Event::Slice(Change::Replace(slices.collect()))]);
    let notes = life.settle();
    let conflicts: Vec<_> = notes.iter().filter(|note| matches!(note, Note::Conflict(_))).collect();
    assert!(conflicts.is_empty(), "{} of them, as {:?}", conflicts.len(), conflicts[0]);
    assert!(used(&life).iter().all(|used| *used == ["10.244.0.4:8080"]));
}

#[test]
fn what_is_ours_is_known_to_the_next_life_wherever_many_removals_end() {
    let shared = ip("203.0.113.1");
    let with_address = |number: u16| {
        let external = External { external_ips: vec![shared], ..External::default() };
        let ports = vec![ServicePort { port: 80 + number, ..service(number).ports[0].clone() }];
        Service { external: Some(Box::new(external)), ports, ..service(number) }
    };
    for steps in 1..10 {
        let mut life = settled(0, NEVER);
        for number in 0..2 {
            life.feed(appears(number));
            life.feed([Event::Service(Change::Upsert(with_address(number)))]);
        }
        life.settle();
        life.reconciler.set_piece(1);
        life.feed((0..2).map(|number| Event::Service(Change::Delete(service(number).key))));
        for _ in 0..steps {
            life.step();
        }
        let mut next = Life::at_pace(options(), life.kernel.clone(), Duration::ZERO, NEVER);
        next.feed(cluster(0));
        next.settle();
        let state = next.kernel.state();
        assert!(state.virtual_servers.is_empty(), "after {steps} steps: {:?}", state.virtual_servers);
        assert!(state.addresses.is_empty(), "after {steps} steps: {:?}", state.addresses);
    }
}

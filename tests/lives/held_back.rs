//! Where the user asked for a minimum time between two syncs, changes are held back: which ones wait, and which do not.

use super::*;

/// The start is written in pieces, and no piece waits for the minimum time between syncs.
#[test]
fn a_start_is_not_held_back_for_a_change_that_comes_meanwhile() {
    let hour = Duration::from_hours(1);
    let mut life = Life::at_pace(options(), MemoryKernel::default(), hour, NEVER);
    life.feed(cluster(500));
    while life.kernel.state().virtual_servers.is_empty() {
        life.step();
    }
    life.feed(appears(500));
    life.pass(Duration::from_secs(1));
    assert_eq!(life.kernel.state().virtual_servers.len(), 501);

    life.feed(appears(501));
    life.pass(Duration::from_mins(1));
    assert_eq!(life.kernel.state().virtual_servers.len(), 501, "from then on changes wait");
    life.pass(hour);
    assert_eq!(life.kernel.state().virtual_servers.len(), 502);
}

/// Otherwise health would report for an hour that the change waits.
#[test]
fn a_change_that_asks_for_nothing_is_not_held_back() {
    let mut life = Life::at_pace(options(), MemoryKernel::default(), Duration::from_hours(1), NEVER);
    life.feed(cluster(1));
    life.pass(Duration::from_secs(1));
    life.reconciler.take_notes();
    // The slice's Service does not exist.
    life.feed([Event::Slice(Change::Upsert(slice(1, &["10.244.0.1"])))]);
    life.pass(Duration::from_secs(1));
    assert_eq!(waited_and_synced(&life.reconciler.take_notes()), (true, true));
}

#[test]
fn nothing_spins_while_changes_are_held_back() {
    let period = Duration::from_secs(10);
    let mut life = Life::at_pace(options(), MemoryKernel::default(), period, NEVER);
    let refused = VirtualServerKey { address: ip("10.96.0.1"), protocol: Protocol::Tcp, port: 80 };
    life.kernel.set_faults(Some(Box::new(move |step| {
        matches!(step, Step::AddVirtualServer(key, _) if *key == refused).then_some(Fault::Refuse(EINVAL))
    })));
    life.feed(cluster(3));
    let end = life.now + Duration::from_mins(10);
    let mut number = 3;
    let mut change = life.now;
    while life.now < end {
        if life.now >= change {
            life.feed(appears(number));
            number += 1;
            change = life.now + Duration::from_secs(3);
        }
        match life.reconciler.next(life.now) {
            Next::Work(work) => life.work(&work),
            Next::Wait(until) => {
                let until = until.expect("there is always something to wait for");
                assert!(until > life.now, "nothing to do, and no time to wait");
                life.now = until.min(change);
            }
        }
    }
    assert!(life.kernel.state().virtual_servers.len() > 100);
}

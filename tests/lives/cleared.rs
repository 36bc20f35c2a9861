//! Virtual servers that disappear all at once, as after `ipvsadm -C`, and the lists that show it.

use std::collections::BTreeMap;

use kube_ipvs::kernel::Selection;
use kube_ipvs::reconcile::core::Answer;
use kube_ipvs::state::{RealServers, VirtualServer};

use super::*;

/// The keys that these notes report as drifted.
fn drifted(notes: Vec<Note>) -> Vec<Key> {
    let drift = |note| match note {
        Note::Drift(key) => Some(key),
        _ => None,
    };
    notes.into_iter().filter_map(drift).collect()
}

/// Reading all of them again would take too long: the audit reads one slice per second.
#[test]
fn however_many_are_gone_all_are_back_in_seconds_and_each_is_told_once() {
    for count in [300, 10_000] {
        let mut life = settled(count, Duration::from_secs(1));
        life.pass(Duration::from_secs(5));
        life.reconciler.take_notes();
        clear_ipvs(&life.kernel);
        let gone = life.now;
        let (mut told, mut times) = (BTreeMap::<Key, u32>::new(), 0);
        loop {
            life.step();
            let keys = drifted(life.reconciler.take_notes());
            times += u32::from(!keys.is_empty());
            for key in keys {
                *told.entry(key).or_default() += 1;
            }
            let is_back = life.kernel.state().virtual_servers.len() == usize::from(count);
            // Nothing is known of those that have not been noticed yet.
            let is_noticed = told.len() == usize::from(count);
            assert!(!is_noticed || is_back || !life.reconciler.is_settled(Family::V4));
            if is_back {
                break;
            }
            assert!(life.now - gone < Duration::from_secs(12), "{count}: {} noticed", told.len());
        }
        assert_eq!(told.len(), usize::from(count));
        assert!(told.values().all(|times| *times == 1), "{told:?}");
        assert!(times <= 2, "the slice that was read, and the list: {times}");
        life.pass(Duration::from_secs(1));
        assert!(life.reconciler.is_settled(Family::V4) && life.reconciler.failures().is_empty());
    }
}

#[test]
fn a_change_goes_before_what_is_made_again_and_does_not_hold_it_back() {
    let mut life =
        Life::at_pace(options(), MemoryKernel::default(), Duration::from_hours(1), Duration::from_secs(1));
    life.feed(cluster(2000));
    life.settle();
    clear_ipvs(&life.kernel);
    while life.kernel.state().virtual_servers.is_empty() {
        life.step();
    }
    life.feed(appears(2000));
    let new = VirtualServerKey { address: service(2000).cluster_ips[0], protocol: Protocol::Tcp, port: 80 };
    while !life.kernel.state().virtual_servers.contains_key(&new) {
        life.step();
        assert!(life.kernel.state().virtual_servers.len() < 2000, "before it the others are made again");
    }
    life.pass(Duration::from_secs(1));
    assert_eq!(life.kernel.state().virtual_servers.len(), 2001);
}

/// Only the kernel vouches for a list being complete; if it was not, adding the missing ones shows it.
#[test]
fn what_a_list_misses_and_is_there_stays_and_is_not_told_to_be_refused() {
    let mut life = settled(300, Duration::from_secs(1));
    let before = life.kernel.state();
    life.reconciler.take_notes();
    loop {
        match life.reconciler.next(life.now) {
            Next::Work(Work::List) => break,
            Next::Work(work) => life.work(&work),
            Next::Wait(until) => life.now = until.expect("the audit").max(life.now),
        }
    }
    life.kernel.take_written();
    life.reconciler.complete(Answer::Keys(Ok(BTreeSet::new())), life.now);
    assert!(!life.reconciler.is_settled(Family::V4), "they are to be made");
    life.pass(Duration::from_millis(100));
    assert!(life.reconciler.is_settled(Family::V4) && life.reconciler.failures().is_empty());
    assert_eq!(life.kernel.take_written(), []);
    assert_eq!(life.kernel.state(), before);
    let notes = life.reconciler.take_notes();
    assert!(!notes.iter().any(|note| matches!(note, Note::Refused { .. })), "{notes:?}");
}

/// An incomplete answer is an error, and says nothing about what exists.
#[test]
fn a_list_that_fails_makes_nothing_be_missed() {
    let mut life = settled(300, Duration::from_secs(1));
    life.kernel.take_written();
    life.reconciler.take_notes();
    loop {
        match life.reconciler.next(life.now) {
            Next::Work(work @ Work::List) => {
                life.kernel.fail_reads(1);
                life.work(&work);
                break;
            }
            Next::Work(work) => life.work(&work),
            Next::Wait(until) => life.now = until.expect("the audit").max(life.now),
        }
    }
    life.pass(Duration::from_secs(10));
    let notes = life.reconciler.take_notes();
    assert!(notes.iter().any(|note| matches!(note, Note::Unreadable(..))), "{notes:?}");
    assert_eq!(drifted(notes), []);
    assert_eq!(life.kernel.take_written(), []);
}

/// Listing tens of thousands takes the kernel a second, and the audit rests in proportion to what it took, unless it
/// found something.
#[test]
fn what_a_list_shows_is_looked_at_soon_however_long_the_list_took() {
    let others = |state: &mut State| {
        let beside = |(key, server): (&VirtualServerKey, &VirtualServer)| {
            let server = VirtualServer { real_servers: RealServers::default(), ..server.clone() };
            (VirtualServerKey { port: 9999, ..*key }, server)
        };
        let others: Vec<_> = state.virtual_servers.iter().map(beside).collect();
        state.virtual_servers.extend(others);
    };
    let all_but_first = |state: &mut State| {
        let first = state.virtual_servers.pop_first();
        state.virtual_servers = first.into_iter().collect();
    };
    for (meddle, limit) in [
        // All but the first are gone, and one look notices this for all of them.
        (Box::new(all_but_first) as Box<dyn Fn(&mut State)>, Duration::from_secs(1)),
        // Virtual servers at our addresses that nobody asked for are read, slice by slice, and deleted.
        (Box::new(others), Duration::from_secs(30)),
    ] {
        let mut life = settled(300, Duration::from_secs(1));
        let before = life.kernel.state();
        let mut listed = None;
        while listed.is_none_or(|_| life.kernel.state() != before) {
            match life.reconciler.next(life.now) {
                Next::Work(work @ Work::List) if listed.is_none() => {
                    life.kernel.meddle(&meddle);
                    life.work_for(&work, Duration::from_secs(1));
                    listed = Some(life.now);
                }
                Next::Work(work) => life.work(&work),
                Next::Wait(until) => life.now = until.expect("the audit").max(life.now),
            }
            assert!(listed.is_none_or(|listed| life.now - listed < limit));
        }
    }
}

/// Each list delays changes, and a list of all addresses takes long.
#[test]
fn where_what_everything_stands_on_is_there_nothing_is_listed() {
    let mut life = settled(3000, Duration::from_secs(1));
    while !life.reconciler.take_notes().iter().any(|note| matches!(note, Note::AuditRound)) {
        life.step();
    }
    // The audit has read the lists of this round, and goes through the virtual servers.
    life.pass(Duration::from_secs(20));
    let (end, mut asked) = (life.now + Duration::from_secs(15), 0);
    while life.now < end {
        match life.reconciler.next(life.now) {
            Next::Work(work) => {
                assert!(!matches!(work, Work::List), "{work:?}");
                assert!(
                    !matches!(&work, Work::Read(read) if !matches!(read, Selection::Keys(_))),
                    "{work:?}"
                );
                asked += u32::from(matches!(work, Work::Foundations(_)));
                life.work(&work);
            }
            Next::Wait(until) => life.now = until.expect("the audit"),
        }
    }
    assert!(asked > 0);
}

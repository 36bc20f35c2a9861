//! When connection tracking is purged.

use kube_ipvs::cluster::types::{External, Policy};
use kube_ipvs::diff::purge::Flow;
use kube_ipvs::state::RealServerKey;

use super::*;

/// A cluster with DNS, which has this endpoint.
fn with_dns(endpoint: &str) -> [Event; 3] {
    let mut dns = service(0);
    dns.ports[0].protocol = Protocol::Udp;
    let mut endpoints = slice(0, &[endpoint]);
    endpoints.ports[0].protocol = Protocol::Udp;
    [
        Event::Service(Change::Replace(vec![dns])),
        Event::Slice(Change::Replace(vec![endpoints])),
        Event::Node(Change::Replace(vec![])),
    ]
}

/// An entry of connection tracking: a client's packets to DNS went to this endpoint.
fn dns_flow(endpoint: &str) -> Flow {
    let destination = VirtualServerKey { address: ip("10.96.0.0"), protocol: Protocol::Udp, port: 80 };
    Flow { destination, replies_from: RealServerKey { address: ip(endpoint), port: 8080 } }
}

/// A life in which DNS just got another endpoint, and the stale flow to the one before. The audit is left out.
fn where_dns_moves() -> (Life, Flow) {
    let mut life = Life::at_pace(options(), MemoryKernel::default(), Duration::ZERO, NEVER);
    life.feed(with_dns("10.244.0.1"));
    life.settle();
    let stale = dns_flow("10.244.0.1");
    life.kernel.track(stale);
    life.feed(with_dns("10.244.0.2"));
    (life, stale)
}

/// Lives on until stale entries are to be searched for.
fn search(life: &mut Life) -> Work {
    loop {
        match life.reconciler.next(life.now) {
            Next::Work(work @ Work::FindStale(_)) => return work,
            Next::Work(work) => life.work(&work),
            Next::Wait(until) => life.now = until.expect("there is something to purge"),
        }
    }
}

/// Works until connection tracking has nothing any more; before each piece of work a Service appears. Returns the work.
fn work_while_changes_never_stop(life: &mut Life) -> Vec<Work> {
    let mut works = Vec::new();
    for number in 1..5000 {
        life.feed(appears(number));
        let Next::Work(work) = life.reconciler.next(life.now) else { panic!("there is a change to write") };
        life.work(&work);
        works.push(work);
        if life.kernel.flows().is_empty() {
            return works;
        }
    }
    panic!("there is something left");
}

/// The program before may have written everything, and ended before it purged.
#[test]
fn a_start_that_has_nothing_to_write_purges_what_was_left_stale_all_the_same() {
    let mut before = Life::new(MemoryKernel::default());
    before.feed(with_dns("10.244.0.1"));
    before.settle();
    let (stale, live) = (dns_flow("10.244.0.9"), dns_flow("10.244.0.1"));
    before.kernel.track(stale);
    before.kernel.track(live);
    before.kernel.take_written();

    let mut after = Life::new(before.kernel.clone());
    after.feed(with_dns("10.244.0.1"));
    after.settle();
    assert!(after.kernel.take_written().is_empty());
    assert_eq!(after.kernel.flows(), [live].into());
}

#[test]
fn a_purge_that_fails_is_told_and_done_again() {
    let (mut life, stale) = where_dns_moves();
    let search = search(&mut life);
    life.reconciler.take_notes();
    life.kernel.fail_reads(1);
    life.work(&search);
    life.step();
    let notes = life.reconciler.take_notes();
    let is_failure =
        |note: &Note| matches!(note, Note::Purged(Family::V4, purged) if purged.failure.is_some());
    assert!(notes.iter().any(is_failure), "{notes:?}");
    assert_eq!(life.kernel.flows(), [stale].into());
    life.pass(Duration::from_secs(11));
    assert!(life.kernel.flows().is_empty());
}

/// Packets to the address left the node meanwhile, and the conntrack entry repeats this for as long as the client goes
/// on.
#[test]
fn what_was_sent_to_an_address_while_it_was_gone_is_purged() {
    let mut life = Life::new(MemoryKernel::default());
    life.feed(with_dns("10.244.0.1"));
    life.settle();
    let before = life.kernel.state();
    let (stale, live) = (dns_flow("10.96.0.0"), dns_flow("10.244.0.1"));
    for remove in [remove_device, |kernel: &MemoryKernel| kernel.meddle(|state| state.addresses.clear())] {
        remove(&life.kernel);
        life.kernel.track(stale);
        life.kernel.track(live);
        life.pass(Duration::from_mins(1));
        assert_eq!(life.kernel.state(), before);
        assert_eq!(life.kernel.flows(), [live].into());
    }
}

/// Meanwhile, clients inside the cluster were sent to the entry point itself.
#[test]
fn what_was_sent_past_a_way_inside_while_its_table_was_gone_is_purged() {
    let mut life = Life::new(MemoryKernel::default());
    let [Event::Service(Change::Replace(mut services)), slices, node] = with_dns("10.244.0.1") else {
        panic!("the Services come first");
    };
    let entry = ip("203.0.113.1");
    let external = External { load_balancer_ips: vec![entry], policy: Policy::Local, ..External::default() };
    services[0].external = Some(Box::new(external));
    life.feed([Event::Service(Change::Replace(services)), slices, node]);
    life.settle();
    let before = life.kernel.state();
    let flow = dns_flow("203.0.113.1");
    let stale = Flow { destination: VirtualServerKey { address: entry, ..flow.destination }, ..flow };
    for remove in [flush_ruleset, MemoryKernel::remake_tables] {
        remove(&life.kernel);
        life.kernel.track(stale);
        life.pass(Duration::from_mins(1));
        assert_eq!(life.kernel.state(), before);
        assert!(life.kernel.flows().is_empty());
    }
}

/// There is no moment at which nothing waits to be written.
#[test]
fn what_is_stale_is_purged_although_changes_never_stop() {
    let (mut life, _) = where_dns_moves();
    let begun = life.now;
    work_while_changes_never_stop(&mut life);
    assert!(life.now < begun + Duration::from_secs(2), "it was there for long");
}

/// The table may hold millions of entries.
#[test]
fn changes_do_not_wait_for_a_search() {
    let (mut life, stale) = where_dns_moves();
    let search = search(&mut life);
    let found = search.carry_out(&mut life.kernel);
    for number in 1..=3 {
        life.feed(appears(number));
        life.settle();
    }
    // Another endpoint that goes is searched for later, with the next search.
    life.feed(with_dns("10.244.0.3"));
    life.settle();
    life.kernel.track(dns_flow("10.244.0.2"));
    for _ in 0..50 {
        match life.reconciler.next(life.now) {
            Next::Work(Work::FindStale(_)) => panic!("one search at a time"),
            Next::Work(work) => life.work(&work),
            Next::Wait(until) => life.now = until.expect("the audit").max(life.now),
        }
    }
    assert!(life.kernel.flows().contains(&stale), "nothing was found yet");
    life.reconciler.complete(found, life.now);
    life.pass(Duration::from_secs(2));
    assert!(life.kernel.flows().is_empty());
}

/// Its flows are stale by what was known when the search began.
#[test]
fn what_is_with_an_endpoint_that_came_during_the_search_is_kept() {
    let (mut life, _) = where_dns_moves();
    let search = search(&mut life);
    life.feed(with_dns("10.244.0.3"));
    life.settle();
    let live = dns_flow("10.244.0.3");
    life.kernel.track(live);
    life.reconciler.take_notes();
    life.work(&search);
    life.step();
    assert_eq!(life.kernel.flows(), [live].into());
    life.step();
    let notes = life.reconciler.take_notes();
    let deleted: Vec<_> = notes
        .iter()
        .filter_map(
            |note| if let Note::Purged(Family::V4, purged) = note { Some(purged.deleted) } else { None },
        )
        .collect();
    assert_eq!(deleted, [1]);
}

/// Thousands of clients of a DNS whose endpoints are exchanged.
#[test]
fn changes_go_between_the_pieces_in_which_much_is_deleted() {
    let (mut life, _) = where_dns_moves();
    for host in 0..3000_u16 {
        let [high, low] = host.to_be_bytes();
        life.kernel.track(dns_flow(&format!("10.245.{high}.{low}")));
    }
    let search = search(&mut life);
    life.work(&search);
    let works = work_while_changes_never_stop(&mut life);
    let done: Vec<_> = works.iter().map(|work| matches!(work, Work::DeleteStale(_))).collect();
    assert_eq!(done, [true, false, true, false, true]);
}

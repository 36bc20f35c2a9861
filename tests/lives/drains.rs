//! How real servers are removed after their endpoints.

use super::*;

#[test]
fn a_real_server_that_is_not_let_go_is_tried_again_ever_later() {
    let mut life = settled(1, NEVER);
    let is_delete = |step: &Step| matches!(step, Step::DeleteRealServer(..));
    life.kernel.set_faults(Some(Box::new(move |step| is_delete(step).then_some(Fault::Refuse(EINVAL)))));
    life.feed([Event::Slice(Change::Upsert(slice(0, &["10.244.0.1"])))]);
    let end = life.now + Duration::from_mins(10);
    let mut attempts = 0;
    while life.now < end {
        match life.reconciler.next(life.now) {
            Next::Work(work) => {
                if let Work::Apply(plan) = &work {
                    attempts += plan.steps.iter().filter(|planned| is_delete(&planned.step)).count();
                }
                life.work(&work);
            }
            Next::Wait(due) => life.now = due.map_or(end, |due| due.max(life.now)),
        }
    }
    assert!((5..=30).contains(&attempts), "{attempts} attempts in ten minutes");
    assert_eq!(life.reconciler.draining(), 1);

    life.kernel.set_faults(None);
    life.pass(Duration::from_secs(61));
    assert!(life.kernel.state().virtual_servers.values().all(|server| server.real_servers.len() == 1));
    assert_eq!(life.reconciler.draining(), 0);
    assert_eq!(life.reconciler.drained().idle, 1);
}

/// The last real servers are deleted with their virtual server, which nobody looks at again.
#[test]
fn the_last_real_server_that_goes_does_not_drain_any_more() {
    let mut life = settled(1, NEVER);
    life.feed([Event::Slice(Change::Upsert(slice(0, &[])))]);
    life.pass(Duration::from_secs(1));
    assert_eq!(life.reconciler.draining(), 2);
    life.pass(Duration::from_secs(5));
    assert!(life.kernel.state().virtual_servers.is_empty());
    assert_eq!(life.reconciler.draining(), 0);
    assert_eq!(life.reconciler.drained().idle, 2);
}

/// The endpoints are not ready for hours, and clients are refused: by a rule, once nobody is connected any more.
#[test]
fn a_virtual_server_goes_when_nobody_serves_and_nobody_is_connected_and_comes_again() {
    let mut life = settled(1, NEVER);
    let ready = life.kernel.state();
    let mut unready = slice(0, &["10.244.0.1", "10.244.0.2"]);
    for endpoint in &mut unready.endpoints {
        (endpoint.ready, endpoint.serving) = (false, false);
    }
    let (server, value) = ready.virtual_servers.first_key_value().expect("one");
    let (connected, _) = value.real_servers.iter().next().expect("two");
    life.kernel.set_connections(*server, *connected, 1);
    life.feed([Event::Slice(Change::Upsert(unready))]);
    life.pass(Duration::from_hours(1));
    let left = life.kernel.state();
    let left: Vec<_> = left.virtual_servers[server].real_servers.keys().collect();
    assert_eq!(left, [connected], "the other one had no connections");
    life.kernel.set_connections(*server, *connected, 0);
    life.pass(Duration::from_secs(6));
    assert!(life.kernel.state().virtual_servers.is_empty());
    assert_eq!(life.kernel.state().addresses, ready.addresses);
    life.feed([Event::Slice(Change::Upsert(slice(0, &["10.244.0.1", "10.244.0.2"])))]);
    life.pass(Duration::from_secs(1));
    assert_eq!(life.kernel.state(), ready);
}

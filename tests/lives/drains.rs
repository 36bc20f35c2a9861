//! How real servers go whose endpoints are gone.

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

/// It goes with its virtual server, which nobody looks at again.
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

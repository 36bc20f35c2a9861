//! What is reported when one part of the kernel can be read, and another of the same kind cannot.

use kube_ipvs::reconcile::note::Reading;

use super::*;

fn was_read(notes: &[Note], what: Reading) -> bool {
    notes.iter().any(|note| matches!(note, Note::Read(reading) if *reading == what))
}

#[test]
fn steps_without_an_answer_are_certain_when_all_parts_were_read() {
    let mut life = settled(2, NEVER);
    let is_lost = |step: &Step| matches!(step, Step::AddElement(_) | Step::AddVirtualServer(..));
    life.kernel.set_faults(Some(Box::new(move |step| is_lost(step).then_some(Fault::LoseAnswer))));
    life.kernel.set_unreadable([Part::Table(Family::V4)]);
    life.feed(appears(2));
    life.reconciler.take_notes();
    life.pass(Duration::from_secs(5));
    let notes = life.reconciler.take_notes();
    assert!(notes.iter().any(|note| matches!(note, Note::Unreadable(Reading::Reread, _))), "{notes:?}");
    assert!(!was_read(&notes, Reading::Reread), "{notes:?}");
    life.kernel.set_faults(None);
    life.kernel.set_unreadable([]);
    life.pass(Duration::from_mins(2));
    assert!(was_read(&life.reconciler.take_notes(), Reading::Reread));
}

#[test]
fn what_drains_is_counted_when_all_parts_of_a_round_were() {
    const COUNT: u16 = 40;
    let mut life = settled(COUNT, NEVER);
    for (key, server) in life.kernel.state().virtual_servers {
        for real in server.real_servers.keys() {
            life.kernel.set_connections(key, *real, 1);
        }
    }
    life.feed((0..COUNT).map(|number| Event::Slice(Change::Upsert(slice(number, &["10.244.0.1"])))));
    // For each question in two rounds: whether a successful read was reported.
    let mut said = Vec::new();
    while said.len() < 4 {
        match life.reconciler.next(life.now) {
            Next::Work(work) => {
                let is_count = matches!(work, Work::Count(_));
                if is_count && said.is_empty() {
                    life.kernel.fail_reads(1);
                }
                life.reconciler.take_notes();
                life.work(&work);
                if is_count {
                    said.push(was_read(&life.reconciler.take_notes(), Reading::Count));
                }
            }
            Next::Wait(due) => life.now = due.expect("the next round").max(life.now),
        }
    }
    assert_eq!(said, [false, false, false, true]);
}

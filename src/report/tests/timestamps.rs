//! When everything was last written, for alerts on the age of that time.

use super::*;

/// In so long a time without changes, kube-proxy syncs twenty times.
const QUIET: Duration = Duration::from_mins(10);
/// How often the foundations are looked for.
const LOOKS: Duration = Duration::from_secs(10);

fn synced(life: &Life, family: Family) -> f64 {
    timestamp(life, "last_timestamp", family)
}

fn timestamp(life: &Life, name: &str, family: Family) -> f64 {
    life.number(&format!("kubeproxy_sync_proxy_rules_{name}_seconds{{ip_family=\"{family}\"}}"))
        .parse()
        .expect("a number")
}

/// Whether, in a quiet time, every look renewed the time of the last sync, or none did, for each family.
fn are_renewed(life: &mut Life) -> [bool; 2] {
    let end = life.now + QUIET;
    let mut renewed = Vec::new();
    while life.now < end {
        let before = seconds(SystemTime::now());
        life.now += LOOKS;
        life.work();
        renewed.push(Family::ALL.map(|family| synced(life, family) >= before));
    }
    renewed.dedup();
    assert_eq!(renewed.len(), 1, "{renewed:?}");
    renewed[0]
}

fn quiet_life() -> Life {
    let mut life = Life::at_pace(Duration::ZERO, Duration::from_secs(1));
    life.observe(web());
    life.work();
    life
}

#[test]
fn the_last_sync_does_not_age_while_nothing_changes() {
    assert_eq!(are_renewed(&mut quiet_life()), [true; 2]);
}

#[test]
fn a_look_that_fails_says_nothing_of_what_is_written() {
    let mut life = quiet_life();
    life.kernel.set_unreadable(Family::ALL.map(Part::VirtualServers));
    assert_eq!(are_renewed(&mut life), [false; 2]);
    life.kernel.set_unreadable([]);
    assert_eq!(are_renewed(&mut life), [true; 2]);
}

#[test]
fn a_look_is_no_sync_where_something_waits() {
    let mut life = Life::at_pace(Duration::ZERO, Duration::from_secs(1));
    life.refuse(ENOMEM, |step| matches!(step, Step::AddVirtualServer(..)));
    life.observe(web());
    life.work();
    assert_eq!(are_renewed(&mut life), [false, true]);
    assert_eq!(synced(&life, Family::V4).to_bits(), 0, "it never was");

    let mut life = quiet_life();
    life.refuse(ENOMEM, |step| matches!(step, Step::AddVirtualServer(..)));
    life.observe(webs(2));
    life.work();
    assert_eq!(are_renewed(&mut life), [false, true]);
}

/// The alert on unwritten changes compares these two times.
#[test]
fn what_comes_during_a_look_is_queued_later_than_the_last_sync() {
    let mut life = quiet_life();
    let notes = vec![Note::LookedFor(Vec::new()), Note::Queued(Family::V4)];
    life.reporter.tell(&life.reconciler, notes, life.now);
    let queued = timestamp(&life, "last_queued_timestamp", Family::V4);
    assert!(queued > synced(&life, Family::V4), "{queued}");
}

/// A series at 0 would mean a last sync in 1970.
#[test]
fn a_family_that_is_not_served_has_no_last_sync() {
    for (families, count) in [(BTreeSet::from(Family::ALL), 2), ([Family::V4].into(), 1)] {
        let text = Life::of(&families).metrics.text();
        for name in ["last_timestamp", "last_queued_timestamp"] {
            let series = format!("kubeproxy_sync_proxy_rules_{name}_seconds{{");
            assert_eq!(text.lines().filter(|line| line.starts_with(&series)).count(), count, "{name}");
        }
    }
}

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Schedule, Urgency};
use crate::cluster::types::{Family, Protocol};
use crate::state::{Key, Scope, VirtualServerKey};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn key(number: u8) -> Key {
    Key::Address(ip(&format!("10.96.0.{number}")))
}

#[test]
fn urgent_keys_come_first_and_uncertain_ones_wait() {
    let now = Instant::now();
    let mut schedule = Schedule::default();
    schedule.add(Urgency::Bulk, key(1));
    schedule.add(Urgency::Change, key(2));
    schedule.add(Urgency::Change, key(3));
    schedule.suspect(key(3));
    assert_eq!(schedule.take(now), Scope::from([key(2)]));
    assert_eq!(schedule.take(now), Scope::from([key(1)]));
    assert!(schedule.take(now).is_empty());
    assert_eq!(schedule.suspects(now), Some(&Scope::from([key(3)])));
    assert!(!schedule.is_settled(Family::V4));
    assert!(schedule.is_settled(Family::V6), "each family makes progress alone");
    schedule.certain(Scope::from([key(3)]));
    assert_eq!(schedule.take(now), Scope::from([key(3)]));
    assert!(schedule.is_settled(Family::V4));
}

/// What a start has to write goes in pieces, and each family makes progress alone.
#[test]
fn a_family_is_settled_after_its_last_piece() {
    let now = Instant::now();
    let v6 = |number: u16| Key::Address(ip(&format!("fd00::{number}")));
    let v4 = |number: u16| Key::Address(ip(&format!("10.96.0.{number}")));
    let mut schedule = Schedule::default();
    let keys: Vec<Key> = (1..=200).map(v4).chain((1..=200).map(v6)).collect();
    schedule.add_all(Urgency::Bulk, keys);
    let mut seen = Vec::new();
    while !schedule.take(now).is_empty() {
        seen.push((schedule.is_settled(Family::V4), schedule.is_settled(Family::V6)));
    }
    // 128 at once: addresses of IPv4 come first.
    assert_eq!(seen, [(false, false), (true, false), (true, false), (true, true)]);

    // What belongs to no family concerns both.
    schedule.add(Urgency::Change, Key::Device);
    assert!(!schedule.is_settled(Family::V4) && !schedule.is_settled(Family::V6));
}

/// Keys that wait are taken in order from whichever end, whether they came together or one by one.
#[test]
fn what_comes_later_is_taken_where_it_belongs() {
    let (now, all) = (Instant::now(), 0..=255);
    for urgency in [Urgency::Bulk, Urgency::Removal] {
        let mut schedule = Schedule::default();
        schedule.add_all(urgency, all.clone().filter(|number| number % 3 == 0).map(key).collect());
        for number in all.clone().filter(|number| number % 3 != 0) {
            schedule.add(urgency, key(number));
            schedule.add(urgency, key(0));
        }
        let (first, second) = (schedule.take(now), schedule.take(now));
        let (low, high): (Scope, Scope) = ((0..128).map(key).collect(), (128..=255).map(key).collect());
        assert_eq!((first, second), if urgency == Urgency::Bulk { (low, high) } else { (high, low) });
        assert!(schedule.take(now).is_empty() && schedule.is_settled(Family::V4));
    }
}

#[test]
fn failures_are_told_once_and_tried_again_ever_later() {
    let mut now = Instant::now();
    let mut schedule = Schedule::default();
    assert!(schedule.fail(&key(1), "no".to_owned(), true, now));
    let mut waits = Vec::new();
    for _ in 0..8 {
        let due = schedule.next_due(None).expect("a retry");
        waits.push(due - now);
        assert!(schedule.take(now + (due - now).mul_f64(0.999)).is_empty());
        now = due;
        assert_eq!(schedule.take(now), Scope::from([key(1)]));
        assert!(!schedule.fail(&key(1), "no".to_owned(), true, now), "told before");
    }
    assert!(waits[0] <= Duration::from_secs(1) && waits[0] >= Duration::from_millis(750), "{waits:?}");
    assert!(waits.is_sorted(), "{waits:?}");
    assert!(*waits.last().expect("eight") <= Duration::from_mins(1), "{waits:?}");
    assert!(schedule.fail(&key(1), "never".to_owned(), true, now), "another reason is news");
    assert!(schedule.succeed(&key(1)));
    assert_eq!(schedule.next_due(None), None);
}

#[test]
fn what_fails_for_ever_is_tried_again_together() {
    let start = Instant::now();
    let mut schedule = Schedule::default();
    let keys: Vec<_> = (0..200).map(key).collect();
    for (number, key) in keys.iter().enumerate() {
        // Each failed at another moment, over ten minutes.
        schedule.fail(key, "no".to_owned(), true, start + Duration::from_secs(3 * number as u64));
    }
    let (mut batches, mut tries) = (0, BTreeMap::<Key, Vec<Instant>>::new());
    loop {
        let now = schedule.next_due(None).expect("a retry");
        if now > start + Duration::from_hours(1) {
            break;
        }
        let taken = schedule.take(now);
        assert!(!taken.is_empty());
        batches += u32::from(now > start + Duration::from_mins(30));
        for key in taken {
            schedule.fail(&key, "no".to_owned(), true, now);
            tries.entry(key).or_default().push(now);
        }
    }
    // Half an hour, with two hundred keys every minute: never two batches within a quarter of a minute.
    assert!(batches <= 2 * 60, "{batches}");
    for (key, tries) in tries {
        let waits: Vec<_> = tries.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let last = waits.last_chunk::<20>().unwrap_or_else(|| panic!("{key}: {waits:?}"));
        assert!(last.iter().all(|wait| (30.0..=60.0).contains(wait)), "{key}: {waits:?}");
    }
}

#[test]
fn what_waits_for_another_key_is_never_tried_without_it() {
    let mut now = Instant::now();
    let mut schedule = Schedule::default();
    // Each even key is refused, and the odd one after it waits for it.
    let pairs: Vec<_> = (0..20).map(|number| (key(2 * number), key(2 * number + 1))).collect();
    let mut taken: Scope = pairs.iter().flat_map(|(first, second)| [first.clone(), second.clone()]).collect();
    for round in 0..200 {
        for (first, second) in &pairs {
            assert_eq!(taken.contains(first), taken.contains(second), "round {round}: {first}, {second}");
            if taken.contains(first) {
                schedule.fail(first, "no".to_owned(), true, now);
                schedule.wait_for(second, first);
            }
        }
        now = schedule.next_due(None).expect("a retry");
        taken = schedule.take(now);
    }
}

#[test]
fn a_first_surprise_is_settled_at_once_and_a_second_waits() {
    let now = Instant::now();
    let mut schedule = Schedule::default();
    assert!(!schedule.surprise(&key(1), "there already".to_owned(), true, now));
    assert_eq!(schedule.take(now), Scope::from([key(1)]));
    assert!(schedule.surprise(&key(1), "there already".to_owned(), true, now));
    assert!(schedule.take(now).is_empty());
    assert!(schedule.next_due(None).is_some_and(|due| due > now));
}

#[test]
fn uncertain_keys_that_cannot_be_read_are_tried_again_later() {
    let now = Instant::now();
    let mut schedule = Schedule::default();
    schedule.suspect(key(1));
    schedule.still_uncertain(&Scope::from([key(1)]), now);
    assert_eq!(schedule.suspects(now), None);
    let due = schedule.next_due(None).expect("another try");
    assert!(due > now && schedule.suspects(due).is_some());
}

#[test]
fn uncertain_keys_wait_for_no_other_part_that_cannot_be_read() {
    let now = Instant::now();
    let mut schedule = Schedule::default();
    let (v4, v6) = (Scope::from([key(1), key(2)]), Scope::from([Key::Address(ip("fd00::1"))]));
    let server = VirtualServerKey { address: ip("10.96.0.1"), protocol: Protocol::Tcp, port: 80 };
    let server = Scope::from([Key::VirtualServer(server)]);
    for key in v4.iter().chain(&v6).chain(&server) {
        schedule.add(Urgency::Change, key.clone());
        schedule.suspect(key.clone());
    }
    assert!(schedule.take(now).is_empty());
    assert_eq!(schedule.suspects(now), Some(&server), "what an address may stand on comes first");
    schedule.still_uncertain(&server, now);
    assert_eq!(schedule.suspects(now), Some(&v4));
    schedule.certain(v4.clone());
    assert_eq!(schedule.take(now), v4);
    assert_eq!(schedule.suspects(now), Some(&v6));
    schedule.certain(v6.clone());
    assert_eq!(schedule.take(now), v6);
    assert!(schedule.is_settled(Family::V6) && !schedule.is_settled(Family::V4));
    assert_eq!(schedule.suspects(now), None);
    let due = schedule.next_due(None).expect("another try");
    assert_eq!(schedule.suspects(due), Some(&server));
    schedule.certain(server.clone());
    assert_eq!(schedule.take(due), server);
}

/// The kernel refused a key, and for a while what it has of the key cannot be read.
#[test]
fn a_change_of_what_cannot_be_read_does_not_wait_for_the_retry() {
    let now = Instant::now();
    let mut schedule = Schedule::default();
    let refused = Scope::from([key(1), key(2)]);
    for key in &refused {
        schedule.fail(key, "no".to_owned(), true, now);
        schedule.suspect(key.clone());
    }
    schedule.still_uncertain(&refused, now);
    schedule.add(Urgency::Change, key(1));
    assert!(schedule.take(now).is_empty());
    schedule.certain(refused);
    assert_eq!(schedule.take(now), Scope::from([key(1)]), "and the other one waits");
    assert!(schedule.take(now).is_empty());
}

/// One object that was refused just now must not cause retries of all others.
#[test]
fn what_is_due_much_later_is_not_tried_again_with_what_is_due_now() {
    let now = Instant::now();
    let mut schedule = Schedule::default();
    for _ in 0..4 {
        schedule.fail(&key(1), "no".to_owned(), true, now);
    }
    let later = schedule.next_due(None).expect("a retry");
    schedule.fail(&key(2), "no".to_owned(), true, now);
    let due = schedule.next_due(None).expect("a retry");
    assert!(later - due > Duration::from_secs(4), "a quarter of its eight seconds is less");
    assert_eq!(schedule.take(due), Scope::from([key(2)]));
    assert!(schedule.take(due).is_empty());
    assert_eq!(schedule.take(later), Scope::from([key(1)]));
}

#[test]
fn what_waits_with_another_key_is_taken_with_it() {
    let now = Instant::now();
    let mut schedule = Schedule::default();
    assert!(!schedule.waits_with(&key(2), &key(1), now), "there is no reason to");

    schedule.fail(&key(1), "no".to_owned(), true, now);
    assert!(schedule.waits_with(&key(2), &key(1), now));
    let due = schedule.next_due(None).expect("a retry");
    assert!(!schedule.waits_with(&key(3), &key(1), due), "it is tried again now");
    assert_eq!(schedule.take(due), Scope::from([key(1), key(2)]));

    schedule.suspect(key(4));
    assert!(schedule.waits_with(&key(5), &key(4), now));
    assert!(schedule.take(now).is_empty());
    schedule.certain(Scope::from([key(4)]));
    assert_eq!(schedule.take(now), Scope::from([key(4), key(5)]));
}

#[test]
fn what_was_not_read_yet_is_not_unreadable() {
    let now = Instant::now();
    let mut schedule = Schedule::default();
    let refused = Scope::from([key(1)]);
    schedule.suspect(key(1));
    schedule.still_uncertain(&refused, now);
    schedule.suspect(Key::Address(ip("fd00::1")));
    assert!(schedule.has_unreadable());
    schedule.certain(refused);
    assert!(!schedule.has_unreadable());
}

use std::time::{Instant, UNIX_EPOCH};

use super::*;
use crate::cluster::types::Family;
use crate::serve::{Failures, Unreadable};

const PERIOD: Duration = Duration::from_secs(30);

/// Moments counted in seconds from one.
struct Clock(Instant);

impl Clock {
    fn at(&self, seconds: u64) -> Moment {
        let wall = UNIX_EPOCH + Duration::from_secs(1_795_359_600 + seconds) + Duration::from_millis(500);
        Moment { instant: self.0 + Duration::from_secs(seconds), wall }
    }
}

fn failures<const N: usize>(lines: [&str; N]) -> Failures {
    Failures::first(lines.into_iter().map(str::to_owned), N)
}

fn with(families: impl IntoIterator<Item = (Family, FamilyStatus)>) -> Status {
    Status { families: families.into_iter().collect(), synced_once: true, ..Status::default() }
}

#[test]
fn when_a_family_is_healthy() {
    let clock = Clock(Instant::now());
    let waiting =
        |since| FamilyStatus { unsynced_since: Some(clock.at(since)), last_synced: Some(clock.at(0)) };
    let idle = FamilyStatus { last_synced: Some(clock.at(1)), ..Default::default() };
    for (what, status, now, code) in [
        ("nothing to report", with([]), 10_000, 200),
        ("idle for ever", with([(Family::V4, idle)]), 10_000_000, 200),
        ("just waiting", with([(Family::V4, waiting(100))]), 159, 200),
        ("waiting too long", with([(Family::V4, waiting(100))]), 160, 503),
        ("one of two", with([(Family::V4, idle), (Family::V6, waiting(100))]), 200, 503),
        ("both", with([(Family::V4, idle), (Family::V6, waiting(190))]), 200, 200),
        (
            "never written, waiting",
            with([(Family::V4, FamilyStatus { last_synced: None, ..waiting(5) })]),
            65,
            503,
        ),
    ] {
        assert_eq!(healthz(&status, clock.at(now), PERIOD).code, code, "{what}");
        assert_eq!(livez(&status, clock.at(now), PERIOD).code, code, "{what}");
    }
}

#[test]
fn a_node_that_goes_is_answered_for_with_503_and_its_proxy_is_healthy() {
    let clock = Clock(Instant::now());
    let status = Status {
        ineligible: Some("the node is being deleted, or is about to be removed by the cluster autoscaler"),
        ..with([])
    };
    assert_eq!(
        healthz(&status, clock.at(0), PERIOD),
        Answer {
            code: 503,
            body: r#"{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"2026-11-22T15:00:00.5Z","nodeEligible":false,"healthy":true,"reasons":["the node is being deleted, or is about to be removed by the cluster autoscaler"]}"#.into(),
        }
    );
    let unwritten = healthz(&Status { synced_once: false, ..status.clone() }, clock.at(0), PERIOD);
    assert_eq!(unwritten.code, 503);
    assert!(unwritten.body.contains(r#""nodeEligible":false,"healthy":false"#), "{}", unwritten.body);
    assert_eq!(
        livez(&status, clock.at(0), PERIOD),
        Answer {
            code: 200,
            body: r#"{"lastUpdated":"2026-11-22T15:00:00.5Z","currentTime":"2026-11-22T15:00:00.5Z","healthy":true}"#.into(),
        }
    );
}

#[test]
fn before_the_first_sync_it_lives_but_is_not_healthy() {
    let clock = Clock(Instant::now());
    let mut family = FamilyStatus::default();
    family.queued(clock.at(0));
    let unsynced = Status { synced_once: false, ..with([(Family::V4, family)]) };
    let refused = Status { synced_once: true, ..unsynced.clone() };
    let mut written = refused.clone();
    written.families.entry(Family::V4).or_default().synced(clock.at(1));
    for (what, status, now, health, life) in [
        ("nothing reported", Status::default(), 0, 503, 200),
        ("at the start", unsynced.clone(), 59, 503, 200),
        ("for too long", unsynced.clone(), 60, 503, 503),
        ("given to a kernel that takes nothing", refused, 59, 503, 200),
        ("written", written, 59, 200, 200),
    ] {
        assert_eq!(healthz(&status, clock.at(now), PERIOD).code, health, "{what}");
        assert_eq!(livez(&status, clock.at(now), PERIOD).code, life, "{what}");
        assert_eq!(forwards(&status, clock.at(now), PERIOD), health == 200, "{what}");
    }
}

#[test]
fn a_first_sync_that_advances_lives_however_long_it_takes() {
    let clock = Clock(Instant::now());
    let waiting = FamilyStatus { unsynced_since: Some(clock.at(0)), last_synced: None };
    let mut status = Status { synced_once: false, ..with([(Family::V4, waiting), (Family::V6, waiting)]) };
    assert!(status.wrote(clock.at(99).instant), "it is told of");
    let codes = |status: &Status, now| {
        [livez(status, clock.at(now), PERIOD), healthz(status, clock.at(now), PERIOD)]
            .map(|answer| answer.code)
    };
    assert_eq!(codes(&status, 100), [200, 503]);
    assert!(
        livez(&status, clock.at(100), PERIOD)
            .body
            .contains(r#""IPv6":{"lastUpdated":"0001-01-01T00:00:00Z","healthy":true}"#)
    );
    assert!(
        healthz(&status, clock.at(100), PERIOD).body.contains("IPv6: a change has been waiting for 100 s")
    );
    assert_eq!(
        (codes(&status, 158), codes(&status, 159)),
        ([200, 503], [503, 503]),
        "nothing was written for a minute"
    );
    // After the first sync, writes say nothing about what waits.
    status.synced_once = true;
    assert!(!status.wrote(clock.at(159).instant));
    assert_eq!(codes(&status, 160), [503, 503]);
}

#[test]
fn what_is_only_told_makes_nothing_unhealthy() {
    let clock = Clock(Instant::now());
    let sources = [("services".to_owned(), "list services: 503".to_owned())].into();
    let failures = failures(["virtual server x: no"]);
    let answer = healthz(&Status { sources, failures, ..with([]) }, clock.at(0), PERIOD);
    assert_eq!(answer.code, 200);
    assert!(
        answer.body.ends_with(r#""reasons":["list services: 503","virtual server x: no"]}"#),
        "{}",
        answer.body
    );
}

#[test]
fn a_kernel_that_is_unreadable_for_too_long_makes_the_node_unhealthy() {
    let clock = Clock(Instant::now());
    let since = |seconds| Unreadable { since: clock.at(seconds), text: "cannot read it: no".to_owned() };
    let status = Status { unreadable: [("it", since(10)), ("that", since(60))].into(), ..with([]) };
    let idle = Status { families: [(Family::V4, FamilyStatus::default())].into(), ..status };
    for (now, code) in [(69, 200), (70, 503)] {
        let answer = livez(&idle, clock.at(now), PERIOD);
        assert_eq!(answer.code, code, "{now}");
        let reasons =
            format!(r#""cannot read it: no, for {} s","cannot read it: no, for {} s""#, now - 10, now - 60);
        assert!(answer.body.contains(&reasons), "{}", answer.body);
    }
}

#[test]
fn bodies() {
    let clock = Clock(Instant::now());
    let mut v4 = FamilyStatus::default();
    v4.queued(clock.at(1));
    v4.synced(clock.at(3));
    let mut v6 = FamilyStatus::default();
    v6.queued(clock.at(10));
    let status = Status { synced_once: false, ..with([(Family::V4, v4), (Family::V6, v6)]) };
    assert_eq!(
        healthz(&status, clock.at(20), PERIOD).body,
        r#"{"lastUpdated":"2026-11-22T15:00:03.5Z","currentTime":"2026-11-22T15:00:20.5Z","nodeEligible":true,"healthy":false,"status":{"IPv4":{"lastUpdated":"2026-11-22T15:00:03.5Z","healthy":true},"IPv6":{"lastUpdated":"0001-01-01T00:00:00Z","healthy":true}},"reasons":["the first complete sync since the start has not finished"]}"#
    );
    let status = Status { synced_once: true, failures: failures(["virtual server x: no"]), ..status };
    assert_eq!(
        livez(&status, clock.at(75), PERIOD).body,
        r#"{"lastUpdated":"2026-11-22T15:00:03.5Z","currentTime":"2026-11-22T15:01:15.5Z","healthy":false,"status":{"IPv4":{"lastUpdated":"2026-11-22T15:00:03.5Z","healthy":true},"IPv6":{"lastUpdated":"0001-01-01T00:00:00Z","healthy":false}},"reasons":["IPv6: a change has been waiting for 65 s to be written to the kernel","virtual server x: no"]}"#
    );
}

#[test]
fn a_clock_that_is_set_back_is_no_illness() {
    let clock = Clock(Instant::now());
    let mut family = FamilyStatus::default();
    family.synced(clock.at(50));
    family.queued(clock.at(100));
    let later = Moment { instant: clock.at(110).instant, wall: UNIX_EPOCH };
    assert_eq!(healthz(&with([(Family::V4, family)]), later, PERIOD).code, 200);
}

#[test]
fn what_waits_longest_counts() {
    let clock = Clock(Instant::now());
    let mut family = FamilyStatus::default();
    family.queued(clock.at(1));
    family.queued(clock.at(2));
    assert_eq!(family.unsynced_since, Some(clock.at(1)), "the oldest counts");
    family.synced(clock.at(6));
    assert_eq!((family.unsynced_since, family.last_synced), (None, Some(clock.at(6))));
    family.queued(clock.at(7));
    assert_eq!((family.unsynced_since, family.last_synced), (Some(clock.at(7)), Some(clock.at(6))));
}

#[test]
fn failures_stay_small() {
    let failures = Failures::first((0..1000).map(|number| format!("{number} {}", "é".repeat(1000))), 1000);
    let shown: Vec<_> = failures.shown().collect();
    assert_eq!(shown.len(), Failures::KEPT + 1);
    assert!(shown.iter().all(|line| line.len() <= Failures::LINE_BYTES));
    assert_eq!(shown[Failures::KEPT], "and 990 more");
}

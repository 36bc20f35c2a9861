//! Answers that do not come, come slowly, or end in the middle.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{BOTH, asked, established, server, start};
use crate::common::fake_apiserver::{Fault, Kind, Wants};
use crate::common::objects::{node, service};
use crate::session::{self, Of};

session::tests![
    a_server_that_says_nothing_is_asked_again,
    a_stuck_list_is_replaced_by_another_kind,
    a_stuck_page_is_asked_again,
    a_slow_list_is_let_finish,
    a_broken_list_says_nothing,
    a_dead_watch_is_opened_again_where_it_was,
    a_broken_watch_goes_on_where_it_was,
    a_watch_that_is_cut_again_and_again_misses_nothing_for_long,
    where_streams_are_cut_before_they_are_complete_there_is_a_list,
    watches_that_end_at_once_do_not_spin,
    a_watch_that_ends_has_not_failed,
    a_silent_server_is_asked_for_a_list_every_five_minutes,
    bookmarks_are_signs_of_life,
];

async fn a_server_that_says_nothing_is_asked_again() {
    let server = server();
    server.fault(Kind::Services, Wants::Stream, Fault::Silence);
    let begun = Instant::now();
    let mut session = start(&server);
    assert_eq!(session.next(Of::Services).await, BOTH);
    let elapsed = begun.elapsed();
    assert!((Duration::from_secs(30)..Duration::from_secs(33)).contains(&elapsed), "{elapsed:?}");
}

async fn a_stuck_list_is_replaced_by_another_kind() {
    let server = server();
    server.fault(Kind::Services, Wants::Stream, Fault::StallAfter(1));
    let begun = Instant::now();
    let mut session = start(&server);
    assert_eq!(session.next(Of::Services).await, BOTH);
    assert!((30..33).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(asked(&server)[..2], ["Stream", "List"]);
    server.fault(Kind::Services, Wants::Watch, Fault::Status(410));
    assert_eq!(session.next(Of::Services).await, BOTH);
    let last = asked(&server).pop();
    assert_eq!(last.as_deref(), Some("Stream@104"), "the next time it is a stream again");
}

async fn a_stuck_page_is_asked_again() {
    let server = server().without_streaming_lists();
    server.fault(Kind::Services, Wants::List, Fault::StallAfter(0));
    let begun = Instant::now();
    let mut session = start(&server);
    assert_eq!(session.next(Of::Services).await, BOTH);
    assert!((30..33).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

async fn a_slow_list_is_let_finish() {
    for server in [server(), server().without_streaming_lists()] {
        for wants in [Wants::Stream, Wants::List] {
            server.fault(Kind::Services, wants, Fault::Trickle(Duration::from_secs(25)));
        }
        let begun = Instant::now();
        let mut session = start(&server);
        assert_eq!(session.next(Of::Services).await, BOTH);
        assert!(begun.elapsed() > Duration::from_mins(1), "{:?}", begun.elapsed());
        assert_eq!(session.counters(Of::Services)[4], 0, "errors");
    }
}

async fn a_broken_list_says_nothing() {
    for server in [server(), server().without_streaming_lists()] {
        let mut session = established(&server).await;
        server.compact();
        server.fault(Kind::Services, Wants::Watch, Fault::Status(410));
        for fault in [Fault::CutAfter(1), Fault::EndAfter(1), Fault::StallAfter(1), Fault::Status(500)] {
            for wants in [Wants::Stream, Wants::List] {
                server.fault(Kind::Services, wants, fault.clone());
            }
        }
        session.until(Of::Services, |status| status.last_error.is_some()).await;
        session.until(Of::Services, |status| status.last_error.is_none()).await;
        assert_eq!(session.counters(Of::Services)[3], 1, "well again only with a complete set");
        assert_eq!(session.next(Of::Services).await, BOTH, "no half of it before");
        assert!(session.counters(Of::Services)[4] > 3);
    }
}

async fn a_dead_watch_is_opened_again_where_it_was() {
    let server = server();
    server.fault(Kind::Services, Wants::Stream, Fault::StallAfter(3));
    let mut session = established(&server).await;
    server.put(service("c", "10.96.0.3"));
    let begun = Instant::now();
    assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    assert!((99..=101).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(asked(&server), ["Stream", "Watch@104"]);
    assert_eq!(session.counters(Of::Services)[3..], [0, 0], "no relist, no error");
}

async fn a_broken_watch_goes_on_where_it_was() {
    let server = server();
    server.fault(Kind::Services, Wants::Stream, Fault::CutAfter(4));
    let mut session = established(&server).await;
    server.put(service("c", "10.96.0.3"));
    assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    session.until(Of::Services, |status| status.restarts == 1).await;
    let version = server.delete(Kind::Services, "a");
    assert_eq!(session.next(Of::Services).await, "delete default/a");
    assert_eq!(asked(&server), ["Stream".to_owned(), format!("Watch@{}", version - 1)]);
    assert_eq!(session.counters(Of::Services)[3..], [0, 0], "no relist, no error");
}

/// For example by a proxy that limits each answer to some seconds.
async fn where_streams_are_cut_before_they_are_complete_there_is_a_list() {
    let server = server();
    for _ in 0..10 {
        server.fault(Kind::Services, Wants::Stream, Fault::CutAfter(1));
    }
    let mut session = start(&server);
    assert_eq!(session.next(Of::Services).await, BOTH);
    assert_eq!(asked(&server)[..2], ["Stream", "List"]);
}

/// Balancers do this to connections that are idle for too long, and bookmarks come only once a minute.
async fn a_watch_that_is_cut_again_and_again_misses_nothing_for_long() {
    let server = server();
    let idle = Duration::from_secs(30);
    server.fault(Kind::Services, Wants::Stream, Fault::CutIn(idle));
    for _ in 0..30 {
        server.fault(Kind::Services, Wants::Watch, Fault::CutIn(idle));
    }
    let mut session = established(&server).await;
    let mut pauses = BTreeSet::new();
    for round in 1..=20 {
        let opened = Instant::now();
        // Just after the watch was cut.
        session.until(Of::Services, |status| status.restarts == round).await;
        pauses.insert(opened.elapsed().saturating_sub(idle));
        server.put(service("c", &format!("10.96.0.{}", 10 + round)));
        let begun = Instant::now();
        assert_eq!(
            session.next(Of::Services).await,
            format!("upsert default/c 10.96.0.{}:80", 10 + round),
            "round {round}"
        );
        assert!(begun.elapsed() < Duration::from_secs(2), "round {round}: {:?}", begun.elapsed());
    }
    assert_eq!(session.counters(Of::Services)[3..], [0, 0], "no relist, no error");
    // The server cut the watches of all nodes, which should not come back together.
    let longest = pauses.last().unwrap();
    assert!(pauses.len() > 10 && *longest < Duration::from_millis(1100), "{pauses:?}");
}

async fn watches_that_end_at_once_do_not_spin() {
    for fault in [Fault::EndAfter(0), Fault::CutAfter(0)] {
        let server = server();
        server.fault(Kind::Services, Wants::Stream, Fault::EndAfter(3));
        for _ in 0..100 {
            server.fault(Kind::Services, Wants::Watch, fault.clone());
        }
        let mut session = established(&server).await;
        session.nothing_for(Of::Services, Duration::from_mins(5)).await;
        let count = asked(&server).len();
        assert!((8..=20).contains(&count), "{fault:?}: {count} requests in 5 minutes");
    }
}

/// Servers end every watch in the end, and all of them when they are replaced.
async fn a_watch_that_ends_has_not_failed() {
    let server = server();
    let mut session = established(&server).await;
    let end_all_watches = || server.restore(server.version());
    session.nothing_for(Of::Services, Duration::from_secs(10)).await;
    end_all_watches();
    session.until(Of::Services, |status| status.restarts == 1).await;
    server.put(service("c", "10.96.0.3"));
    let begun = Instant::now();
    assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    end_all_watches();
    session.until(Of::Services, |status| status.restarts == 2).await;
    server.put(service("d", "10.96.0.4"));
    assert_eq!(session.next(Of::Services).await, "upsert default/d 10.96.0.4:80");
    assert_eq!(begun.elapsed(), Duration::ZERO, "after a silent watch, and after one that has just begun");
    assert_eq!(session.counters(Of::Services)[3..], [0, 0], "no relist, no error");
}

async fn a_silent_server_is_asked_for_a_list_every_five_minutes() {
    let server = server();
    let mut session = established(&server).await;
    for _ in 0..2 {
        assert_eq!(session.next(Of::Services).await, BOTH);
    }
    let round = ["Watch@104", "Watch@104", "Stream@104", "Watch@104", "Watch@104", "Stream@104"];
    assert_eq!(asked(&server)[1..], round);
}

async fn bookmarks_are_signs_of_life() {
    let server = server();
    let mut session = established(&server).await;
    for minute in 1..=20 {
        session.nothing_for(Of::Services, Duration::from_mins(1)).await;
        server.put(node("other", &format!("192.0.2.{minute}")));
        server.bookmark();
    }
    assert_eq!(session.counters(Of::Services)[3..], [0, 0], "no relist, no error");
}

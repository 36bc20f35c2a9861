//! Servers that refuse: busy, broken, forbidding.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{BOTH, asked, established, server, start};
use crate::common::fake_apiserver::{Fault, Kind, Wants};
use crate::common::objects::service;
use crate::session::{self, Log, Of};

session::tests![
    too_many_requests_wait_as_told,
    a_demand_to_wait_for_days_is_not_obeyed,
    server_errors_back_off_and_recover,
    a_server_that_fails_at_streams_is_listed,
    a_denial_at_the_start_ends_it,
    denied_after_errors_is_still_the_start,
    a_denial_later_is_waited_out,
    a_version_that_the_server_fails_at_is_left_by_a_list,
    an_event_that_cannot_be_read_is_passed_by_a_list,
    a_version_has_three_tries_after_each_list,
    failures_with_a_watch_between_are_not_in_a_row,
    failures_with_an_event_between_are_not_in_a_row,
    after_a_watch_that_worked_the_pauses_are_short_again,
    a_watch_that_is_accepted_ends_the_error,
    overload_does_not_lead_to_lists,
];

async fn too_many_requests_wait_as_told() {
    let server = server();
    let log = Log::begin();
    server.fault(Kind::Services, Wants::Stream, Fault::Plain(429, 70));
    let begun = Instant::now();
    let mut session = start(&server);
    session.until(Of::Services, |status| status.last_error.is_some()).await;
    let error = "watch services: 429: Too many requests, please try again later.";
    assert_eq!(session.status(Of::Services).last_error.as_deref(), Some(error));
    assert_eq!(session.next(Of::Services).await, BOTH);
    assert_eq!(begun.elapsed().as_secs(), 70);
    assert_eq!(session.status(Of::Services).last_error, None);
    assert_eq!(log.with("429").len(), 1);
    assert_eq!(log.with("can be watched again").len(), 1);
}

async fn a_demand_to_wait_for_days_is_not_obeyed() {
    let server = server();
    server.fault(Kind::Services, Wants::Stream, Fault::Plain(503, 200_000));
    let begun = Instant::now();
    assert_eq!(start(&server).next(Of::Services).await, BOTH);
    assert_eq!(begun.elapsed().as_secs(), 120);
}

async fn server_errors_back_off_and_recover() {
    let server = server();
    let log = Log::begin();
    for _ in 0..8 {
        server.fault(Kind::Services, Wants::Stream, Fault::Status(503));
    }
    let begun = Instant::now();
    let mut session = established(&server).await;
    // 0.8 + 1.6 + 3.2 + 6.4 + 12.8 + 25.6 + 30 + 30 s, and up to twice that.
    let (least, most) = (Duration::from_secs(110), Duration::from_secs(221));
    assert!((least..most).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(session.counters(Of::Services), [2, 0, 0, 0, 8]);
    assert_eq!(log.with("watch services: 503: told to fail").len(), 1, "once, not eight times");
    session.nothing_for(Of::Services, Duration::from_secs(10)).await;
}

async fn a_server_that_fails_at_streams_is_listed() {
    let server = server();
    // kube-apiserver's answer to each stream when its etcd is too old for streams.
    let error = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","code":500,
        "reason":"InternalError","message":"the required storage feature RequestWatchProgress is disabled"}}"#;
    let error = error.replace('\n', "");
    for _ in 0..2 {
        server.fault(Kind::Services, Wants::Stream, Fault::Line(error.clone()));
    }
    let begun = Instant::now();
    let mut session = start(&server);
    assert_eq!(session.next(Of::Services).await, BOTH);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(asked(&server)[..2], ["Stream", "List"]);
    server.put(service("c", "10.96.0.3"));
    assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    assert_eq!(session.counters(Of::Services)[4], 1, "errors");
}

async fn a_denial_at_the_start_ends_it() {
    for (kind, wants, code, old_server, expected) in [
        (
            Kind::Services,
            Wants::Stream,
            403,
            false,
            "watch services: forbidden: services is forbidden: User \"nobody\" cannot watch resource \"services\"",
        ),
        (
            Kind::Slices,
            Wants::List,
            403,
            true,
            "list endpointslices.discovery.k8s.io: forbidden: endpointslices is forbidden: User \"nobody\" cannot \
             list resource \"endpointslices\"",
        ),
        (
            Kind::Nodes,
            Wants::Stream,
            401,
            false,
            "watch nodes: unauthorized: the server does not accept the credentials: Unauthorized",
        ),
    ] {
        let server = if old_server { server().without_streaming_lists() } else { server() };
        server.deny(kind, wants, Some(code));
        let error = start(&server).end().await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

async fn denied_after_errors_is_still_the_start() {
    let server = server();
    server.fault(Kind::Slices, Wants::Stream, Fault::Status(503));
    server.fault(Kind::Slices, Wants::Stream, Fault::Status(403));
    let error = start(&server).end().await.unwrap_err();
    assert_eq!(error.to_string(), "watch endpointslices.discovery.k8s.io: forbidden: told to fail");
}

async fn a_denial_later_is_waited_out() {
    let server = server();
    server.fault(Kind::Services, Wants::Stream, Fault::EndAfter(3));
    server.deny(Kind::Services, Wants::Watch, Some(403));
    let log = Log::begin();
    let mut session = established(&server).await;
    session.nothing_for(Of::Services, Duration::from_mins(10)).await;
    let error = session.status(Of::Services).last_error.unwrap();
    assert!(error.starts_with("watch services: forbidden: "), "{error}");
    assert_eq!(log.with("forbidden").len(), 1, "said once in ten minutes");
    server.put(service("c", "10.96.0.3"));
    server.deny(Kind::Services, Wants::Watch, None);
    assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    assert_eq!(session.status(Of::Services).last_error, None);
}

/// The event by which a server reports a failure in a watch.
const INTERNAL_ERROR: &str = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","code":500,"reason":"InternalError","message":"told to fail"}}"#;

async fn a_version_that_the_server_fails_at_is_left_by_a_list() {
    for fault in
        [Fault::Line(INTERNAL_ERROR.into()), Fault::Status(400), Fault::Status(404), Fault::Status(500)]
    {
        for has_streaming_lists in [true, false] {
            a_version_is_left_by_a_list(&fault, has_streaming_lists).await;
        }
    }
}

async fn an_event_that_cannot_be_read_is_passed_by_a_list() {
    a_version_is_left_by_a_list(&Fault::Line("nonsense".into()), true).await;
}

/// Each watch fails, although the server forgets nothing.
async fn a_version_is_left_by_a_list(fault: &Fault, has_streaming_lists: bool) {
    let server = if has_streaming_lists { server() } else { server().without_streaming_lists() };
    server.fault(Kind::Services, Wants::Stream, Fault::EndAfter(3));
    for _ in 0..100 {
        server.fault(Kind::Services, Wants::Watch, fault.clone());
    }
    let mut session = established(&server).await;
    let version = server.put(service("c", "10.96.0.3")) - 1;
    assert_eq!(
        session.next(Of::Services).await,
        "replace [default/a 10.96.0.1:80, default/b 10.96.0.2:80, default/c 10.96.0.3:80]",
        "{fault:?}"
    );
    let list = if has_streaming_lists { "Stream" } else { "List" };
    let (again, list) = (format!("Watch@{version}"), format!("{list}@{version}"));
    let asked = asked(&server);
    let begun = asked.iter().position(|asked| *asked == again).unwrap();
    assert_eq!(asked[begun..begun + 4], [again.clone(), again.clone(), again, list], "{fault:?}");
}

async fn a_version_has_three_tries_after_each_list() {
    let server = server().without_streaming_lists();
    for _ in 0..6 {
        server.fault(Kind::Services, Wants::Watch, Fault::Status(500));
    }
    let mut session = established(&server).await;
    for _ in 0..2 {
        assert_eq!(session.next(Of::Services).await, BOTH);
    }
    let round =
        ["List", "Watch@104", "Watch@104", "Watch@104", "List@104", "Watch@104", "Watch@104", "Watch@104"];
    assert_eq!(asked(&server)[1..9], round);
}

async fn failures_with_a_watch_between_are_not_in_a_row() {
    let server = server();
    server.fault(Kind::Services, Wants::Stream, Fault::EndAfter(3));
    let failure = Fault::Status(500);
    let silent = Fault::StallAfter(0);
    for fault in [&failure, &failure, &silent, &failure, &failure] {
        server.fault(Kind::Services, Wants::Watch, fault.clone());
    }
    let mut session = established(&server).await;
    server.put(service("c", "10.96.0.3"));
    assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    assert_eq!(session.counters(Of::Services)[3..], [0, 5], "relists, errors");
}

async fn failures_with_an_event_between_are_not_in_a_row() {
    let server = server();
    server.fault(Kind::Services, Wants::Stream, Fault::EndAfter(3));
    let mut session = established(&server).await;
    let mut changed = service("c", "10.96.0.3");
    let version = server.put(changed.clone());
    changed["metadata"]["resourceVersion"] = json!(version.to_string());
    let event = json!({"type": "ADDED", "object": changed}).to_string();
    let failure = Fault::Status(500);
    let event_and_failure = Fault::Lines(vec![event, INTERNAL_ERROR.into()]);
    for fault in [&failure, &failure, &event_and_failure, &failure] {
        server.fault(Kind::Services, Wants::Watch, fault.clone());
    }
    assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    session.until(Of::Services, |status| status.restarts == 5).await;
    server.put(service("d", "10.96.0.4"));
    assert_eq!(session.next(Of::Services).await, "upsert default/d 10.96.0.4:80");
    assert_eq!(session.counters(Of::Services)[3..], [0, 5], "relists, errors");
}

async fn after_a_watch_that_worked_the_pauses_are_short_again() {
    let server = server();
    for _ in 0..6 {
        server.fault(Kind::Services, Wants::Stream, Fault::Status(503));
    }
    server.fault(Kind::Services, Wants::Stream, Fault::CutIn(Duration::from_secs(30)));
    server.fault(Kind::Services, Wants::Watch, Fault::Status(503));
    let mut session = established(&server).await;
    session.until(Of::Services, |status| status.last_error.is_some()).await;
    server.put(service("c", "10.96.0.3"));
    let begun = Instant::now();
    assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// It may have nothing to say for a while.
async fn a_watch_that_is_accepted_ends_the_error() {
    let server = server();
    let log = Log::begin();
    server.fault(Kind::Services, Wants::Stream, Fault::EndAfter(3));
    let mut session = established(&server).await;
    session.until(Of::Services, |status| status.last_error.is_some()).await;
    let begun = Instant::now();
    session.until(Of::Services, |status| status.last_error.is_none()).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(log.with("can be watched again").len(), 0, "not before it says something");
    server.put(service("c", "10.96.0.3"));
    assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    assert_eq!(log.with("can be watched again").len(), 1);
}

async fn overload_does_not_lead_to_lists() {
    for fault in [Fault::Status(429), Fault::Status(503), Fault::Status(504), Fault::Silence] {
        let server = server();
        server.fault(Kind::Services, Wants::Stream, Fault::EndAfter(3));
        for _ in 0..6 {
            server.fault(Kind::Services, Wants::Watch, fault.clone());
        }
        let mut session = established(&server).await;
        server.put(service("c", "10.96.0.3"));
        assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80", "{fault:?}");
        assert_eq!(session.counters(Of::Services)[3], 0, "relists");
    }
}

//! What the source says, and what it does not say, when the server or the way to it fails. The clock is paused:
//! nothing here waits, and durations are exact.

use std::time::Duration;

use kube_ipvs::api::watch::{Encoding, Settings};
use serde_json::json;
use tokio::time::Instant;

use crate::common::fake_apiserver::{FakeApiServer, Fault, Kind, Received, Replica, Wants};
use crate::common::objects::{node, service, slice};
use crate::session::{Log, NODE, Of, Session, Test};

macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        pub const TESTS: &[(&str, Test)] = &[$((stringify!($name), || Box::pin($name()))),+];
    };
}

tests![
    begins_with_complete_sets_then_follows,
    asks_consistently_with_selectors_and_bookmarks,
    a_label_hides_and_shows,
    other_nodes_are_watched_where_that_is_wanted,
    an_empty_cluster_is_a_complete_set,
    without_streaming_lists_it_lists_and_remembers,
    a_starting_server_is_not_taken_for_an_old_one,
    lists_come_in_pages,
    lost_pages_are_fetched_in_one_list,
    gone_is_followed_by_one_replacement,
    a_gone_event_is_the_same,
    too_many_requests_wait_as_told,
    a_demand_to_wait_for_days_is_not_obeyed,
    server_errors_back_off_and_recover,
    a_server_that_fails_at_streams_is_listed,
    a_denial_at_the_start_ends_it,
    denied_after_errors_is_still_the_start,
    a_denial_later_is_waited_out,
    a_server_that_says_nothing_is_asked_again,
    a_stuck_list_is_replaced_by_another_kind,
    a_stuck_page_is_asked_again,
    a_slow_list_is_let_finish,
    a_broken_list_says_nothing,
    a_dead_watch_is_opened_again_where_it_was,
    a_broken_watch_goes_on_where_it_was,
    bookmarks_move_the_place_to_go_on,
    watches_that_end_at_once_do_not_spin,
    a_replica_behind_is_not_believed,
    a_lying_replica_is_not_believed,
    a_restored_cluster_is_believed_in_the_end,
    an_old_event_undoes_nothing,
    nonsense_is_skipped_with_one_warning,
    what_cannot_be_decoded_is_skipped_too,
    an_answer_that_is_no_list_is_an_error,
    json_can_be_wanted,
    a_full_channel_loses_nothing,
    it_stops_when_told_in_any_state,
    it_stops_when_nobody_listens,
];

/// A server with two Services, a slice and the node.
fn server() -> FakeApiServer {
    let server = FakeApiServer::new();
    server.put(service("a", "10.96.0.1"));
    server.put(service("b", "10.96.0.2"));
    server.put(slice("a-1", "a", &["10.1.0.1", "10.1.0.2"]));
    server.put(node(NODE, "192.0.2.1"));
    server
}

const BOTH: &str = "replace [default/a 10.96.0.1:80, default/b 10.96.0.2:80]";
const SLICE: &str = "replace [default/a-1 of default/a (10.1.0.1 10.1.0.2)]";

fn start(server: &FakeApiServer) -> Session {
    Session::start(server.client(), Settings::default())
}

/// A session whose three watches are established.
async fn established(server: &FakeApiServer) -> Session {
    let mut session = start(server);
    assert_eq!(session.first().await, [BOTH, SLICE, "replace [worker (192.0.2.1)]"]);
    session
}

/// What was wanted of Services, in short: `Stream` or `Watch@104`.
fn asked(server: &FakeApiServer) -> Vec<String> {
    let short = |received: Received| match received.parameter("resourceVersion") {
        "" | "-" => format!("{:?}", received.wants),
        version => format!("{:?}@{version}", received.wants),
    };
    server.received(Kind::Services).into_iter().map(short).collect()
}

async fn other_nodes_are_watched_where_that_is_wanted() {
    let server = server();
    server.put(node("other", "192.0.2.2"));
    let mut session = Session::with_other_nodes(server.client());
    assert_eq!(session.next(Of::OtherNodes).await, "replace [other (192.0.2.2)]");
    assert_eq!(session.next(Of::Node).await, "replace [worker (192.0.2.1)]");
    server.put(node(NODE, "192.0.2.3"));
    assert_eq!(session.next(Of::Node).await, "upsert worker (192.0.2.3)");
    server.put(node("other", "192.0.2.4"));
    assert_eq!(session.next(Of::OtherNodes).await, "upsert other (192.0.2.4)");
    server.delete(Kind::Nodes, "other");
    assert_eq!(session.next(Of::OtherNodes).await, "delete other");
}

async fn begins_with_complete_sets_then_follows() {
    let server = server();
    let mut session = established(&server).await;
    assert!(session.status(Of::Services).synced);
    server.put(service("c", "10.96.0.3"));
    assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    server.patch(Kind::Services, "c", |object| object["spec"]["ports"][0]["port"] = json!(81));
    assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:81");
    server.delete(Kind::Services, "c");
    assert_eq!(session.next(Of::Services).await, "delete default/c");
    server.put(slice("a-1", "a", &["10.1.0.2"]));
    assert_eq!(session.next(Of::Slices).await, "upsert default/a-1 of default/a (10.1.0.2)");
    server.delete(Kind::Slices, "a-1");
    assert_eq!(session.next(Of::Slices).await, "delete default/a-1");
    server.put(node("other", "192.0.2.2"));
    server.put(node(NODE, "192.0.2.3"));
    assert_eq!(session.next(Of::Node).await, "upsert worker (192.0.2.3)");
    server.delete(Kind::Nodes, NODE);
    assert_eq!(session.next(Of::Node).await, "delete worker");
    assert_eq!(session.counters(Of::Services), [5, 0, 0, 0, 0]);
}

async fn asks_consistently_with_selectors_and_bookmarks() {
    let server = server();
    let _session = established(&server).await;
    let parameters = |kind: Kind| {
        let received = server.received(kind);
        assert_eq!(received.len(), 1);
        let names = [
            "resourceVersion",
            "resourceVersionMatch",
            "sendInitialEvents",
            "allowWatchBookmarks",
            "labelSelector",
            "fieldSelector",
        ];
        names.map(|name| received[0].parameter(name).to_owned())
    };
    let stream = ["", "NotOlderThan", "true", "true"];
    let expected = |labels: &str, fields: &str| {
        [stream.as_slice(), &[labels, fields]].concat().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        parameters(Kind::Services).to_vec(),
        expected("!service.kubernetes.io/service-proxy-name", "spec.clusterIP!=None")
    );
    assert_eq!(parameters(Kind::Slices).to_vec(), expected("!service.kubernetes.io/headless", "-"));
    assert_eq!(parameters(Kind::Nodes).to_vec(), expected("-", "metadata.name=worker"));
    let seconds: u64 = server.received(Kind::Nodes)[0].parameter("timeoutSeconds").parse().unwrap();
    assert!((300..=600).contains(&seconds), "{seconds}");
}

async fn a_label_hides_and_shows() {
    let server = server();
    let mut session = established(&server).await;
    let label = "service.kubernetes.io/service-proxy-name";
    server.patch(Kind::Services, "a", |object| object["metadata"]["labels"] = json!({label: ""}));
    assert_eq!(session.next(Of::Services).await, "delete default/a");
    server.patch(Kind::Services, "a", |object| object["metadata"]["labels"] = json!({}));
    assert_eq!(session.next(Of::Services).await, "upsert default/a 10.96.0.1:80");
    let label = "service.kubernetes.io/headless";
    server.patch(Kind::Slices, "a-1", |object| object["metadata"]["labels"][label] = json!("true"));
    assert_eq!(session.next(Of::Slices).await, "delete default/a-1");
    // What the server cannot select, conversion does.
    server.patch(Kind::Services, "b", |object| object["spec"] = json!({"type": "ExternalName"}));
    assert_eq!(session.next(Of::Services).await, "delete default/b");
    assert_eq!(session.counters(Of::Services)[1], 1, "ignored");
}

async fn an_empty_cluster_is_a_complete_set() {
    for server in [FakeApiServer::new(), FakeApiServer::new().without_streaming_lists()] {
        let mut session = start(&server);
        assert_eq!(session.first().await, ["replace []"; 3]);
    }
}

async fn without_streaming_lists_it_lists_and_remembers() {
    let server = server().without_streaming_lists();
    let log = Log::begin();
    let begun = Instant::now();
    let mut session = established(&server).await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "no backoff in between");
    server.put(service("c", "10.96.0.3"));
    assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    assert_eq!(asked(&server), ["Stream", "List", "Watch@104"]);
    server.compact();
    server.fault(Kind::Services, Wants::Watch, Fault::Status(410));
    session.until(Of::Services, |status| status.restarts == 2).await;
    let all = "replace [default/a 10.96.0.1:80, default/b 10.96.0.2:80, default/c 10.96.0.3:80]";
    assert_eq!(session.next(Of::Services).await, all);
    assert_eq!(asked(&server)[3..], ["Watch@105", "List@105", "Watch@105"], "no second try to stream");
    assert_eq!(log.with("no streaming lists").len(), 3, "one per watch");
    assert_eq!(session.counters(Of::Services)[3..], [1, 1], "relists, errors");
}

async fn a_starting_server_is_not_taken_for_an_old_one() {
    let server = server();
    server.fault(Kind::Services, Wants::Stream, Fault::Status(404));
    server.fault(Kind::Services, Wants::List, Fault::Status(404));
    let _session = established(&server).await;
    assert_eq!(asked(&server), ["Stream", "List", "Stream"]);
}

async fn lists_come_in_pages() {
    let server = server().without_streaming_lists();
    for number in 3..=7 {
        server.put(service(&format!("s{number}"), &format!("10.96.0.{number}")));
    }
    let settings = Settings { page_size: 3, ..Settings::default() };
    let mut session = Session::start(server.client(), settings);
    let first = session.next(Of::Services).await;
    assert_eq!(first.matches("default/").count(), 7, "{first}");
    assert_eq!(asked(&server)[..4], ["Stream", "List", "List", "List"]);
    let pages = server.received(Kind::Services)[1..4].to_vec();
    assert_eq!(
        pages.iter().map(|page| page.parameter("continue")).collect::<Vec<_>>(),
        ["-", "109:3", "109:6"]
    );
    assert!(pages.iter().all(|page| page.parameter("limit") == "3"));
}

async fn lost_pages_are_fetched_in_one_list() {
    let server = server().without_streaming_lists();
    let settings = Settings { page_size: 1, ..Settings::default() };
    // The second page is too late.
    server.fault(Kind::Services, Wants::List, Fault::Trickle(Duration::from_secs(1)));
    let mut session = Session::start(server.client(), settings);
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.put(service("c", "10.96.0.3"));
    server.compact();
    let all = "replace [default/a 10.96.0.1:80, default/b 10.96.0.2:80, default/c 10.96.0.3:80]";
    assert_eq!(session.next(Of::Services).await, all, "and nothing of the first try");
    let received = server.received(Kind::Services);
    assert_eq!(received[3].parameter("limit"), "-");
}

async fn gone_is_followed_by_one_replacement() {
    let server = server();
    // The watch ends; while it is away, more happens than the server remembers.
    let mut session = established(&server).await;
    let begun = server.received(Kind::Services).len();
    session.nothing_for(Of::Services, Duration::from_secs(50)).await;
    server.bookmark();
    session.nothing_for(Of::Services, Duration::from_secs(1)).await;
    server.fault(Kind::Services, Wants::Watch, Fault::Silence);
    // The idle limit ends the watch, the next one gets no answer; meanwhile:
    session.nothing_for(Of::Services, Duration::from_secs(110)).await;
    server.fault(Kind::Services, Wants::Watch, Fault::Status(410));
    assert_eq!(
        session.next(Of::Services).await,
        BOTH,
        "one replacement with everything, and no deletion before it"
    );
    assert_eq!(asked(&server)[begun..], ["Watch@104", "Watch@104", "Stream@104"]);
    session.nothing_for(Of::Services, Duration::from_secs(50)).await;
    assert!(session.status(Of::Services).last_error.is_none());
}

async fn a_gone_event_is_the_same() {
    let server = server();
    server.fault(Kind::Services, Wants::Stream, Fault::EndAfter(3));
    server.fault(Kind::Services, Wants::Watch, Fault::GoneEvent);
    let mut session = start(&server);
    assert_eq!(session.next(Of::Services).await, BOTH);
    assert_eq!(session.next(Of::Services).await, BOTH);
    assert_eq!(asked(&server), ["Stream", "Watch@104", "Stream@104"]);
}

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
    assert!(begun.elapsed() >= Duration::from_secs(70), "{:?}", begun.elapsed());
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
    // What kube-apiserver says to each of them over an etcd that is too old for it.
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
}

async fn a_stuck_page_is_asked_again() {
    let server = server().without_streaming_lists();
    server.fault(Kind::Services, Wants::List, Fault::StallAfter(0));
    let mut session = start(&server);
    assert_eq!(session.next(Of::Services).await, BOTH);
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
    session.until(Of::Services, |status| status.last_error.is_some()).await;
    let version = server.delete(Kind::Services, "a");
    assert_eq!(session.next(Of::Services).await, "delete default/a");
    assert_eq!(asked(&server), ["Stream".to_owned(), format!("Watch@{}", version - 1)]);
}

async fn bookmarks_move_the_place_to_go_on() {
    let server = server();
    server.fault(Kind::Services, Wants::Stream, Fault::EndAfter(4));
    let mut session = established(&server).await;
    let version = server.put(node("other", "192.0.2.9"));
    server.bookmark();
    session.until(Of::Services, |status| status.restarts == 1).await;
    session.nothing_for(Of::Services, Duration::from_secs(1)).await;
    assert_eq!(asked(&server), ["Stream".to_owned(), format!("Watch@{version}")]);
}

async fn watches_that_end_at_once_do_not_spin() {
    let server = server();
    server.fault(Kind::Services, Wants::Stream, Fault::EndAfter(3));
    for _ in 0..100 {
        server.fault(Kind::Services, Wants::Watch, Fault::EndAfter(0));
    }
    let mut session = established(&server).await;
    session.nothing_for(Of::Services, Duration::from_mins(5)).await;
    let count = asked(&server).len();
    assert!((8..=20).contains(&count), "{count} requests in 5 minutes");
}

async fn a_replica_behind_is_not_believed() {
    let server = server();
    let log = Log::begin();
    let mut session = established(&server).await;
    let behind = server.version();
    server.put(service("c", "10.96.0.3"));
    assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    server.set_replica(Replica::Behind(behind));
    server.fault(Kind::Services, Wants::Watch, Fault::Status(410));
    session.nothing_for(Of::Services, Duration::from_mins(10)).await;
    let error = session.status(Of::Services).last_error.unwrap();
    assert_eq!(&*error, "watch services: 504 Timeout: Too large resource version: 105, current: 104");
    assert!(log.with("Too large").len() <= 1);
    let asked = asked(&server);
    assert_eq!(asked[1..4], ["Watch@105", "Stream@105", "Stream"], "a consistent read is tried, too");
    server.set_replica(Replica::Current);
    let all = "replace [default/a 10.96.0.1:80, default/b 10.96.0.2:80, default/c 10.96.0.3:80]";
    assert_eq!(session.next(Of::Services).await, all);
}

async fn a_lying_replica_is_not_believed() {
    for server in [server(), server().without_streaming_lists()] {
        let mut session = established(&server).await;
        let behind = server.version();
        server.put(service("c", "10.96.0.3"));
        assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
        server.set_replica(Replica::Lying(behind));
        server.fault(Kind::Services, Wants::Watch, Fault::Status(410));
        // The watch has to end first (100 s); then the first tries are refused.
        session
            .until(Of::Services, |status| status.last_error.as_deref().is_some_and(|e| e.contains("behind")))
            .await;
        let error = session.status(Of::Services).last_error.unwrap();
        assert!(
            error.ends_with("the server is behind: it offers version 104, 105 was seen before"),
            "{error}"
        );
        server.set_replica(Replica::Current);
        let all = "replace [default/a 10.96.0.1:80, default/b 10.96.0.2:80, default/c 10.96.0.3:80]";
        assert_eq!(session.next(Of::Services).await, all);
        session.nothing_for(Of::Services, Duration::from_mins(1)).await;
    }
}

async fn a_restored_cluster_is_believed_in_the_end() {
    let server = server();
    let log = Log::begin();
    let mut session = established(&server).await;
    let backup = server.version();
    server.put(service("c", "10.96.0.3"));
    assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    server.restore(backup);
    session.until(Of::Services, |status| status.restarts == 1).await;
    session.nothing_for(Of::Services, Duration::from_secs(1)).await;
    // The next bookmark gives it away.
    server.bookmark();
    assert_eq!(session.next(Of::Services).await, BOTH);
    assert_eq!(log.with("believing that it was restored").len(), 1);
    let asked = asked(&server);
    assert_eq!(asked[1..3], ["Watch@105", "Stream@105"]);
    assert_eq!(asked[3..], ["Stream"; 5], "five consistent reads say the same");
    server.put(service("d", "10.96.0.4"));
    assert_eq!(session.next(Of::Services).await, "upsert default/d 10.96.0.4:80");
}

async fn an_old_event_undoes_nothing() {
    let server = server();
    server.fault(Kind::Services, Wants::Stream, Fault::EndAfter(3));
    let mut old = service("a", "10.96.0.99");
    old["metadata"]["resourceVersion"] = json!("99");
    let line = json!({"type": "MODIFIED", "object": old}).to_string();
    server.fault(Kind::Services, Wants::Watch, Fault::Line(line));
    let mut session = established(&server).await;
    assert_eq!(session.next(Of::Services).await, BOTH, "a relist, not the old address");
    assert_eq!(asked(&server)[2], "Stream@104");
}

async fn nonsense_is_skipped_with_one_warning() {
    let server = server();
    let log = Log::begin();
    server.put(service("bad", "300.0.0.1"));
    let mut session = established(&server).await;
    let touch = |name: &str, text: &str| {
        server.patch(Kind::Services, name, |object| {
            object["metadata"]["annotations"] = json!({"touched": text});
        });
    };
    touch("bad", "1");
    touch("bad", "2");
    for _ in 0..2 {
        assert_eq!(session.next(Of::Services).await, "delete default/bad");
    }
    assert_eq!(log.with("Service default/bad").len(), 1, "{:?}", log.with("default/bad"));
    server.put(service("bad", "10.96.0.7"));
    assert_eq!(session.next(Of::Services).await, "upsert default/bad 10.96.0.7:80");
    // What turns into nonsense is gone: the same as after a restart.
    server.patch(Kind::Services, "bad", |object| object["spec"]["ports"][0]["port"] = json!(0));
    assert_eq!(session.next(Of::Services).await, "delete default/bad");
    assert_eq!(log.with("Service default/bad").len(), 2);
    assert_eq!(session.counters(Of::Services), [7, 0, 4, 0, 0]);
    // A relist repeats no warning.
    server.fault(Kind::Services, Wants::Watch, Fault::Status(410));
    assert_eq!(session.next(Of::Services).await, BOTH);
    assert_eq!(log.with("Service default/bad").len(), 2);
}

async fn what_cannot_be_decoded_is_skipped_too() {
    for server in [server(), server().without_streaming_lists()] {
        let log = Log::begin();
        let mut odd = service("odd", "10.96.0.9");
        odd["spec"]["ports"] = json!("eighty");
        server.put(odd);
        let mut session = established(&server).await;
        server.put(service("c", "10.96.0.3"));
        assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
        let warnings = log.with("services default/odd: ");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(session.counters(Of::Services)[2], 1);
    }
}

async fn an_answer_that_is_no_list_is_an_error() {
    let server = server();
    for text in ["<html>", "{\"type\":\"ADDED\",\"object\":{}}", "{\"type\":\"HELLO\",\"object\":{}}"] {
        server.fault(Kind::Services, Wants::Stream, Fault::Line(text.into()));
    }
    let mut session = established(&server).await;
    assert_eq!(session.counters(Of::Services)[4], 3);
    session.nothing_for(Of::Services, Duration::from_secs(10)).await;
}

async fn json_can_be_wanted() {
    let server = server();
    let mut session = established(&server).await;
    let settings = Settings { encoding: Encoding::Json, ..Settings::default() };
    let mut in_json = Session::start(server.client(), settings);
    assert_eq!(in_json.next(Of::Services).await, BOTH);
    server.put(service("c", "10.96.0.3"));
    for session in [&mut session, &mut in_json] {
        assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    }
    let accepted: Vec<String> =
        server.received(Kind::Services).into_iter().map(|received| received.accept).collect();
    assert_eq!(accepted, ["application/vnd.kubernetes.protobuf,application/json", "application/json"]);
}

async fn a_full_channel_loses_nothing() {
    let server = server();
    let mut session = Session::with_capacity(server.client(), Settings::default(), 1);
    session.first().await;
    for number in 0..1000 {
        server.put(service("busy", &format!("10.97.{}.{}", number / 250, number % 250 + 1)));
    }
    for number in 0..1000 {
        let expected = format!("upsert default/busy 10.97.{}.{}:80", number / 250, number % 250 + 1);
        assert_eq!(session.next(Of::Services).await, expected);
    }
    assert_eq!(session.counters(Of::Services)[3..], [0, 0]);
}

async fn it_stops_when_told_in_any_state() {
    let begun = Instant::now();
    // Following; in backoff; waiting for an answer; with a full channel.
    let following = server();
    let failing = server();
    failing.fault(Kind::Services, Wants::Stream, Fault::Status(500));
    let silent = server();
    silent.fault(Kind::Services, Wants::Stream, Fault::Silence);
    for server in [following, failing, silent] {
        let mut session = start(&server);
        session.next(Of::Slices).await;
        session.shutdown.cancel();
        session.end().await.unwrap();
    }
    let session = Session::with_capacity(server().client(), Settings::default(), 1);
    tokio::task::yield_now().await;
    session.shutdown.cancel();
    session.end().await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

async fn it_stops_when_nobody_listens() {
    let server = server();
    let session = established(&server).await;
    for kind in ["a", "b"] {
        server.delete(Kind::Services, kind);
    }
    server.delete(Kind::Slices, "a-1");
    server.delete(Kind::Nodes, NODE);
    session.without_reader().await.unwrap();
}

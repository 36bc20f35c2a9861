//! What is requested, and how complete sets arrive: streamed, listed, in pages.

use std::collections::BTreeSet;
use std::time::Duration;

use kube_ipvs::api::watch::{Encoding, Settings};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{BOTH, asked, established, server, start};
use crate::common::fake_apiserver::{FakeApiServer, Fault, Kind, Wants};
use crate::common::objects::{node, service, slice};
use crate::session::{self, Log, NODE, Of, Session};

session::tests![
    begins_with_complete_sets_then_follows,
    asks_consistently_with_selectors_and_bookmarks,
    lists_and_watches_have_the_same_selectors,
    a_streaming_list_may_have_changes,
    a_server_without_that_field_selector_is_asked_without,
    other_nodes_are_watched_where_that_is_wanted,
    a_denial_of_other_nodes_is_told_beside_that_of_the_own_one,
    a_label_hides_and_shows,
    an_empty_cluster_is_a_complete_set,
    without_streaming_lists_it_lists_and_remembers,
    a_starting_server_is_not_taken_for_an_old_one,
    lists_come_in_pages,
    lost_pages_are_fetched_in_one_list,
    json_can_be_wanted,
];

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

async fn lists_and_watches_have_the_same_selectors() {
    let server = server().without_streaming_lists();
    server.fault(Kind::Services, Wants::Watch, Fault::Status(410));
    let mut session = established(&server).await;
    assert_eq!(session.next(Of::Services).await, BOTH);
    session.nothing_for(Of::Services, Duration::from_secs(1)).await;
    let parameters = |kind: Kind, wants: Wants, names: [&str; 4]| {
        let received = server.received(kind).into_iter().filter(|received| received.wants == wants);
        let values = received.map(|received| names.map(|name| received.parameter(name).to_owned()));
        values.collect::<Vec<_>>()
    };
    let selectors = [
        (Kind::Services, "!service.kubernetes.io/service-proxy-name", "spec.clusterIP!=None"),
        (Kind::Slices, "!service.kubernetes.io/headless", "-"),
        (Kind::Nodes, "-", "metadata.name=worker"),
    ];
    let mut durations = BTreeSet::new();
    for (kind, labels, fields) in selectors {
        let names = ["labelSelector", "fieldSelector", "resourceVersion", "resourceVersionMatch"];
        let lists = parameters(kind, Wants::List, names);
        assert_eq!(lists[0], [labels, fields, "-", "-"], "a consistent read");
        if kind == Kind::Services {
            assert_eq!(lists[1..], [[labels, fields, "104", "NotOlderThan"]]);
        }
        let names = ["labelSelector", "fieldSelector", "allowWatchBookmarks", "timeoutSeconds"];
        for [of_labels, of_fields, bookmarks, seconds] in parameters(kind, Wants::Watch, names) {
            assert_eq!([&*of_labels, &*of_fields, &*bookmarks], [labels, fields, "true"]);
            assert!((300..=600).contains(&seconds.parse::<u64>().unwrap()), "{seconds}");
            durations.insert(seconds);
        }
    }
    assert!(durations.len() > 1, "at random, so that not all nodes come back together: {durations:?}");
}

/// It is a watch: what happens while the objects are on their way comes after them, as changes.
async fn a_streaming_list_may_have_changes() {
    let server = server();
    server.put(service("bad", "300.0.0.1"));
    let event = |kind: &str, mut object: Value| {
        object["metadata"]["resourceVersion"] = json!("105");
        json!({"type": kind, "object": object}).to_string()
    };
    let mut ignored = service("a", "10.96.0.1");
    ignored["spec"]["type"] = json!("ExternalName");
    let mut mark = service("a", "10.96.0.1");
    mark["metadata"]["annotations"] = json!({"note": "true", "k8s.io/initial-events-end": "false"});
    let changes = [
        event("MODIFIED", ignored),
        event("DELETED", service("b", "10.96.0.2")),
        event("DELETED", service("bad", "300.0.0.1")),
        event("BOOKMARK", mark),
        event("ADDED", service("c", "10.96.0.3")),
    ];
    server.fault(Kind::Services, Wants::Stream, Fault::Lines(changes.into()));
    let mut session = start(&server);
    assert_eq!(session.next(Of::Services).await, "replace [default/c 10.96.0.3:80]");
    assert_eq!(session.counters(Of::Services), [7, 1, 1, 0, 0]);
    assert_eq!(session.refused_now(Of::Services), 0);
}

/// Servers before Kubernetes 1.31 refuse every request with it; and of several servers, one may be updated later than
/// the others.
async fn a_server_without_that_field_selector_is_asked_without() {
    for streams in [true, false] {
        let server = if streams { server() } else { server().without_streaming_lists() };
        server.selects_services(false);
        let mut headless = service("headless", "None");
        headless["spec"]["clusterIPs"] = json!(["None"]);
        server.put(headless);
        let mut session = start(&server);
        assert_eq!(session.next(Of::Services).await, BOTH);
        assert_eq!(session.counters(Of::Services)[1], 1, "ignored");
        let received = server.received(Kind::Services);
        let with = received.iter().filter(|received| received.parameter("fieldSelector") != "-").count();
        assert_eq!(with, 1, "once is enough");
        assert_eq!(received[1].wants, Wants::Stream, "it says nothing of streaming lists");
        server.put(service("c", "10.96.0.3"));
        assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    }
    let server = server();
    let mut session = established(&server).await;
    // Its watches end.
    server.selects_services(false);
    let version = server.version();
    server.restore(version);
    server.put(service("c", "10.96.0.3"));
    assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    let watch = format!("Watch@{version}");
    assert_eq!(asked(&server), ["Stream", &watch, &watch], "it goes on from where it was");
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

async fn a_denial_of_other_nodes_is_told_beside_that_of_the_own_one() {
    let server = server();
    server.put(node("other", "192.0.2.2"));
    // One for each of the two watches.
    for _ in 0..2 {
        server.fault(Kind::Nodes, Wants::Stream, Fault::EndAfter(2));
    }
    server.deny(Kind::Nodes, Wants::Watch, Some(403));
    let log = Log::begin();
    let mut session = Session::with_other_nodes(server.client());
    assert_eq!(session.next(Of::OtherNodes).await, "replace [other (192.0.2.2)]");
    session.nothing_for(Of::OtherNodes, Duration::from_mins(10)).await;
    for (of, name) in [(Of::OtherNodes, "other-nodes"), (Of::Node, "nodes")] {
        let error = session.status(of).last_error.unwrap();
        let reason = "nodes is forbidden: User \"nobody\" cannot watch resource \"nodes\"";
        assert_eq!(&*error, format!("watch {name}: forbidden: {reason}"));
        assert_eq!(log.with(&format!("watch {name}: forbidden")).len(), 1, "said once in ten minutes");
        assert!(session.counters(of)[4] > 1, "each is counted");
    }
    server.put(node("other", "192.0.2.4"));
    server.deny(Kind::Nodes, Wants::Watch, None);
    assert_eq!(session.next(Of::OtherNodes).await, "upsert other (192.0.2.4)");
    assert_eq!(session.status(Of::OtherNodes).last_error, None);
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
    // The server cannot select these objects; the conversion does.
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
    // The second page comes too late.
    server.fault(Kind::Services, Wants::List, Fault::Trickle(Duration::from_secs(1)));
    let mut session = Session::start(server.client(), settings);
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.put(service("c", "10.96.0.3"));
    server.compact();
    let all = "replace [default/a 10.96.0.1:80, default/b 10.96.0.2:80, default/c 10.96.0.3:80]";
    assert_eq!(session.next(Of::Services).await, all, "and nothing of the first try");
    assert_eq!(asked(&server)[..5], ["Stream", "List", "List", "Stream", "List"]);
    let limits = [1, 2, 4].map(|index| server.received(Kind::Services)[index].parameter("limit").to_owned());
    assert_eq!(limits, ["1", "1", "-"]);
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

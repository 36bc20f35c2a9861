//! Answers that cannot be understood.

use std::time::Duration;

use serde_json::json;

use super::{BOTH, established, server, start};
use crate::common::fake_apiserver::{Fault, Kind, Wants};
use crate::common::objects::service;
use crate::session::{self, Log, NODE, Of};

session::tests![
    nonsense_is_skipped_with_one_warning,
    what_makes_no_sense_is_counted_as_long_as_it_is_there,
    what_is_gone_with_a_later_list_is_not_counted,
    what_cannot_be_decoded_is_skipped_too,
    annotations_may_be_any_bytes,
    an_answer_that_is_no_list_is_an_error,
];

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
    // An object that turns into nonsense is deleted: as after a restart.
    server.patch(Kind::Services, "bad", |object| object["spec"]["ports"][0]["port"] = json!(0));
    assert_eq!(session.next(Of::Services).await, "delete default/bad");
    assert_eq!(log.with("Service default/bad").len(), 2);
    assert_eq!(session.counters(Of::Services), [7, 0, 4, 0, 0]);
    // A relist does not repeat a warning.
    server.fault(Kind::Services, Wants::Watch, Fault::Status(410));
    assert_eq!(session.next(Of::Services).await, BOTH);
    assert_eq!(log.with("Service default/bad").len(), 2);
}

async fn what_makes_no_sense_is_counted_as_long_as_it_is_there() {
    let server = server();
    server.put(service("bad", "300.0.0.1"));
    server.put(service("worse", "300.0.0.2"));
    let mut session = established(&server).await;
    assert_eq!(session.refused_now(Of::Services), 2, "from the first list on");
    server.put(service("bad", "10.96.0.7"));
    assert_eq!(session.next(Of::Services).await, "upsert default/bad 10.96.0.7:80");
    assert_eq!(session.refused_now(Of::Services), 1, "one was put right");
    server.patch(Kind::Services, "bad", |object| object["spec"]["ports"][0]["port"] = json!(0));
    assert_eq!(session.next(Of::Services).await, "delete default/bad");
    assert_eq!(session.refused_now(Of::Services), 2);
    server.delete(Kind::Services, "bad");
    assert_eq!(session.next(Of::Services).await, "delete default/bad");
    assert_eq!(session.refused_now(Of::Services), 1, "one is gone");
    server.fault(Kind::Services, Wants::Watch, Fault::Status(410));
    assert_eq!(session.next(Of::Services).await, BOTH);
    assert_eq!(session.refused_now(Of::Services), 1, "a complete set counts nothing twice");
    server.patch(Kind::Services, "worse", |object| object["spec"] = json!({"type": "ExternalName"}));
    assert_eq!(session.next(Of::Services).await, "delete default/worse");
    assert_eq!(session.refused_now(Of::Services), 0, "what is ignored is not refused");
    let refused = session.counters(Of::Services)[2];
    let mut ftp = service("ftp", "10.96.0.21");
    ftp["spec"]["sessionAffinity"] = json!("ClientIP");
    ftp["spec"]["ports"][0]["port"] = json!(21);
    server.put(ftp);
    assert_eq!(session.next(Of::Services).await, "upsert default/ftp 10.96.0.21:21");
    assert_eq!(session.refused_now(Of::Services), 0, "what IPVS cannot do makes no object invalid");
    assert_eq!(session.counters(Of::Services)[2], refused);
    server.patch(Kind::Services, "ftp", |object| object["spec"]["externalIPs"] = json!(["127.0.0.1"]));
    assert_eq!(session.next(Of::Services).await, "upsert default/ftp 10.96.0.21:21");
    assert_eq!(session.refused_now(Of::Services), 1, "but an invalid part beside that does");
    assert_eq!(session.counters(Of::Services)[2], refused + 1);
}

async fn what_is_gone_with_a_later_list_is_not_counted() {
    let server = server();
    server.put(service("bad", "300.0.0.1"));
    // The watch ends with the list, and the next one comes after a pause.
    server.fault(Kind::Services, Wants::Stream, Fault::EndAfter(4));
    server.fault(Kind::Services, Wants::Watch, Fault::Status(410));
    let mut session = established(&server).await;
    assert_eq!(session.refused_now(Of::Services), 1);
    session.until(Of::Services, |status| status.last_error.is_some()).await;
    server.delete(Kind::Services, "bad");
    assert_eq!(session.next(Of::Services).await, BOTH);
    assert_eq!(session.refused_now(Of::Services), 0);
}

async fn what_cannot_be_decoded_is_skipped_too() {
    for server in [server(), server().without_streaming_lists()] {
        let log = Log::begin();
        let mut odd = service("odd", "10.96.0.9");
        odd["spec"]["ports"] = json!("eighty");
        server.put(odd);
        let mut session = established(&server).await;
        server.patch(Kind::Nodes, NODE, |object| object["status"]["addresses"] = json!("none"));
        assert_eq!(session.next(Of::Node).await, "delete worker");
        assert_eq!(log.with("nodes worker: ").len(), 1, "it has no namespace");
        server.put(service("c", "10.96.0.3"));
        assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
        let warnings = log.with("services default/odd: ");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(session.counters(Of::Services)[2], 1);
    }
}

async fn annotations_may_be_any_bytes() {
    for server in [server(), server().without_streaming_lists()] {
        let log = Log::begin();
        let mut odd = service("odd", "10.96.0.9");
        odd["metadata"]["annotations"] = json!({"note": "\u{fffd}", "\u{fffd}": ""});
        server.put(odd.clone());
        let mut session = start(&server);
        assert_eq!(
            session.next(Of::Services).await,
            "replace [default/a 10.96.0.1:80, default/b 10.96.0.2:80, default/odd 10.96.0.9:80]"
        );
        server.put(odd);
        assert_eq!(session.next(Of::Services).await, "upsert default/odd 10.96.0.9:80");
        server.delete(Kind::Services, "odd");
        assert_eq!(session.next(Of::Services).await, "delete default/odd");
        assert_eq!(session.counters(Of::Services)[2..], [0, 0, 0]);
        assert_eq!(log.with("odd"), Vec::<String>::new());
    }
}

async fn an_answer_that_is_no_list_is_an_error() {
    let server = server();
    let without_version = r#"{"type":"BOOKMARK","object":{"kind":"Service","metadata":{"resourceVersion":"","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
    let without_name =
        r#"{"type":"ADDED","object":{"kind":"Service","metadata":{"resourceVersion":"104"},"spec":{}}}"#;
    for text in [
        "<html>",
        "{\"type\":\"ADDED\",\"object\":{}}",
        "{\"type\":\"HELLO\",\"object\":{}}",
        without_version,
        without_name,
    ] {
        server.fault(Kind::Services, Wants::Stream, Fault::Line(text.into()));
    }
    let mut session = established(&server).await;
    assert_eq!(session.counters(Of::Services)[4], 5);
    session.nothing_for(Of::Services, Duration::from_secs(10)).await;
}

//! Listeners that are slow, gone, or being shut down.

use std::time::Duration;

use kube_ipvs::api::watch::Settings;
use serde_json::json;
use tokio::time::Instant;

use super::{established, server, start};
use crate::common::fake_apiserver::{Fault, Kind, Wants};
use crate::common::objects::service;
use crate::session::{self, NODE, Of, Session};

session::tests![
    a_full_channel_loses_nothing,
    others_get_their_turn_in_a_flood,
    it_stops_when_told_in_any_state,
    it_stops_when_nobody_listens,
];

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

/// Objects that are already there, however many, hold up nothing else for long.
async fn others_get_their_turn_in_a_flood() {
    const OBJECTS: u32 = 600;
    let flood = (0..OBJECTS).map(|number| {
        let mut object =
            service(&format!("s{number}"), &format!("10.97.{}.{}", number / 250, number % 250 + 1));
        object["metadata"]["resourceVersion"] = json!("200");
        object
    });
    let events: Vec<String> =
        flood.clone().map(|object| json!({"type": "ADDED", "object": object}).to_string()).collect();
    let streamed = server();
    streamed.fault(Kind::Services, Wants::Stream, Fault::Lines(events.clone()));
    let listed = server().without_streaming_lists();
    for object in flood {
        listed.put(object);
    }
    let watched = server();
    watched.fault(Kind::Services, Wants::Watch, Fault::Lines(events));
    for (server, is_watched) in [(streamed, false), (listed, false), (watched, true)] {
        let settings = Settings { page_size: 2 * OBJECTS, ..Settings::default() };
        let mut session = Session::with_capacity(server.client(), settings, 2 * OBJECTS as usize);
        if is_watched {
            session.first().await;
            server.put(service("c", "10.96.0.3"));
            session.next(Of::Services).await;
            // All watches end, and the next one is opened at once.
            server.restore(server.version());
        }
        let mut received = session.counters(Of::Services)[0];
        while received < u64::from(OBJECTS) + 2 {
            tokio::task::yield_now().await;
            let before = std::mem::replace(&mut received, session.counters(Of::Services)[0]);
            // The source has one or two turns for each of this task.
            assert!(received - before <= 2 * 256, "{} at once", received - before);
        }
    }
}

async fn it_stops_when_told_in_any_state() {
    let begun = Instant::now();
    // The source follows; is in backoff; waits for an answer; has a full channel.
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

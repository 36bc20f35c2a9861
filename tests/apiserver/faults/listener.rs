//! Listeners that are slow, gone, or being shut down.

use std::time::Duration;

use kube_ipvs::api::watch::Settings;
use tokio::time::Instant;

use super::{established, server, start};
use crate::common::fake_apiserver::{Fault, Kind, Wants};
use crate::common::objects::service;
use crate::session::{self, NODE, Of, Session};

session::tests![a_full_channel_loses_nothing, it_stops_when_told_in_any_state, it_stops_when_nobody_listens,];

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

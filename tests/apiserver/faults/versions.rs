//! Where to continue: forgotten versions, bookmarks, replicas that are behind, clusters that were restored.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{BOTH, asked, established, server, start};
use crate::common::fake_apiserver::{Fault, Kind, Replica, Wants};
use crate::common::objects::{node, service};
use crate::session::{self, Log, Of};

session::tests![
    gone_is_followed_by_one_replacement,
    a_gone_event_is_the_same,
    bookmarks_move_the_place_to_go_on,
    a_complete_set_moves_it_too,
    each_change_moves_it,
    a_replica_behind_is_not_believed,
    a_lying_replica_is_not_believed,
    a_restored_cluster_is_believed_in_the_end,
    a_restored_cluster_is_believed_behind_a_balancer,
    an_old_event_undoes_nothing,
];

async fn gone_is_followed_by_one_replacement() {
    let server = server();
    // The watch ends, and before the next one more happens than the server remembers.
    let mut session = established(&server).await;
    let begun = server.received(Kind::Services).len();
    session.nothing_for(Of::Services, Duration::from_secs(50)).await;
    server.put(node("other", "192.0.2.9"));
    server.bookmark();
    session.nothing_for(Of::Services, Duration::from_secs(1)).await;
    server.fault(Kind::Services, Wants::Watch, Fault::Silence);
    // The idle limit ends the watch, and the next one gets no answer; meanwhile:
    session.nothing_for(Of::Services, Duration::from_secs(110)).await;
    server.fault(Kind::Services, Wants::Watch, Fault::Status(410));
    assert_eq!(
        session.next(Of::Services).await,
        BOTH,
        "one replacement with everything, and no deletion before it"
    );
    assert_eq!(asked(&server)[begun..], ["Watch@105", "Watch@105", "Stream@105"]);
    session.nothing_for(Of::Services, Duration::from_secs(50)).await;
    assert!(session.status(Of::Services).last_error.is_none());
}

async fn a_gone_event_is_the_same() {
    let server = server();
    server.fault(Kind::Services, Wants::Stream, Fault::EndAfter(3));
    server.fault(Kind::Services, Wants::Watch, Fault::GoneEvent);
    let log = Log::begin();
    let mut session = start(&server);
    assert_eq!(session.next(Of::Services).await, BOTH);
    assert_eq!(session.next(Of::Services).await, BOTH);
    assert_eq!(asked(&server), ["Stream", "Watch@104", "Stream@104"]);
    assert_eq!(log.with("The watch cannot be resumed, listing all objects again").len(), 1);
    assert_eq!(log.with("410"), log.with("cannot be resumed"), "it is no reason to worry");
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

async fn a_complete_set_moves_it_too() {
    let server = server().without_streaming_lists();
    server.fault(Kind::Services, Wants::Watch, Fault::Status(503));
    server.fault(Kind::Services, Wants::Watch, Fault::Status(410));
    let mut session = established(&server).await;
    session.until(Of::Services, |status| status.last_error.is_some()).await;
    let version = server.put(service("c", "10.96.0.3"));
    let all = "replace [default/a 10.96.0.1:80, default/b 10.96.0.2:80, default/c 10.96.0.3:80]";
    assert_eq!(session.next(Of::Services).await, all);
    session.nothing_for(Of::Services, Duration::from_secs(1)).await;
    assert_eq!(asked(&server)[4..], ["List@104".to_owned(), format!("Watch@{version}")]);
}

async fn each_change_moves_it() {
    let server = server();
    let bookmark = json!({"kind": "Service", "metadata": {"resourceVersion": ""}});
    let bookmark = json!({"type": "BOOKMARK", "object": bookmark}).to_string();
    let mut session = established(&server).await;
    let mut requests = vec!["Stream".to_owned()];
    for round in 1..=4 {
        match round {
            1 => {
                server.put(service("c", "10.96.0.3"));
                assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
                server.fault(Kind::Services, Wants::Watch, Fault::Line(bookmark.clone()));
            }
            // Nothing but that bookmark, which has no version and moves nothing.
            2 => {}
            3 => {
                server.put(service("c", "10.96.0.4"));
                assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.4:80");
            }
            _ => {
                server.delete(Kind::Services, "c");
                assert_eq!(session.next(Of::Services).await, "delete default/c");
            }
        }
        // All watches end.
        server.restore(server.version());
        session.until(Of::Services, |status| status.restarts == round).await;
        session.nothing_for(Of::Services, Duration::from_secs(1)).await;
        requests.push(format!("Watch@{}", server.version()));
    }
    assert_eq!(asked(&server), requests);
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
        // The watch has to end first (100 s); then the first attempts are refused.
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
    a_restored_cluster_is_believed(None).await;
}

/// A balancer that cuts idle connections after half a minute keeps each watch from being silent for long.
async fn a_restored_cluster_is_believed_behind_a_balancer() {
    a_restored_cluster_is_believed(Some(Fault::CutIn(Duration::from_secs(30)))).await;
}

async fn a_restored_cluster_is_believed(each_watch: Option<Fault>) {
    let server = server();
    for fault in std::iter::repeat_n(each_watch.clone(), 100).flatten() {
        server.fault(Kind::Services, Wants::Watch, fault);
    }
    let log = Log::begin();
    let mut session = established(&server).await;
    let backup = server.version();
    server.put(service("c", "10.96.0.3"));
    assert_eq!(session.next(Of::Services).await, "upsert default/c 10.96.0.3:80");
    server.restore(backup);
    session.until(Of::Services, |status| status.restarts == 1).await;
    // The watch gets no bookmark of it, since it continues from a later version: its silence gives the restore away.
    server.bookmark();
    let begun = Instant::now();
    assert_eq!(session.next(Of::Services).await, BOTH);
    assert!((300..600).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(log.with("assuming it was restored from a backup").len(), 1);
    let asked = asked(&server);
    let watches = asked.iter().filter(|asked| *asked == "Watch@105").count();
    assert_eq!(watches, if each_watch.is_some() { 10 } else { 3 }, "{asked:?}");
    assert_eq!(asked[1 + watches..], ["Stream@105", "Stream", "Stream", "Stream", "Stream", "Stream"]);
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

use super::*;
use crate::api::Change;
use crate::cluster::types::{Node, ServiceKey};

fn node(addresses: &[&str], pod_cidrs: &[&str]) -> Node {
    Node {
        name: "here".into(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        zone: None,
        pod_cidrs: pod_cidrs.iter().map(|network| network.parse().unwrap()).collect(),
        eligible: true,
    }
}

fn upsert(addresses: &[&str], pod_cidrs: &[&str]) -> Event {
    Event::Node(Change::Upsert(node(addresses, pod_cidrs)))
}

fn options(local_detector: LocalDetector) -> ProxyOptions {
    ProxyOptions { local_detector, ..ProxyOptions::default() }
}

/// Waits with these events told, and no others to come within the patience.
async fn waited(options: &ProxyOptions, events: Vec<Event>) -> anyhow::Result<Waited> {
    let (sender, told) = mpsc::channel(16);
    for event in events {
        sender.send(event).await.unwrap();
    }
    let waited = wait("here", options, told, &CancellationToken::new()).await;
    drop(sender);
    waited
}

async fn problem(options: &ProxyOptions, events: Vec<Event>) -> String {
    waited(options, events).await.err().expect("a problem").to_string()
}

#[tokio::test(start_paused = true)]
async fn the_start_waits_for_what_it_needs_and_says_what_is_missing() {
    let by_cluster = options(LocalDetector::ClusterCidr);
    let by_node = options(LocalDetector::NodeCidr);
    let other = Node { name: "other".into(), ..node(&["192.0.2.2"], &[]) };
    for events in [vec![Event::Node(Change::Replace(vec![]))], vec![Event::Node(Change::Upsert(other))]] {
        assert_eq!(
            problem(&by_cluster, events).await,
            "timed out waiting for node \"here\": it does not exist"
        );
    }
    assert_eq!(
        problem(&by_cluster, vec![upsert(&[], &[])]).await,
        "timed out waiting for node \"here\": no InternalIP or ExternalIP in status.addresses is an IP address"
    );
    assert_eq!(
        problem(&by_node, vec![upsert(&["192.0.2.1"], &[])]).await,
        "timed out waiting for node \"here\": no network in spec.podCIDRs, which --detect-local-mode=NodeCIDR needs"
    );
    // It comes bit by bit.
    let events = vec![
        Event::Node(Change::Replace(vec![])),
        upsert(&[], &[]),
        upsert(&["192.0.2.1"], &[]),
        upsert(&["192.0.2.1"], &["10.244.1.0/24"]),
    ];
    let Waited::Known(gate) = waited(&by_node, events).await.unwrap() else { panic!("it ended") };
    assert_eq!(gate.ips(&by_node).unwrap().primary().to_string(), "192.0.2.1");
    assert_eq!(gate.pod_cidrs().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_start_waits_for_an_api_server_without_limit() {
    let by_cluster = options(LocalDetector::ClusterCidr);
    let (sender, told) = mpsc::channel(16);
    let shutdown = CancellationToken::new();
    let mut waiting = std::pin::pin!(wait("here", &by_cluster, told, &shutdown));
    let an_hour = Duration::from_hours(1);
    assert!(tokio::time::timeout(an_hour, &mut waiting).await.is_err(), "nothing was told");
    // What else there is says nothing about Nodes.
    sender.send(Event::Service(Change::Replace(vec![]))).await.unwrap();
    assert!(tokio::time::timeout(an_hour, &mut waiting).await.is_err(), "nothing was told of Nodes");
    sender.send(Event::Node(Change::Replace(vec![]))).await.unwrap();
    let begun = Instant::now();
    let problem = waiting.await.err().expect("a problem").to_string();
    assert_eq!(problem, "timed out waiting for node \"here\": it does not exist");
    assert_eq!(begun.elapsed(), PATIENCE);
}

#[tokio::test]
async fn the_wait_ends_with_the_source_and_with_the_program() {
    let by_cluster = options(LocalDetector::ClusterCidr);
    let (sender, told) = mpsc::channel(1);
    drop(sender);
    let waited = wait("here", &by_cluster, told, &CancellationToken::new()).await;
    assert!(matches!(waited, Ok(Waited::Ended)));
    let (_sender, told) = mpsc::channel(1);
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    assert!(matches!(wait("here", &by_cluster, told, &shutdown).await, Ok(Waited::Ended)));
}

/// What comes out of a gate that knows a node with these facts, and then hears of one change.
async fn after(detector: LocalDetector, change: Event) -> (Vec<Event>, Option<String>) {
    let events =
        vec![Event::Service(Change::Replace(vec![])), upsert(&["192.0.2.1", "fd00::1"], &["10.244.1.0/24"])];
    let (sender, told) = mpsc::channel(16);
    for event in events {
        sender.send(event).await.unwrap();
    }
    let Ok(Waited::Known(gate)) = wait("here", &options(detector), told, &CancellationToken::new()).await
    else {
        panic!("it does not come");
    };
    sender.send(change).await.unwrap();
    drop(sender);
    let (listener, mut heard) = mpsc::channel(16);
    let problem = gate.pass_on(listener).await.err().map(|error| error.to_string());
    let mut events = Vec::new();
    while let Some(together) = heard.recv().await {
        events.extend(together);
    }
    (events, problem)
}

#[tokio::test]
async fn changes_that_need_a_new_start_end_the_program() {
    let ips = Some("NodeIPs changed for the node");
    let deleted = Some("Node is being deleted");
    for (change, by_cluster, by_node) in [
        (upsert(&["192.0.2.1", "fd00::1"], &["10.244.1.0/24"]), None, None),
        (upsert(&["192.0.2.9", "fd00::1"], &["10.244.1.0/24"]), ips, ips),
        (upsert(&["fd00::1", "192.0.2.1"], &["10.244.1.0/24"]), ips, ips),
        (upsert(&["192.0.2.1"], &["10.244.1.0/24"]), ips, ips),
        // Only the first of each family counts.
        (upsert(&["192.0.2.1", "fd00::1", "192.0.2.2"], &["10.244.1.0/24"]), None, None),
        (upsert(&["192.0.2.1", "fd00::1"], &["10.244.2.0/24"]), None, Some("PodCIDRs changed for the node")),
        (Event::Node(Change::Delete("here".into())), deleted, deleted),
        (Event::Node(Change::Replace(vec![])), deleted, deleted),
        (Event::Node(Change::Delete("other".into())), None, None),
    ] {
        for (detector, wanted) in
            [(LocalDetector::ClusterCidr, by_cluster), (LocalDetector::NodeCidr, by_node)]
        {
            let (_, problem) = after(detector.clone(), change.clone()).await;
            assert_eq!(problem.as_deref(), wanted, "{detector:?} {change:?}");
        }
    }
}

#[tokio::test]
async fn everything_is_passed_on_in_order() {
    let (events, problem) = after(LocalDetector::ClusterCidr, Event::Slice(Change::Replace(vec![]))).await;
    assert_eq!(problem, None);
    let wanted = [
        Event::Service(Change::Replace(vec![])),
        upsert(&["192.0.2.1", "fd00::1"], &["10.244.1.0/24"]),
        Event::Slice(Change::Replace(vec![])),
    ];
    assert_eq!(events, wanted);
}

#[tokio::test]
async fn a_complete_set_takes_the_place_of_what_was_held_back_of_its_kind() {
    let key = |name| ServiceKey::new("default", name);
    let told = vec![
        Event::Service(Change::Replace(vec![])),
        Event::Slice(Change::Replace(vec![])),
        Event::Service(Change::Delete(key("a"))),
        Event::Service(Change::Replace(vec![])),
        Event::Service(Change::Delete(key("b"))),
        upsert(&["192.0.2.1"], &[]),
    ];
    let expected = [&told[1..2], &told[3..]].concat();
    let Waited::Known(gate) = waited(&options(LocalDetector::ClusterCidr), told).await.unwrap() else {
        panic!("it ended")
    };
    let (listener, mut heard) = mpsc::channel(1);
    gate.pass_on(listener).await.unwrap();
    assert_eq!(heard.recv().await, Some(expected));
}

#[tokio::test]
async fn a_node_without_addresses_keeps_those_that_it_had() {
    let (events, problem) = after(LocalDetector::ClusterCidr, upsert(&[], &[])).await;
    assert_eq!(problem, None);
    assert_eq!(events.last(), Some(&upsert(&["192.0.2.1", "fd00::1"], &[])));
}

#[test]
fn what_a_node_lacks_is_said_once_then_by_change() {
    let mut own = OwnNode::new("here", false);
    let mut heard = |addresses: &[&str]| own.hear(upsert(addresses, &[])).1;
    assert_eq!(heard(&["192.0.2.1"]), Verdict::GoOn);
    for _ in 0..2 {
        assert!(matches!(heard(&[]), Verdict::Unusable(_)));
        assert_eq!(heard(&[]), Verdict::GoOn, "it is written every few minutes");
        assert_eq!(heard(&["192.0.2.1"]), Verdict::GoOn, "it has all that it needs again");
    }
}

use super::*;
use crate::api::Change;
use crate::cluster::examples;
use crate::cluster::types::{Node, ServiceKey};

const NOWHERE: Listening = [("healthzBindAddress", None), ("metricsBindAddress", None)];

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

/// Waits with these events already sent; no others come within the time limits.
async fn waited(options: &ProxyOptions, events: Vec<Event>) -> anyhow::Result<Waited> {
    let (sender, told) = mpsc::channel(16);
    for event in events {
        sender.send(event).await.unwrap();
    }
    let waited = wait("here", options, told, &CancellationToken::new()).await;
    drop(sender);
    waited
}

async fn gone_on(options: &ProxyOptions, events: Vec<Event>) -> Box<Gate> {
    match waited(options, events).await.unwrap() {
        Waited::GoOn(gate) => gate,
        Waited::Ended => panic!("it ended"),
    }
}

async fn problem(options: &ProxyOptions, events: Vec<Event>) -> String {
    waited(options, events).await.err().expect("a problem").to_string()
}

/// Nobody may report the addresses before this program serves the API server's own address: an external cloud provider.
#[tokio::test(start_paused = true)]
async fn the_start_goes_on_without_a_node_or_its_addresses() {
    let (log, _listening) = crate::telemetry::tests::listen();
    let by_cluster = options(LocalDetector::ClusterCidr);
    let other = Node { name: "other".into(), ..node(&["192.0.2.2"], &[]) };
    let none = Event::Node(Change::Replace(vec![]));
    let no_node = "Timed out waiting for node to exist\" node=\"here\"";
    let no_address = "Timed out waiting for node to be assigned IPs\" node=\"here\"";
    for (events, told) in [
        (vec![none], no_node),
        (vec![Event::Node(Change::Upsert(other))], no_node),
        (vec![upsert(&[], &[])], no_address),
    ] {
        let begun = Instant::now();
        let gate = gone_on(&by_cluster, events).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(30), "{told}");
        assert_eq!(gate.own.addresses(), [] as [std::net::IpAddr; 0]);
        let lines = log.lines_with("Timed out");
        assert!(lines.iter().all(|line| line.starts_with('E')), "{lines:?}");
        assert!(lines.last().is_some_and(|line| line.contains(told)), "{told}: {lines:?}");
        gate.check(&Family::ALL.into(), &by_cluster, &NOWHERE).unwrap();
    }
    assert_eq!(log.lines_with("Timed out").len(), 3, "once each");
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(log.lines_with("Is this the node's network?"), [""; 0], "no address was looked for");
    // With addresses, the start does not wait.
    let begun = Instant::now();
    gone_on(&by_cluster, vec![upsert(&["192.0.2.1"], &[])]).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(log.lines_with("Timed out").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn networks_of_pods_are_waited_for_longer_where_they_are_needed() {
    let by_node = options(LocalDetector::NodeCidr);
    let (soon, late) = (Duration::from_mins(5), Duration::from_secs(330));
    for (events, after, missing) in [
        (
            vec![upsert(&["192.0.2.1"], &[])],
            soon,
            "no network in spec.podCIDRs, which --detect-local-mode=NodeCIDR needs",
        ),
        // The five minutes come after the 30 seconds.
        (
            vec![upsert(&[], &[])],
            late,
            "no network in spec.podCIDRs, which --detect-local-mode=NodeCIDR needs",
        ),
        (vec![Event::Node(Change::Replace(vec![]))], late, "it does not exist"),
    ] {
        let begun = Instant::now();
        // The first, complete list.
        let events = [vec![Event::Node(Change::Replace(vec![]))], events].concat();
        let wanted = format!("timed out waiting for node \"here\": {missing}");
        assert_eq!((problem(&by_node, events).await, begun.elapsed()), (wanted, after));
    }
    // Pod networks are enough for a start without addresses.
    let begun = Instant::now();
    let gate = gone_on(&by_node, vec![upsert(&[], &["10.244.1.0/24"])]).await;
    assert_eq!((gate.own.pod_cidrs().len(), begun.elapsed()), (1, FOR_ADDRESSES));
    // The facts come one by one.
    let events = vec![
        Event::Node(Change::Replace(vec![])),
        upsert(&[], &[]),
        upsert(&["192.0.2.1"], &[]),
        upsert(&["192.0.2.1"], &["10.244.1.0/24"]),
    ];
    let begun = Instant::now();
    let gate = gone_on(&by_node, events).await;
    assert_eq!(gate.own.addresses()[0].to_string(), "192.0.2.1");
    assert_eq!((gate.own.pod_cidrs().len(), begun.elapsed()), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn the_start_waits_for_an_api_server_without_limit() {
    let by_cluster = options(LocalDetector::ClusterCidr);
    let (sender, told) = mpsc::channel(16);
    let shutdown = CancellationToken::new();
    let mut waiting = std::pin::pin!(wait("here", &by_cluster, told, &shutdown));
    let an_hour = Duration::from_hours(1);
    assert!(tokio::time::timeout(an_hour, &mut waiting).await.is_err(), "nothing was told");
    // Events about other objects say nothing about Nodes.
    sender.send(Event::Service(Change::Replace(vec![]))).await.unwrap();
    assert!(tokio::time::timeout(an_hour, &mut waiting).await.is_err(), "nothing was told of Nodes");
    sender.send(Event::Node(Change::Replace(vec![]))).await.unwrap();
    let begun = Instant::now();
    assert!(matches!(waiting.await, Ok(Waited::GoOn(_))));
    assert_eq!(begun.elapsed(), FOR_ADDRESSES);
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

/// What a gate that knows a node with these facts passes on after one change, and why it ends.
async fn after(detector: LocalDetector, change: Event) -> (Vec<Event>, Option<String>) {
    let events =
        vec![Event::Service(Change::Replace(vec![])), upsert(&["192.0.2.1", "fd00::1"], &["10.244.1.0/24"])];
    passed_on(detector, events, vec![change]).await
}

/// What a gate that was made after `events` passes on after `changes`, and why it ends.
async fn passed_on(
    detector: LocalDetector,
    events: Vec<Event>,
    changes: Vec<Event>,
) -> (Vec<Event>, Option<String>) {
    let (sender, told) = mpsc::channel(16);
    for event in events {
        sender.send(event).await.unwrap();
    }
    let options = options(detector);
    let Ok(Waited::GoOn(gate)) = wait("here", &options, told, &CancellationToken::new()).await else {
        panic!("it ended");
    };
    for change in changes {
        sender.send(change).await.unwrap();
    }
    drop(sender);
    let (listener, mut heard) = mpsc::channel(16);
    let passed = gate.pass_on([Family::V4].into(), options, NOWHERE, listener).await;
    let problem = passed.err().map(|error| error.to_string());
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
        // Only the first address of each family counts.
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

/// A start without addresses need not be repeated: what depends on them is read from the Node whenever it changes.
#[tokio::test(start_paused = true)]
async fn the_first_addresses_are_taken_in_and_later_ones_end_the_program() {
    let (log, _listening) = crate::telemetry::tests::listen();
    let (bare, known) = (upsert(&[], &[]), upsert(&["192.0.2.1"], &[]));
    let none = Event::Node(Change::Replace(vec![]));
    let deleted = Event::Node(Change::Delete("here".into()));
    let told = || log.lines_with("Successfully retrieved NodeIPs").len();
    for (first, then, problem, retrieved) in [
        (&none, vec![&known], None, 1),
        (&bare, vec![&known], None, 1),
        (&none, vec![&bare, &bare, &known, &known], None, 1),
        (&none, vec![&none, &deleted], None, 0),
        (&none, vec![&known, &deleted], Some("Node is being deleted"), 1),
        (&bare, vec![&deleted], Some("Node is being deleted"), 0),
        (&none, vec![&known, &upsert(&["192.0.2.2"], &[])], Some("NodeIPs changed for the node"), 1),
        // A start would end the same way.
        (&none, vec![&upsert(&["fd00::1"], &[])], Some("no support for primary IP family IPv6"), 1),
    ] {
        let before = told();
        let then: Vec<Event> = then.into_iter().cloned().collect();
        let (events, found) = passed_on(LocalDetector::ClusterCidr, vec![first.clone()], then.clone()).await;
        assert_eq!(found.as_deref(), problem, "{first:?} {then:?}");
        assert_eq!(told() - before, retrieved, "{first:?} {then:?}");
        if problem.is_none() {
            assert_eq!(events, [vec![first.clone()], then].concat());
        }
    }
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(!log.lines_with("Is this the node's network?").is_empty(), "they were looked for when they came");
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
    let service = |name| examples::service(key(name));
    let told = vec![
        Event::Service(Change::Replace(vec![service("a")])),
        Event::Slice(Change::Replace(vec![])),
        Event::Service(Change::Delete(key("a"))),
        Event::Service(Change::Replace(vec![service("b")])),
        Event::Service(Change::Delete(key("b"))),
        upsert(&["192.0.2.1"], &[]),
    ];
    let expected = [&told[1..2], &told[3..]].concat();
    let options = options(LocalDetector::ClusterCidr);
    let gate = gone_on(&options, told).await;
    let (listener, mut heard) = mpsc::channel(1);
    gate.pass_on([Family::V4].into(), options, NOWHERE, listener).await.unwrap();
    assert_eq!(heard.recv().await, Some(expected));
}

#[tokio::test]
async fn a_node_without_addresses_keeps_those_that_it_had() {
    let kept = upsert(&["192.0.2.1", "fd00::1"], &["10.244.1.0/24"]);
    for detector in [LocalDetector::ClusterCidr, LocalDetector::NodeCidr] {
        for networks in [&[][..], &["10.244.1.0/24"]] {
            let (events, problem) = after(detector.clone(), upsert(&[], networks)).await;
            assert_eq!((problem, events.last()), (None, Some(&kept)), "{detector:?} {networks:?}");
        }
    }
    // Nor are other networks accepted along with the loss of addresses.
    let (_, problem) = after(LocalDetector::NodeCidr, upsert(&[], &["10.244.2.0/24"])).await;
    assert_eq!(problem.as_deref(), Some("PodCIDRs changed for the node"));
}

#[test]
fn what_a_node_lacks_is_said_once_then_by_change() {
    let mut own = OwnNode::new("here", false);
    own.go_on();
    let mut heard = |addresses: &[&str]| own.hear(upsert(addresses, &[])).1;
    assert_eq!(heard(&["192.0.2.1"]), Verdict::HasAddresses);
    for _ in 0..2 {
        assert!(matches!(heard(&[]), Verdict::Unusable(_)));
        assert_eq!(heard(&[]), Verdict::GoOn, "it is written every few minutes");
        assert_eq!(heard(&["192.0.2.1"]), Verdict::GoOn, "it has all that it needs again");
    }
}

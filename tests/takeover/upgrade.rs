//! One version of kube-ipvs follows another one with different rules.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use kube_ipvs::cluster::types::{Family, Protocol};

use crate::NODES;
use crate::cluster::{Cluster, Entry, Policy, Service};
use crate::proxy::eventually;
use crate::talk::Conversation;
use crate::topology::find;
use crate::traffic::Traffic;

/// How long a client that must get no answer waits for each.
const BRIEFLY: Duration = Duration::from_millis(20);

/// Keeps sending requests to a Service from outside-2, to which it is closed, over both families, until told to
/// stop; returns the answers.
fn knock(
    cluster: &Cluster,
    service: &Service,
    stop: &Arc<AtomicBool>,
    asked: &Arc<AtomicU32>,
) -> impl FnOnce() -> Vec<(String, IpAddr)> {
    let targets = Family::ALL.map(|family| service.target(Entry::LoadBalancerIp, find("outside-2"), family));
    let (stop, asked) = (Arc::clone(stop), Arc::clone(asked));
    let answers = cluster.host("outside-2").start(move || {
        let ask = |target: SocketAddr| {
            Conversation::open_within(BRIEFLY, Protocol::Udp, None, target).and_then(|flow| flow.ask())
        };
        let mut answers = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            answers.extend(targets.iter().filter_map(|target| ask(*target).ok()));
            asked.fetch_add(1, Ordering::Relaxed);
        }
        answers
    });
    move || answers.recv().expect("the client did not panic")
}

/// Connections go on, what is closed stays closed at every moment, and only the rules are written.
pub(crate) fn rules_of_another_version_are_replaced_under_traffic() {
    let service = Service::new("both", 10, &["pod-1a", "pod-2a"]);
    let local = Service { external: Policy::Local, ..Service::exposed("local", 11, &["pod-1a"]) };
    let ranges = vec!["192.168.0.11/32", "2001:db8::11/128"];
    let restricted = Service { source_ranges: ranges, ..Service::exposed("restricted", 12, &["pod-2a"]) };
    let cluster = Cluster::without_proxies([&service, &local, &restricted]);
    let start = || {
        NODES.map(|(node, _)| {
            let mut proxy = cluster.start_proxy(node, &[]);
            proxy.wait_synced();
            proxy
        })
    };
    let old = start();
    for (client, closed) in [("outside-1", &local), ("outside-1", &restricted)] {
        for family in Family::ALL {
            let target = closed.target(Entry::LoadBalancerIp, find(client), family);
            let answer = cluster.ask(client, Protocol::Udp, target);
            assert!(answer.is_ok(), "who may ask {target} is answered: {answer:?}");
        }
    }
    let traffic = Traffic::start(&cluster, &service);
    let (stop, asked) = (Arc::default(), Arc::default());
    let knocking = [&local, &restricted].map(|closed| knock(&cluster, closed, &stop, &asked));

    // The old version ends; its rules lack one of ours, and say that they are of another version.
    for proxy in old {
        let (status, log) = proxy.terminate();
        assert_eq!(status, Some(0), "{log}");
    }
    for (node, _) in NODES {
        cluster.host(node).shell(
            "for family in ip ip6; do
               rules=$(nft list table $family kube-ipvs)
               printf '%s\\n' \"delete table $family kube-ipvs\" \"$rules\" |
                 sed -e 's/rules=[0-9]* /rules=999 /' -e '/echo-request/d' | nft -f - || exit 1
             done",
        );
    }
    let rules =
        |node: &str| cluster.host(node).shell("nft list table ip kube-ipvs; nft list table ip6 kube-ipvs");
    assert!(
        NODES.iter().all(|(node, _)| rules(node).matches("rules=999 ").count() == 2),
        "{}",
        rules("node-1")
    );
    traffic.go_on();

    let new = start();
    for ((node, _), proxy) in NODES.iter().zip(&new) {
        let replaced = eventually(Duration::from_secs(10), || !rules(node).contains("rules=999 "));
        assert!(replaced, "{node}: {}", proxy.log());
        let log = proxy.log();
        let wrote: Vec<_> = log.lines().filter(|line| line.contains("Wrote to the kernel")).collect();
        assert!(!wrote.is_empty(), "{node}: {log}");
        let is_of_rules = |line: &&str| {
            line.contains("steps=\"install_rules=1\"") || line.contains("steps=\"install_rules=2\"")
        };
        assert!(wrote.iter().all(is_of_rules), "{node}: {wrote:#?}");
    }
    let before = asked.load(Ordering::Relaxed);
    traffic.end();
    assert!(eventually(Duration::from_secs(10), || asked.load(Ordering::Relaxed) > before), "nobody asks");
    stop.store(true, Ordering::Relaxed);
    for answers in knocking {
        assert_eq!(answers(), [], "what is closed to outside-2 answered it");
    }
}

//! Endpoints come and go while clients send requests.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kube_ipvs::cluster::types::{Family, Protocol};
use libtest_mimic::Trial;
use rustix::net::getsockname;
use rustix::net::sockopt::set_socket_linger;

use crate::cluster::{self, Condition, Entry, Policy, Service};
use crate::proxy::eventually;
use crate::talk::{Conversation, PROTOCOLS};
use crate::topology::find;
use crate::{CLUSTER, row};

/// The client, the entry, and the Service's external policy: clients inside the cluster are not bound by `Local`.
const CLIENTS: [(&str, Entry, Policy); 6] = [
    ("pod-1b", Entry::ClusterIp, Policy::Cluster),
    ("node-2", Entry::ClusterIp, Policy::Cluster),
    ("outside-2", Entry::ClusterIp, Policy::Cluster),
    ("outside-2", Entry::OwnNodePort, Policy::Cluster),
    ("pod-1b", Entry::LoadBalancerIp, Policy::Local),
    ("node-2", Entry::OwnNodePort, Policy::Local),
];

/// A change of a manifest takes effect in the data plane within this time; usually, in milliseconds.
const SOON: Duration = Duration::from_secs(10);

/// How long to wait for one answer, where another attempt follows.
const BRIEFLY: Duration = Duration::from_millis(100);

/// After this many requests, a scheduler that takes turns has certainly forgotten an endpoint.
const MANY: usize = 10;

type Change = fn(&Case);

pub(crate) fn rows() -> impl Iterator<Item = Trial> {
    let streams = &[Protocol::Tcp, Protocol::Sctp];
    let flows = &[Protocol::Udp];
    let refusing = &[Protocol::Tcp, Protocol::Udp];
    let changes: [(&str, Change, &[Protocol]); 10] = [
        ("an-added-endpoint-is-reached", an_added_endpoint_is_reached, &PROTOCOLS),
        ("a-removed-endpoint-gets-nothing-new", a_removed_endpoint_gets_nothing_new, &PROTOCOLS),
        ("affinity-ends-with-its-endpoint", affinity_ends_with_its_endpoint, &PROTOCOLS),
        ("a-connection-outlives-its-endpoint", a_connection_outlives_its_endpoint, streams),
        ("a-connection-outlives-unreadiness", a_connection_outlives_unreadiness, streams),
        ("a-flow-leaves-a-removed-endpoint", a_flow_leaves_a_removed_endpoint, flows),
        ("a-refused-flow-reaches-the-first-endpoint", a_refused_flow_reaches_the_first_endpoint, flows),
        ("a-flow-from-before-the-service-reaches-it", a_flow_from_before_the_service_reaches_it, flows),
        ("without-its-last-endpoint-it-refuses", without_its_last_endpoint_it_refuses, refusing),
        ("a-reset-ends-what-ipvs-knows", a_reset_ends_what_ipvs_knows, &[Protocol::Tcp]),
    ];
    changes.into_iter().flat_map(|(name, change, protocols)| {
        Family::ALL.into_iter().flat_map(move |family| {
            protocols.iter().flat_map(move |&protocol| {
                CLIENTS.map(|(client, entry, external)| {
                    let case = Case { client, entry, external, protocol, family };
                    row(&[&"changes", &name, &client, &entry, &protocol, &family], move || change(&case))
                })
            })
        })
    })
}

/// The client, and how it reaches the Service.
struct Case {
    client: &'static str,
    entry: Entry,
    external: Policy,
    protocol: Protocol,
    family: Family,
}

impl Case {
    /// Creates a Service with these endpoints, and waits until all of them answer the client.
    fn service(&self, endpoints: &[&'static str]) -> Service {
        let service = self.new_service(endpoints);
        CLUSTER.put(&service);
        self.wait_for_all(&service);
        service
    }

    /// A Service that is not written yet.
    fn new_service(&self, endpoints: &[&'static str]) -> Service {
        Service { external: self.external, ..CLUSTER.service(endpoints) }
    }

    fn target(&self, service: &Service) -> SocketAddr {
        service.target(self.entry, find(self.client), self.family)
    }

    /// Opens a connection that should last.
    fn open(&self, service: &Service) -> Conversation {
        let (protocol, target) = (self.protocol, self.target(service));
        let source = cluster::source(protocol, self.client, target);
        let open = move || Conversation::open(protocol, source, target);
        CLUSTER.host(self.client).run(open).expect("a connection")
    }

    /// The servers that answer new connections; `None`: one connection was not answered.
    fn ask_often(&self, service: &Service) -> Option<BTreeSet<String>> {
        let (protocol, target) = (self.protocol, self.target(service));
        let source = cluster::source(protocol, self.client, target);
        CLUSTER.host(self.client).run(move || {
            let open = || Conversation::open_within(BRIEFLY, protocol, source, target)?.ask();
            (0..MANY).map(|_| open().ok().map(|(server, _)| server)).collect()
        })
    }

    fn wait_for_all(&self, service: &Service) {
        self.wait_for(service, service.endpoints.iter().copied());
    }

    /// Waits until exactly these endpoints answer new connections.
    fn wait_for(&self, service: &Service, endpoints: impl Iterator<Item = &'static str>) {
        let wanted: BTreeSet<_> = endpoints.map(ToOwned::to_owned).collect();
        let mut answers = None;
        let all = eventually(SOON, || {
            answers = self.ask_often(service);
            answers.as_ref() == Some(&wanted)
        });
        assert!(all, "{wanted:?} should answer, and {answers:?} do");
    }

    /// Asserts that this pod answers many requests, with at most so many exceptions. Each request has a random port,
    /// which may be that of an earlier UDP flow: where a rule rewrote that flow's destination, connection tracking
    /// sends it the same way until it is purged, and purges rest in between.
    fn assert_nothing_new_but_to(&self, pod: &str, service: &Service, allowed: usize) {
        let is_purged = self.protocol == Protocol::Udp && self.external == Policy::Local;
        let patience = if is_purged { SOON } else { Duration::ZERO };
        let ask = || CLUSTER.ask(self.client, self.protocol, self.target(service)).expect("an answer").0;
        let mut strays = Vec::new();
        let few = eventually(patience, || {
            strays = (0..MANY).map(|_| ask()).filter(|server| server != pod).collect();
            strays.len() <= allowed
        });
        assert!(few, "of {MANY} questions some were not answered by {pod}: {strays:?}");
    }
}

fn an_added_endpoint_is_reached(case: &Case) {
    let mut service = case.service(&["pod-1a"]);
    service.endpoints.push("pod-2a");
    CLUSTER.put(&service);
    case.wait_for_all(&service);
}

fn a_removed_endpoint_gets_nothing_new(case: &Case) {
    let mut service = case.service(&["pod-1a", "pod-2a"]);
    service.endpoints.remove(0);
    CLUSTER.put(&service);
    case.wait_for_all(&service);
    case.assert_nothing_new_but_to("pod-2a", &service, 0);
}

/// No template of persistence sends a client to an endpoint that is no longer used, whether its real server drains
/// (`expire_quiescent_template`) or is gone. Templates last for hours.
fn affinity_ends_with_its_endpoint(case: &Case) {
    let mut service = case.new_service(&["pod-1a", "pod-2a"]);
    service.affinity_seconds = Some(10_800);
    CLUSTER.put(&service);
    let one = || case.ask_often(&service).filter(|answers| answers.len() == 1);
    let mut stuck = None;
    assert!(eventually(SOON, || one().is_some_and(|answers| {
        stuck = answers.into_iter().next();
        true
    })));
    let stuck = stuck.expect("a server");
    let pod = service.endpoints.iter().copied().find(|pod| *pod == stuck).expect("an endpoint");
    let other = service.endpoints.iter().copied().find(|pod| *pod != stuck).expect("an endpoint");
    for gone in [false, true] {
        if gone {
            service.endpoints.retain(|known| *known != pod);
        } else {
            service.conditions.insert(pod, Condition::NotReady);
        }
        CLUSTER.put(&service);
        case.wait_for(&service, [other].into_iter());
        // A template would send all of them there. In hundreds of runs, one SCTP association went astray: IPVS still
        // had an entry of the earlier association that had the same port.
        let allowed = usize::from(case.protocol == Protocol::Sctp);
        case.assert_nothing_new_but_to(other, &service, allowed);
    }
}

/// The real server drains: weight 0 (contract 4.5).
fn a_connection_outlives_its_endpoint(case: &Case) {
    let mut service = case.service(&["pod-1a", "pod-2a"]);
    let conversation = case.open(&service);
    let first = conversation.ask().expect("an answer");
    service.endpoints.retain(|pod| *pod != first.0);
    CLUSTER.put(&service);
    case.wait_for_all(&service);
    for _ in 0..3 {
        assert_eq!(conversation.ask().expect("an answer on the old connection"), first);
    }
    // Nor does the removal of the last endpoint end it.
    service.endpoints.clear();
    CLUSTER.put(&service);
    assert!(eventually(SOON, || case.ask_often(&service).is_none()), "new connections are not answered");
    assert_eq!(conversation.ask().expect("an answer on the old connection"), first);
}

/// Whatever the slices say of its endpoint: not ready, terminating, ready again.
fn a_connection_outlives_unreadiness(case: &Case) {
    let mut service = case.service(&["pod-1a", "pod-2a"]);
    let conversation = case.open(&service);
    let first = conversation.ask().expect("an answer");
    let endpoint = service.endpoints.iter().copied().find(|pod| *pod == first.0).expect("an endpoint");
    let everybody = service.endpoints.clone();
    for condition in [Condition::NotReady, Condition::Ready, Condition::ServingTerminating] {
        service.conditions.insert(endpoint, condition);
        CLUSTER.put(&service);
        let in_use = |pod: &&'static str| service.condition(pod) == Condition::Ready;
        case.wait_for(&service, everybody.iter().copied().filter(in_use));
        assert_eq!(conversation.ask().expect("an answer on the old connection"), first, "{condition:?}");
    }
}

/// The endpoint's real server is deleted at once, and its connections with it (`expire_nodest_conn`).
fn a_flow_leaves_a_removed_endpoint(case: &Case) {
    let service = case.service(&["pod-1a", "pod-2a"]);
    for (first, other) in [("pod-1a", "pod-2a"), ("pod-2a", "pod-1a")] {
        let with_first = (0..MANY).find_map(|_| {
            let flow = case.open(&service);
            let (server, _) = flow.ask().expect("an answer");
            (server == first).then_some(flow)
        });
        let flow = with_first.expect("they take turns");
        assert_eq!(flow.ask().expect("an answer").0, first, "a flow stays where it is");
        CLUSTER.put(&Service { endpoints: vec![other], ..service.clone() });
        wait_for_the_turn(&flow, other, |answer| answer.is_ok_and(|server| server == first));
        for _ in 0..MANY {
            assert_eq!(flow.ask().expect("an answer").0, other);
        }
        CLUSTER.put(&service);
        case.wait_for_all(&service);
    }
}

/// What the kernel remembers of rejected packets must not keep later ones away.
fn a_refused_flow_reaches_the_first_endpoint(case: &Case) {
    let mut service = case.service(&["pod-1a"]);
    service.endpoints.clear();
    CLUSTER.put(&service);
    assert!(eventually(SOON, || case.ask_often(&service).is_none()), "it is not answered");
    let flow = case.open(&service);
    for _ in 0..MANY {
        assert_eq!(flow.ask().expect_err("refused").kind(), ErrorKind::ConnectionRefused);
    }
    service.endpoints.push("pod-2a");
    CLUSTER.put(&service);
    wait_for_the_turn(&flow, "pod-2a", |answer| answer == Err(ErrorKind::ConnectionRefused));
}

/// Asks until this server answers. Until then the answers are as before; requests during the change may be lost.
fn wait_for_the_turn(flow: &Conversation, to: &str, as_before: impl Fn(Result<&str, ErrorKind>) -> bool) {
    flow.wait_at_most(BRIEFLY).expect("a timeout");
    let start = Instant::now();
    let mut last_before = start;
    loop {
        let answer = flow.ask();
        let answer = answer.as_ref().map(|(server, _)| &**server).map_err(io::Error::kind);
        match answer {
            Ok(server) if server == to => break,
            _ if as_before(answer) => last_before = Instant::now(),
            // Dropped; a node that is the client itself gets an error.
            Err(ErrorKind::WouldBlock | ErrorKind::PermissionDenied) => {}
            other => panic!("{other:?}"),
        }
        assert!(start.elapsed() < SOON, "it does not reach {to}");
        std::thread::sleep(Duration::from_millis(1));
    }
    // A client that waits for its answers may lose several packets in a row, until connection tracking was purged.
    assert!(last_before.elapsed() < 10 * BRIEFLY, "nobody answers for {:?}", last_before.elapsed());
}

/// Connection tracking remembers that nothing translated the flow; the entry is purged with the first endpoint.
fn a_flow_from_before_the_service_reaches_it(case: &Case) {
    let service = case.new_service(&["pod-1a"]);
    let flow = case.open(&service);
    flow.wait_at_most(BRIEFLY).expect("a timeout");
    for _ in 0..3 {
        let answer = flow.ask();
        assert!(answer.is_err(), "{answer:?} of nobody");
    }
    CLUSTER.put(&service);
    let answered = || flow.ask().is_ok_and(|(server, _)| server == "pod-1a");
    assert!(eventually(SOON, answered), "it is not answered");
    assert!((0..MANY).all(|_| answered()), "each time");
}

fn without_its_last_endpoint_it_refuses(case: &Case) {
    let mut service = case.service(&["pod-1a"]);
    service.endpoints.clear();
    CLUSTER.put(&service);
    let refused = eventually(SOON, || {
        let answer = CLUSTER.ask(case.client, case.protocol, case.target(&service));
        answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    assert!(refused, "it does not refuse");
}

/// A connection that a client resets is not kept as long as an idle one, which is a day. Rewritten connections are an
/// exception: once established, connection tracking sends the client's packets straight to the endpoint, and IPVS sees
/// only those of the endpoint. README lists this among the limits.
fn a_reset_ends_what_ipvs_knows(case: &Case) {
    let heard = case.external == Policy::Cluster;
    let service = case.service(&["pod-1a", "pod-2a"]);
    let node = CLUSTER.host(case.entry.node(find(case.client)));
    // Two connections: one for each endpoint.
    for _ in 0..2 {
        let conversation = case.open(&service);
        conversation.ask().expect("an answer");
        let socket = conversation.into_socket();
        let own = SocketAddr::try_from(getsockname(&socket).expect("an address")).expect("an address");
        let known = || {
            let all = node.shell("ipvsadm -lnc");
            let of_client = format!(":{} ", own.port());
            let is_ours = |line: &&str| line.starts_with("TCP ") && line.contains(&of_client);
            all.lines().filter(is_ours).collect::<Vec<_>>().join("\n")
        };
        assert!(known().contains("ESTABLISHED"), "{}", known());
        set_socket_linger(&socket, Some(Duration::ZERO)).expect("an option");
        drop(socket);
        let ended = eventually(if heard { SOON } else { BRIEFLY }, || !known().contains("ESTABLISHED"));
        assert_eq!(ended, heard, "{}", known());
    }
}

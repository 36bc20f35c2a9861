//! Endpoints come and go while clients ask.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kube_ipvs::cluster::types::{Family, Protocol};
use libtest_mimic::Trial;

use crate::cluster::Service;
use crate::proxy::eventually;
use crate::talk::{Conversation, PROTOCOLS};
use crate::topology::find;
use crate::{CLUSTER, row};

const CLIENTS: [&str; 3] = ["pod-1b", "node-2", "outside-2"];

/// A change of a manifest shows in the data plane within this time; it takes milliseconds.
const SOON: Duration = Duration::from_secs(5);

/// How long is waited for one answer, where another attempt follows.
const BRIEFLY: Duration = Duration::from_millis(100);

/// Requests after which it is sure that a scheduler that takes turns has forgotten an endpoint.
const MANY: usize = 10;

type Change = fn(&Case);

pub(crate) fn rows() -> impl Iterator<Item = Trial> {
    let streams = &[Protocol::Tcp, Protocol::Sctp];
    let flows = &[Protocol::Udp];
    let refusing = &[Protocol::Tcp, Protocol::Udp];
    let changes: [(&str, Change, &[Protocol]); 6] = [
        ("an-added-endpoint-is-reached", an_added_endpoint_is_reached, &PROTOCOLS),
        ("a-removed-endpoint-gets-nothing-new", a_removed_endpoint_gets_nothing_new, &PROTOCOLS),
        ("a-connection-outlives-its-endpoint", a_connection_outlives_its_endpoint, streams),
        ("a-flow-leaves-a-removed-endpoint", a_flow_leaves_a_removed_endpoint, flows),
        ("a-refused-flow-reaches-the-first-endpoint", a_refused_flow_reaches_the_first_endpoint, flows),
        ("without-its-last-endpoint-it-refuses", without_its_last_endpoint_it_refuses, refusing),
    ];
    changes.into_iter().flat_map(|(name, change, protocols)| {
        Family::ALL.into_iter().flat_map(move |family| {
            protocols.iter().flat_map(move |&protocol| {
                CLIENTS.map(|client| {
                    let case = Case { client, protocol, family };
                    row(&[&"changes", &name, &client, &protocol, &family], move || change(&case))
                })
            })
        })
    })
}

/// Who asks, and how.
struct Case {
    client: &'static str,
    protocol: Protocol,
    family: Family,
}

impl Case {
    /// A new Service with these endpoints, all of which already answer the client.
    fn service(&self, endpoints: &[&'static str]) -> Service {
        let service = CLUSTER.service(endpoints);
        CLUSTER.put(&service);
        self.wait_for_all(&service);
        service
    }

    fn target(&self, service: &Service) -> SocketAddr {
        SocketAddr::new(service.address(self.family), 80)
    }

    /// A connection that is to last.
    fn open(&self, service: &Service) -> Conversation {
        let (protocol, target) = (self.protocol, self.target(service));
        // SCTP tells the server all addresses of a socket that has not chosen one, and the server tries them in
        // turn. No NAT translates those: the first that it tries, past the service address, ends the association.
        // Kubernetes leaves associations with several addresses to their users for that reason.
        let source = (protocol == Protocol::Sctp).then(|| find(self.client).address(self.family));
        let open = move || Conversation::open(protocol, source, target);
        CLUSTER.host(self.client).run(open).expect("a connection")
    }

    /// Who answers new connections; `None`: one was not answered.
    fn ask_often(&self, service: &Service) -> Option<BTreeSet<String>> {
        let (protocol, target) = (self.protocol, self.target(service));
        CLUSTER.host(self.client).run(move || {
            let open = || Conversation::open_within(BRIEFLY, protocol, None, target)?.ask();
            (0..MANY).map(|_| open().ok().map(|(server, _)| server)).collect()
        })
    }

    fn wait_for_all(&self, service: &Service) {
        let wanted: BTreeSet<_> = service.endpoints.iter().map(|pod| (*pod).to_owned()).collect();
        let mut answers = None;
        let all = eventually(SOON, || {
            answers = self.ask_often(service);
            answers.as_ref() == Some(&wanted)
        });
        assert!(all, "{wanted:?} should answer, and {answers:?} do");
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
    for _ in 0..MANY {
        let answer = CLUSTER.ask(case.client, case.protocol, case.target(&service));
        assert_eq!(answer.expect("an answer").0, "pod-2a");
    }
}

/// It drains: weight 0 (contract 4.5).
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
    // Nor does the last endpoint's removal end it.
    service.endpoints.clear();
    CLUSTER.put(&service);
    assert!(eventually(SOON, || case.ask_often(&service).is_none()), "new connections are not answered");
    assert_eq!(conversation.ask().expect("an answer on the old connection"), first);
}

/// Its real server goes at once, and its connections with it (`expire_nodest_conn`).
fn a_flow_leaves_a_removed_endpoint(case: &Case) {
    let mut service = case.service(&["pod-1a", "pod-2a"]);
    let flow = case.open(&service);
    let (first, _) = flow.ask().expect("an answer");
    assert_eq!(flow.ask().expect("an answer").0, first, "a flow stays where it is");
    service.endpoints.retain(|pod| *pod != first);
    let other = service.endpoints[0];
    CLUSTER.put(&service);
    wait_for_the_turn(&flow, other, |answer| answer.is_ok_and(|server| server == first));
    for _ in 0..MANY {
        assert_eq!(flow.ask().expect("an answer").0, other);
    }
}

/// What the kernel remembers of packets that nobody could take must not keep the following ones away.
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

/// Asks until this server answers. Until then all is as before; what meets the change may be lost.
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
            // Dropped; a node that is the client itself is told so.
            Err(ErrorKind::WouldBlock | ErrorKind::PermissionDenied) => {}
            other => panic!("{other:?}"),
        }
        assert!(start.elapsed() < SOON, "it does not reach {to}");
        std::thread::sleep(Duration::from_millis(1));
    }
    // Two packets in a row may be lost, by a client that waits for its answers.
    assert!(last_before.elapsed() < 3 * BRIEFLY, "nobody answers for {:?}", last_before.elapsed());
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

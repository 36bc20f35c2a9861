//! What is refused: ports that no Service declares, whoever else listens there, and Services that nobody serves.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use kube_ipvs::cluster::types::{Family, Protocol};
use libtest_mimic::Trial;

use crate::cluster::Entry;
use crate::talk::{self, Answer, PROTOCOLS};
use crate::topology::{PORT, find};
use crate::{CLIENTS, CLUSTER, requests, row, service};

/// What nobody may answer: a name for it, the Service, where, and the port.
const TARGETS: [(&str, &str, Entry, u16); 8] = [
    ("closed-port", "both", Entry::ClusterIp, 83),
    ("host-port", "both", Entry::ClusterIp, PORT),
    ("no-endpoint", "none", Entry::ClusterIp, 80),
    ("host-port-without-endpoint", "none", Entry::ClusterIp, PORT),
    ("no-ready-endpoint", "unready", Entry::ClusterIp, 80),
    ("host-port-of-an-external-ip", "both", Entry::ExternalIp, PORT),
    ("host-port-of-a-load-balancer-ip", "both", Entry::LoadBalancerIp, PORT),
    ("closed-port-of-a-load-balancer-ip", "none", Entry::LoadBalancerIp, 83),
];

type Question = (&'static str, Protocol, Family, &'static str);

/// What came of all questions. They are asked at once: where all happens on one processor, while the client is still
/// sending its first segment, its TCP passes over the ICMP error, and takes only the one for the repeated segment, a
/// second later. SCTP takes none, and waits.
static OUTCOMES: LazyLock<BTreeMap<Question, (io::Result<Answer>, Duration)>> = LazyLock::new(|| {
    let asked: Vec<_> = questions()
        .map(|question| {
            let (name, protocol, family, client) = question;
            let (_, service_name, entry, port) =
                *TARGETS.iter().find(|(known, ..)| *known == name).expect("a target of this name");
            let address = service(service_name).target(entry, find(client), family).ip();
            let target = SocketAddr::new(address, port);
            let outcome = CLUSTER.host(client).start(move || {
                let start = Instant::now();
                (talk::ask(protocol, None, target), start.elapsed())
            });
            (question, outcome)
        })
        .collect();
    asked.into_iter().map(|(question, outcome)| (question, outcome.recv().expect("an outcome"))).collect()
});

fn questions() -> impl Iterator<Item = Question> {
    let families_and_protocols =
        Family::ALL.into_iter().flat_map(|family| PROTOCOLS.map(|protocol| (family, protocol)));
    families_and_protocols.flat_map(|(family, protocol)| {
        CLIENTS
            .into_iter()
            .flat_map(move |client| TARGETS.map(|(target, ..)| (target, protocol, family, client)))
    })
}

pub(crate) fn rows() -> impl Iterator<Item = Trial> {
    let refusals = questions().map(|question| {
        let (target, protocol, family, client) = question;
        row(&[&"refused", &target, &client, &protocol, &family], move || is_refused(question))
    });
    // The host's process is there: at the node's own addresses it answers.
    let others = questions().filter(|(target, ..)| *target == "host-port");
    let answers = others.map(|(_, protocol, family, client)| {
        let run = move || requests::host_process_answers(client, protocol, family);
        row(&[&"reaches", &"node-address", &client, &protocol, &family], run)
    });
    refusals.chain(answers)
}

fn is_refused(question: Question) {
    let (outcome, elapsed) = &OUTCOMES[&question];
    let error = match outcome {
        Ok(answer) => panic!("answered: {answer:?}"),
        Err(error) => error,
    };
    let limit_seconds = match question.1 {
        Protocol::Udp => 0.5,
        Protocol::Tcp => 1.8,
        // Its "port unreachable" is for ICMP-aware sockets only: that nobody answers is all to be seen.
        Protocol::Sctp => return,
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error} after {elapsed:?}");
    assert!(elapsed.as_secs_f64() < limit_seconds, "refused only after {elapsed:?}");
}

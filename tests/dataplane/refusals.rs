//! What is refused: ports that no Service declares, whoever else listens there, and Services that nobody serves.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use kube_ipvs::cluster::types::{Family, Protocol};
use libtest_mimic::Trial;

use crate::talk::{self, Answer, PROTOCOLS};
use crate::topology::PORT;
use crate::{CLIENTS, CLUSTER, requests, row, service};

/// What nobody may answer: a name for it, the Service, the port.
const TARGETS: [(&str, &str, u16); 5] = [
    ("closed-port", "both", 83),
    ("host-port", "both", PORT),
    ("no-endpoint", "none", 80),
    ("host-port-without-endpoint", "none", PORT),
    ("no-ready-endpoint", "unready", 80),
];

type Question = (&'static str, Protocol, Family, &'static str);

/// What came of all questions. They are asked at once: where all happens on one processor, while the client is still
/// sending its first segment, its TCP passes over the ICMP error, and takes only the one for the repeated segment, a
/// second later. SCTP takes none, and waits.
static OUTCOMES: LazyLock<BTreeMap<Question, (io::Result<Answer>, Duration)>> = LazyLock::new(|| {
    let asked: Vec<_> = questions()
        .map(|question| {
            let (name, protocol, family, client) = question;
            let (_, service_name, port) =
                *TARGETS.iter().find(|(known, ..)| *known == name).expect("a target of this name");
            let target = SocketAddr::new(service(service_name).address(family), port);
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

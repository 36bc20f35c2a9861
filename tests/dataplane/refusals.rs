//! What is refused: ports that no Service declares, whoever else listens there, and Services without endpoints.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use kube_ipvs::cluster::types::{Family, Protocol};
use libtest_mimic::Trial;

use crate::cluster::Entry;
use crate::talk::{self, Answer, PROTOCOLS};
use crate::topology::{PORT, find};
use crate::{CLIENTS, CLUSTER, requests, row, service};

/// Targets that nobody may answer: a name, the Service, the entry, and the port.
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

type Outcome = (io::Result<Answer>, Duration);

/// The outcomes of all questions, which are asked at once. On a single processor, the client may still be sending its
/// first segment when the ICMP error arrives; its TCP then ignores that error, and accepts only the one for the
/// retransmitted segment, a second later. SCTP accepts none, and waits. The kernel decides which of so many clients
/// gets the processor when (on Linux 6.1 some wait for seconds), so clients with a late refusal ask again, alone.
static OUTCOMES: LazyLock<BTreeMap<Question, Outcome>> = LazyLock::new(|| {
    let asked: Vec<_> = questions().map(|question| (question, ask(question))).collect();
    let outcome =
        |(question, asked): (Question, Receiver<Outcome>)| (question, asked.recv().expect("an outcome"));
    let mut outcomes: BTreeMap<_, _> = asked.into_iter().map(outcome).collect();
    for (question, outcome) in &mut outcomes {
        if outcome.0.is_err() && refused_in_time(question.1, outcome).is_err() {
            *outcome = ask(*question).recv().expect("an outcome");
        }
    }
    outcomes
});

fn ask((name, protocol, family, client): Question) -> Receiver<Outcome> {
    let (_, service_name, entry, port) =
        *TARGETS.iter().find(|(known, ..)| *known == name).expect("a target of this name");
    let address = service(service_name).target(entry, find(client), family).ip();
    let target = SocketAddr::new(address, port);
    CLUSTER.host(client).start(move || {
        let start = Instant::now();
        (talk::ask(protocol, None, target), start.elapsed())
    })
}

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
    // The host's own process runs: it answers at the node's own addresses.
    let others = questions().filter(|(target, ..)| *target == "host-port");
    let answers = others.map(|(_, protocol, family, client)| {
        let run = move || requests::host_process_answers(client, protocol, family);
        row(&[&"reaches", &"node-address", &client, &protocol, &family], run)
    });
    refusals.chain(answers)
}

fn is_refused(question: Question) {
    refused_in_time(question.1, &OUTCOMES[&question]).unwrap_or_else(|found| panic!("{found}"));
}

/// Whether the client was refused, and in time; otherwise what happened instead, and when.
fn refused_in_time(protocol: Protocol, (outcome, elapsed): &Outcome) -> Result<(), String> {
    let limit = match protocol {
        Protocol::Udp => Duration::from_millis(500),
        Protocol::Tcp => Duration::from_millis(1800),
        // Only ICMP-aware sockets get SCTP's "port unreachable": all that can be seen is that nobody answers.
        Protocol::Sctp => Duration::MAX,
    };
    match outcome {
        Ok(answer) => Err(format!("answered: {answer:?}")),
        Err(_) if protocol == Protocol::Sctp => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused && *elapsed < limit => Ok(()),
        Err(error) => Err(format!("{error} after {elapsed:?}")),
    }
}

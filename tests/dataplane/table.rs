//! The whole table: every client, through every entry, with every policy, to Services with endpoints on both nodes, on
//! one, and without any that is ready, by every protocol and family. [`reference`] says what should happen.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use kube_ipvs::cluster::types::{Family, Protocol};

use crate::cluster::{self, Cluster, Condition, Entry, Policy, Service};
use crate::reference::{self, Fate, Reached, Seen};
use crate::talk::{self, Answer, Conversation, PROTOCOLS};
use crate::topology::{Place, find};

/// A pod on the node with an endpoint and one on the other node, both of these nodes, and clients outside, one for each
/// node through which they come in.
const CLIENTS: [&str; 6] = ["pod-1b", "pod-2b", "node-1", "node-2", "outside-1", "outside-2"];

/// The requests of a row that is answered: with the scheduler `rr`, each of two endpoints gets half of them.
pub(crate) const REQUESTS: usize = 4;
/// How often a row is tried: see [`Question::ask_repeatedly`].
const ATTEMPTS: usize = 3;
/// How long an expected answer may take: long enough to retransmit a lost segment or two.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long a UDP refusal may take.
const SOON: Duration = Duration::from_secs(1);
/// How long an answer may take where the answers of some endpoints go astray.
const BRIEFLY: Duration = Duration::from_millis(200);
/// How long to wait for an answer that should not come. On a single processor, the client may still be sending its
/// first segment when the ICMP error arrives; its TCP then ignores that error, and accepts only the one for the
/// retransmitted segment, a second later.
const IMPATIENCE: Duration = Duration::from_millis(1800);
/// How many threads wait at a time.
const WAITING: usize = 360;

/// The parts of the table: a word and a title, what their Services have in common, and the policies of these.
pub(crate) static PARTS: LazyLock<Vec<Part>> = LazyLock::new(|| {
    let both = Service::exposed("", 0, &["pod-1a", "pod-2a"]);
    let ending = |pods: &[&'static str]| Service {
        conditions: pods.iter().map(|pod| (*pod, Condition::ServingTerminating)).collect(),
        ..both.clone()
    };
    let part = |word, title, service, policies| Part { word, title, service, policies };
    let (every, same) = (&POLICIES[..], &POLICIES[..2]);
    vec![
        part("both-nodes", "Endpoints on both nodes: pod-1a, pod-2a", both.clone(), every),
        part("one-node", "An endpoint on node-1 only: pod-1a", Service::exposed("", 0, &["pod-1a"]), every),
        part("none", "No endpoints", Service::exposed("", 0, &[]), every),
        part("not-ready", "Endpoints that are not ready", both.clone().all(Condition::NotReady), every),
        part(
            "one-terminating",
            "pod-1a is terminating and still serves, pod-2a is ready",
            ending(&["pod-1a"]),
            same,
        ),
        part(
            "all-terminating",
            "pod-1a and pod-2a are terminating and still serve",
            ending(&["pod-1a", "pod-2a"]),
            same,
        ),
        part(
            "source-ranges",
            "`loadBalancerSourceRanges` with outside-1, the pods of node-1 and node-2 itself",
            Service { source_ranges: RANGES.to_vec(), ..both.clone() },
            same,
        ),
    ]
});

/// One range for each allowed client: outside-1, pod-1b, node-2. Some ranges contain another one of the list.
const RANGES: [&str; 8] = [
    "192.168.0.11/32",
    "192.168.0.10/31",
    "10.244.1.0/24",
    "192.168.0.2/32",
    "2001:db8::11/128",
    "2001:db8::10/127",
    "fd00:10:244:1::/64",
    "2001:db8::2/128",
];

pub(crate) struct Part {
    pub(crate) word: &'static str,
    pub(crate) title: &'static str,
    service: Service,
    policies: &'static [(Policy, Policy)],
}

/// Internal and external policies; in the first two, both are the same.
static POLICIES: [(Policy, Policy); 4] = [
    (Policy::Cluster, Policy::Cluster),
    (Policy::Local, Policy::Local),
    (Policy::Cluster, Policy::Local),
    (Policy::Local, Policy::Cluster),
];

/// The Services of the table, with the words of their parts.
pub(crate) static SERVICES: LazyLock<Vec<(&str, Service)>> = LazyLock::new(|| {
    let mut services = Vec::new();
    for part in &*PARTS {
        for &(internal, external) in part.policies {
            let name = format!("{}-{internal}-{external}", part.word).to_lowercase();
            let number = 20 + u16::try_from(services.len()).expect("a few");
            services.push((
                part.word,
                Service {
                    name,
                    number,
                    load_balancer_number: number,
                    internal,
                    external,
                    ..part.service.clone()
                },
            ));
        }
    }
    services
});

/// The clients of a Service. For the plainest Services, these include the endpoints, which reach themselves, too.
pub(crate) fn clients(service: &Service) -> impl Iterator<Item = &'static str> {
    let ask = service.name.starts_with("both-nodes");
    let endpoints = service.endpoints.iter().copied().filter(move |_| ask);
    CLIENTS.into_iter().chain(endpoints)
}

/// A row of the table.
#[derive(Clone, Copy)]
pub(crate) struct Question {
    pub(crate) service: &'static Service,
    pub(crate) entry: Entry,
    pub(crate) client: &'static Place,
    pub(crate) protocol: Protocol,
    pub(crate) family: Family,
}

/// The key by which results are sorted.
pub(crate) type Id = (&'static str, Entry, &'static str, Protocol, Family);

/// The outcomes, and how often each occurred.
pub(crate) type Found = BTreeMap<Happened, usize>;

/// Whether a result is the expected one; if not, the question is asked again.
pub(crate) type IsRight = fn(&Question, &Found) -> bool;

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Happened {
    /// The server that answered, and what it saw.
    Answered(String, SeenAs),
    Refused,
    Silence,
    /// Anything else.
    Trouble(String),
}

/// The client as an endpoint saw it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SeenAs {
    What(Seen),
    Other(std::net::IpAddr),
}

impl Question {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        SERVICES.iter().flat_map(|(_, service)| Self::of(service))
    }

    pub(crate) fn of(service: &'static Service) -> impl Iterator<Item = Self> {
        Entry::ALL.into_iter().flat_map(move |entry| {
            clients(service).flat_map(move |client| {
                PROTOCOLS.into_iter().flat_map(move |protocol| {
                    Family::ALL.map(|family| Self { service, entry, client: find(client), protocol, family })
                })
            })
        })
    }

    pub(crate) fn id(&self) -> Id {
        (&self.service.name, self.entry, self.client.name, self.protocol, self.family)
    }

    /// Asks this many times, one after the other.
    fn ask(&self, times: usize, patience: Duration) -> impl FnOnce() -> Found + Send + 'static {
        let question = *self;
        let target = self.service.target(self.entry, self.client, self.family);
        let source = cluster::source(self.protocol, self.client.name, target);
        move || {
            let mut found = Found::new();
            for _ in 0..times {
                let start = Instant::now();
                let open = || Conversation::open_within(patience, question.protocol, source, target)?.ask();
                let happened = match open() {
                    Ok(answer) => question.answered(answer),
                    Err(error) => question.failed(&error, start.elapsed()),
                };
                *found.entry(happened).or_insert(0) += 1;
            }
            found
        }
    }

    /// Asks as often as for an answered row, and again if the result is wrong, for the reason given at
    /// [`cluster::Cluster::ask`].
    fn ask_repeatedly(&self, cluster: &Cluster, is_right: IsRight) -> Found {
        let host = cluster.host(self.client.name);
        let patience =
            if self.expected(REQUESTS).contains_key(&Happened::Silence) { BRIEFLY } else { PATIENCE };
        let mut found = Found::new();
        for _ in 0..ATTEMPTS {
            found = host.run(self.ask(REQUESTS, patience));
            if is_right(self, &found) {
                break;
            }
        }
        found
    }

    fn answered(&self, (server, address): Answer) -> Happened {
        let node = self.entry.node(self.client);
        let is = |seen: &Seen| seen.addresses(self.client, node, self.family).contains(&address);
        // A node that asks itself counts as a node.
        let seen = [Seen::Node, Seen::Client].into_iter().find(is);
        Happened::Answered(server, seen.map_or(SeenAs::Other(address), SeenAs::What))
    }

    fn failed(&self, error: &io::Error, elapsed: Duration) -> Happened {
        match error.kind() {
            ErrorKind::ConnectionRefused if self.protocol == Protocol::Udp && elapsed > SOON => {
                Happened::Trouble(format!("refused only after {elapsed:?}"))
            }
            ErrorKind::ConnectionRefused => Happened::Refused,
            _ if talk::is_silence(error) => Happened::Silence,
            _ => Happened::Trouble(error.to_string()),
        }
    }

    /// The expected result of this many requests.
    pub(crate) fn expected(&self, times: usize) -> Found {
        let happens = match reference::fate(self.service, self.entry, self.client) {
            Fate::Reaches(endpoints) => {
                let happens = |reached: &Reached| match reached {
                    Reached { astray: true, .. } => Happened::Silence,
                    Reached { pod, seen, .. } => Happened::Answered((*pod).to_owned(), SeenAs::What(*seen)),
                };
                endpoints.iter().map(happens).collect()
            }
            // Only ICMP-aware sockets get SCTP's "port unreachable": all that can be seen is that nobody answers.
            Fate::Refused if self.protocol == Protocol::Sctp => vec![Happened::Silence],
            Fate::Refused => vec![Happened::Refused],
            Fate::Dropped => vec![Happened::Silence],
        };
        let each = times / happens.len();
        happens.into_iter().fold(Found::new(), |mut found, happened| {
            *found.entry(happened).or_insert(0) += each;
            found
        })
    }

    /// Whether an endpoint should be reached.
    pub(crate) fn is_answered(&self) -> bool {
        matches!(reference::fate(self.service, self.entry, self.client), Fate::Reaches(_))
    }

    /// How many requests the row makes.
    pub(crate) fn requests(&self) -> usize {
        if self.is_answered() { REQUESTS } else { 1 }
    }

    pub(crate) fn endpoints(&self) -> &'static str {
        SERVICES.iter().find(|(_, service)| service.name == self.service.name).expect("one of them").0
    }
}

/// Asks all questions. Answered ones go one by one, so that the endpoints of a Service take turns; the others wait
/// together.
pub(crate) fn ask_all(cluster: &Cluster, is_right: IsRight) -> BTreeMap<Id, Found> {
    let (answered, waiting): (Vec<_>, Vec<_>) = Question::all().partition(Question::is_answered);
    let mut found = BTreeMap::new();
    thread::scope(|scope| {
        let of_a_service = answered.chunk_by(|left, right| left.service.name == right.service.name);
        let asking: Vec<_> = of_a_service
            .map(|questions| {
                let ask = |question: &Question| (question.id(), question.ask_repeatedly(cluster, is_right));
                scope.spawn(move || questions.iter().map(ask).collect::<Vec<_>>())
            })
            .collect();
        for answers in asking {
            found.extend(answers.join().expect("no panic"));
        }
    });
    for together in waiting.chunks(WAITING) {
        let started: Vec<_> = together
            .iter()
            .map(|question| cluster.host(question.client.name).start(question.ask(1, IMPATIENCE)))
            .collect();
        for (question, result) in together.iter().zip(started) {
            let mut happened: Found = result.recv().expect("a result");
            // The kernel decides which of so many gets the processor when: one with a late answer asks again, alone.
            if !is_right(question, &happened) {
                happened = cluster.host(question.client.name).run(question.ask(1, IMPATIENCE));
            }
            found.insert(question.id(), happened);
        }
    }
    found
}

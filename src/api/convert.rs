//! Kubernetes objects → the types of [`crate::cluster::types`], or the reason why not.
//!
//! This is the one place that knows what the fields of Kubernetes' objects mean. It is pure, it never fails as a whole,
//! and it applies the API's defaults itself (protocol TCP, unnamed ports `""`, conditions, the affinity timeout,
//! namespace `default`), so that an object from a file, which no API server has seen, means what it means in a cluster.
//!
//! An object can be [`Kept`](Converted::Kept), [`Ignored`](Converted::Ignored) (not ours, nothing to say about it) or
//! [`Refused`](Converted::Refused) (invalid: one line names the field, what was found, and what is allowed). How much
//! an invalid part takes with it:
//!
//! * In a **Service** the whole object is refused. Its addresses and ports are few and written by people; half a
//!   Service would be a surprise, and its source can continue with the last good version. Only addresses besides the
//!   cluster IPs are left out one by one: most of them are written by controllers, and the cluster IP must not be lost
//!   because of them. Addresses beyond what a node can hold are left out in the same way. If a source range is invalid,
//!   nobody may use the load balancer's addresses: half a restriction is none.
//! * In an **EndpointSlice** the endpoint or port is left out, and the object is kept, with the problem. A slice holds
//!   up to 1,000 endpoints written by a controller; to refuse 999 good ones because of a bad one would turn a small
//!   mistake into an outage, and an endpoint that cannot be reached serves nobody either way. (kube-proxy is no
//!   stricter: it ignores such ports, contract 5.1, and fails to add such an endpoint.) A source that knows a flawless
//!   older version of the object may prefer that.
//! * In a **Node** unparsable addresses are skipped (contract 3.5): host names are legal there.

use std::fmt;
use std::sync::Arc;

use foldhash::HashSet;

use super::objects::{self, ObjectMeta};
use crate::cluster::types::{EndpointSlice, Node, Protocol, Service};

mod external;
mod limit;
mod node;
mod seen;
mod service;
mod slice;
#[cfg(test)]
mod tests;

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Converted<T> {
    /// Ours.
    Kept {
        /// The parts of it that are used.
        object: T,
        /// The problems of the parts that were left out; nearly always empty.
        problems: Vec<Problem>,
    },
    /// A valid object that this proxy has nothing to do with: no reason for a warning. If it was ours before, it is
    /// gone now.
    Ignored,
    /// Invalid. This does not say whether an older, good version should stay in use.
    Refused(Problem),
}

/// What is wrong with an object, or which part of a valid one is not served. `Display` gives one line, such as
/// `Service default/web: spec.ports[0].port: found 0, allowed 1 to 65535` or
/// `Service default/web: spec.sessionAffinity: "ClientIP" is not served at TCP port 21`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// `Service`, `EndpointSlice` or `Node`.
    pub kind: &'static str,
    /// `namespace/name`; of a Node its name.
    pub object: String,
    /// The path of the field as `kubectl explain` writes it, with indices: `spec.ports[0].port`.
    pub field: String,
    /// The value that was found, or `nothing`. Text is quoted.
    pub found: String,
    /// The judgement on that value.
    pub judgement: Judgement,
}

/// The judgement on the value of a field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Judgement {
    /// It is invalid; the text says what is allowed instead.
    Invalid(String),
    /// It is valid; the text says what becomes of it, since this proxy, or IPVS, does not do all that the API allows.
    Unserved(String),
}

impl Problem {
    /// Whether the object is invalid, rather than merely served without a part of it.
    pub fn is_invalid(&self) -> bool {
        matches!(self.judgement, Judgement::Invalid(_))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, object, field, found, judgement } = self;
        write!(f, "{kind} {object}: {field}: ")?;
        match judgement {
            Judgement::Invalid(allowed) => write!(f, "found {found}, allowed {allowed}"),
            Judgement::Unserved(outcome) => write!(f, "{found} {outcome}"),
        }
    }
}

/// How many problems of one object are spelled out. The others are only counted, since an object may have as many as
/// fit into it.
const SAID: usize = 10;
/// How much of a found value is quoted, in bytes.
const FOUND_BYTES: usize = 256;

/// Several problems as one line; `None` if there are none.
pub fn in_words(problems: &[Problem]) -> Option<String> {
    let mut words: Vec<String> = problems.iter().take(SAID).map(ToString::to_string).collect();
    if problems.len() > SAID {
        words.push(format!("and {} more", problems.len() - SAID));
    }
    (!words.is_empty()).then(|| words.join("; "))
}

/// Converts the objects of one source. It shares text that repeats (namespaces, port names, node names), so that
/// 100,000 endpoints on 5,000 nodes hold 5,000 names.
#[derive(Debug, Default)]
pub struct Converter {
    texts: Texts,
}

impl Converter {
    /// A converter that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A Service (core/v1) as this proxy sees it (contract 4.3).
    pub fn service(&mut self, object: &objects::Service<'_>) -> Converted<Service> {
        settle(service::convert(&mut self.texts, object))
    }

    /// An EndpointSlice (discovery.k8s.io/v1) as this proxy sees it (contract 5.1).
    pub fn slice(&mut self, object: &objects::EndpointSlice<'_>) -> Converted<EndpointSlice> {
        settle(slice::convert(&mut self.texts, object))
    }

    /// A Node (core/v1) as this proxy sees it (contract 3.5 and 8.2).
    pub fn node(&mut self, object: &objects::Node<'_>) -> Converted<Node> {
        settle(node::convert(&mut self.texts, object))
    }
}

/// Why a conversion ended early.
enum Rejected {
    Ignored,
    Refused(Problem),
}

fn settle<T>(result: Result<(T, Vec<Problem>), Rejected>) -> Converted<T> {
    match result {
        Ok((object, problems)) => Converted::Kept { object, problems },
        Err(Rejected::Ignored) => Converted::Ignored,
        Err(Rejected::Refused(problem)) => Converted::Refused(problem),
    }
}

/// How problems name an object.
#[derive(Clone, Copy)]
struct Subject<'a> {
    kind: &'static str,
    namespace: Option<&'a str>,
    name: &'a str,
}

impl<'a> Subject<'a> {
    /// The subject of an object that lives in a namespace; if it names none, that is `default`.
    fn namespaced(kind: &'static str, metadata: &'a ObjectMeta<'_>) -> Result<Self, Rejected> {
        let namespace = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        Self { kind, namespace: Some(namespace.unwrap_or("default")), name: "" }.named(metadata)
    }

    /// The subject of an object that lives in no namespace.
    fn global(kind: &'static str, metadata: &'a ObjectMeta<'_>) -> Result<Self, Rejected> {
        Self { kind, namespace: None, name: "" }.named(metadata)
    }

    fn named(self, metadata: &'a ObjectMeta<'_>) -> Result<Self, Rejected> {
        match metadata.name.as_deref() {
            Some(name) if !name.is_empty() => Ok(Self { name, ..self }),
            _ => Err(Rejected::Refused(Self { name: "(no name)", ..self }.problem(
                "metadata.name",
                "nothing",
                "a name",
            ))),
        }
    }

    fn problem(
        self,
        field: impl Into<String>,
        found: impl fmt::Display,
        allowed: impl Into<String>,
    ) -> Problem {
        self.judged(field, found, Judgement::Invalid(allowed.into()))
    }

    /// A problem with a valid value; `outcome` continues a sentence that begins with the value.
    fn unserved(
        self,
        field: impl Into<String>,
        found: impl fmt::Display,
        outcome: impl Into<String>,
    ) -> Problem {
        self.judged(field, found, Judgement::Unserved(outcome.into()))
    }

    fn judged(self, field: impl Into<String>, found: impl fmt::Display, judgement: Judgement) -> Problem {
        let object = match self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.to_owned(),
        };
        let mut found = found.to_string();
        if found.len() > FOUND_BYTES {
            found.truncate(found.floor_char_boundary(FOUND_BYTES));
            found.push('…');
        }
        Problem { kind: self.kind, object, field: field.into(), found, judgement }
    }
}

/// The value of a label, if the object has it.
fn label<'a>(metadata: &'a ObjectMeta<'_>, name: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(name)
}

/// A port number, never 0.
fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}
const PORT_NUMBERS: &str = "1 to 65535";

/// A protocol; TCP, the API's default, if it is absent or empty.
fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}
const PROTOCOLS: &str = "TCP, UDP or SCTP";

/// Text that repeats, each held once.
#[derive(Debug, Default)]
struct Texts {
    held: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Texts {
    /// With fewer texts than this, unused ones are not looked for.
    const FEW: usize = 1024;

    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(held) = self.held.get(text) {
            return Arc::clone(held);
        }
        // Clusters live long, and names come and go: each time the number of texts has doubled, drop those that nothing
        // else holds.
        if self.held.len() >= self.sweep_at.max(Self::FEW) {
            self.held.retain(|text| Arc::strong_count(text) > 1);
            self.sweep_at = 2 * self.held.len();
        }
        let text: Arc<str> = text.into();
        self.held.insert(Arc::clone(&text));
        text
    }
}

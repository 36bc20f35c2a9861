//! The results for people: `tests/dataplane/CONFORMANCE.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use kube_ipvs::cluster::types::Protocol;

use super::FOUND;
use crate::cluster::{Entry, Service};
use crate::reference::Seen;
use crate::table::{Found, Happened, PARTS, Question, SERVICES, SeenAs, clients};
use crate::topology::find;

const HEAD: &str = "\
# What becomes of a connection

Written by the test program `dataplane`, from packets: `REGENERATE=1 cargo test --test dataplane -- table/as-committed`.
Each cell is what TCP, UDP and SCTP do, over IPv4 and IPv6, where that is the same; where it is not, the cell says so. The
same program compares every one of these connections with what Kubernetes' reference promises (`reference.rs`), and `make compare` compares
that with what a real kube-proxy does, in iptables and in nftables mode.

Two nodes, kube-ipvs on both. `pod-1a` and `pod-1b` run on `node-1`, `pod-2a` and `pod-2b` on `node-2`; clients outside come
in through the node of their number, and for them `NodePort-own` is that node's.

* **pod-1a ← client**: pod-1a answers, and sees the client's own address; **← node**: it sees an address of the node
  that took the packet in (for clients that are this node: their own). Several endpoints take turns.
* **refused**: the client is told at once that nobody is there. (An SCTP client only sees that nobody answers.)
* **dropped**: the client is told nothing.
* **no answer**: an endpoint is reached, but answers past the node that translated the request, so that the client does
  not know what to do with it. The reference does so where a pod asks a node port of another node with
  `externalTrafficPolicy: Local`: it may reach all endpoints, and is not masqueraded.
";

/// The whole document.
pub(super) fn text() -> String {
    let mut text = HEAD.to_owned();
    for part in &*PARTS {
        write!(text, "\n## {}\n", part.title).expect("text");
        for (_, service) in SERVICES.iter().filter(|(word, _)| *word == part.word) {
            table(&mut text, service);
        }
    }
    text
}

fn table(text: &mut String, service: &'static Service) {
    let (internal, external) = (service.internal, service.external);
    write!(text, "\n`internalTrafficPolicy: {internal}`, `externalTrafficPolicy: {external}`\n\n| client |")
        .expect("text");
    for entry in Entry::ALL {
        write!(text, " {entry} |").expect("text");
    }
    text.push_str("\n|---|---|---|---|---|---|\n");
    for client in clients(service) {
        write!(text, "| {client} |").expect("text");
        for entry in Entry::ALL {
            write!(text, " {} |", cell(service, entry, client)).expect("text");
        }
        text.push('\n');
    }
}

fn cell(service: &'static Service, entry: Entry, client: &'static str) -> String {
    let mut by_words: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let questions = Question::of(service)
        .filter(|question| question.entry == entry && question.client.name == find(client).name);
    for question in questions {
        let found = &FOUND[&question.id()];
        let silent = found.keys().all(|happened| *happened == Happened::Silence);
        if question.protocol == Protocol::Sctp && silent && !question.is_answered() {
            continue;
        }
        let what = format!("{} {}", question.protocol, question.family);
        by_words.entry(words(&question, found)).or_default().push(what);
    }
    if by_words.len() == 1
        && let Some(words) = by_words.keys().next()
    {
        return words.clone();
    }
    let parts = by_words.into_iter().map(|(words, which)| format!("{}: {words}", which.join(", ")));
    parts.collect::<Vec<_>>().join("; ")
}

fn words(question: &Question, found: &Found) -> String {
    let one = |happened: &Happened| match happened {
        Happened::Answered(server, SeenAs::What(Seen::Client)) => format!("{server} ← client"),
        Happened::Answered(server, SeenAs::What(Seen::Node)) => format!("{server} ← node"),
        Happened::Answered(server, SeenAs::Other(address)) => format!("{server} ← {address}"),
        Happened::Refused => "refused".to_owned(),
        Happened::Silence if question.is_answered() => "no answer".to_owned(),
        Happened::Silence => "dropped".to_owned(),
        Happened::Trouble(text) => text.clone(),
    };
    found.keys().map(one).collect::<Vec<_>>().join(", ")
}

/// Compares with the committed document, or replaces it where `REGENERATE` is set.
pub(super) fn compare(text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dataplane/CONFORMANCE.md");
    if std::env::var_os("REGENERATE").is_some() {
        fs::write(&file, text).expect("a document");
        return;
    }
    let committed = fs::read_to_string(&file).expect("the committed document");
    let different = committed.lines().zip(text.lines()).find(|(committed, found)| committed != found);
    assert!(committed == text, "{} says\n{different:#?}", file.display());
}

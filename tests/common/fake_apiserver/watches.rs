//! Watches and streaming lists.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::http::Response;
use futures_util::stream::{self, Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::answer::{Piece, trickle};
use super::selectors::matches;
use super::statuses::{bookmark, failure};
use super::world::Entry;
use super::{FakeApiServer, Fault, Form, Kind, Wants};

/// An open watch.
struct Watch {
    server: FakeApiServer,
    form: Form,
    kind: Kind,
    parameters: BTreeMap<String, String>,
    /// Events to send before looking for new entries.
    events: VecDeque<Vec<u8>>,
    /// The version that the watch continues from: as with a real server, it never gets anything up to this version,
    /// whatever happens to the server's own version.
    from: u64,
    /// The next entry to look at.
    entry: usize,
    epoch: u32,
    news: watch::Receiver<u64>,
    ends: tokio::time::Instant,
}

pub(super) fn open_watch(
    server: FakeApiServer,
    form: Form,
    kind: Kind,
    wants: Wants,
    parameters: BTreeMap<String, String>,
    fault: Option<&Fault>,
) -> Response<Body> {
    let news = server.news.subscribe();
    let mut events = VecDeque::new();
    let world = server.world();
    let mut from = parameters.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
    if wants == Wants::Stream {
        match world.answerable(&parameters) {
            Ok(version) => {
                from = version;
                let objects = world.objects(kind, version).into_values();
                let matching = objects.filter(|object| matches(object, &parameters));
                events.extend(matching.map(|object| form.event("ADDED", &object)));
                let mut mark = bookmark(kind, version);
                mark["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
                events.push_back(form.event("BOOKMARK", &mark));
            }
            Err(refusal) => events.push_back(form.event("ERROR", &refusal)),
        }
    } else if from < world.remembered_from {
        return form.status(&failure(410, "Expired", &format!("too old resource version: {from}")));
    }
    match fault {
        Some(Fault::GoneEvent) => events.push_front(form.event("ERROR", &failure(410, "Expired", "too old"))),
        Some(Fault::Line(text)) => events.push_front(form.line(text)),
        Some(Fault::Lines(texts)) => {
            let end = events.pop_back();
            events.extend(texts.iter().map(|text| form.line(text)).chain(end));
        }
        _ => {}
    }
    let entry = world.entries.iter().take_while(|entry| entry.version() <= from).count();
    let epoch = world.epoch;
    drop(world);
    let seconds = parameters.get("timeoutSeconds").map_or(1800, |text| text.parse().unwrap());
    let ends = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let watch = Watch { server, form, kind, parameters, events, from, entry, epoch, news, ends };
    let events = stream::unfold(watch, |mut watch| async { watch.next().await.map(|event| (event, watch)) });
    let pieces: Pin<Box<dyn Stream<Item = Piece> + Send>> = match fault {
        Some(&Fault::StallAfter(count)) => {
            Box::pin(events.take(count).map(Piece::Bytes).chain(stream::iter([Piece::Stall])))
        }
        Some(&Fault::CutAfter(count)) => {
            Box::pin(events.take(count).map(Piece::Bytes).chain(stream::iter([Piece::Cut])))
        }
        Some(&Fault::CutIn(time)) => {
            let cut = stream::iter([Piece::Cut]);
            Box::pin(events.map(Piece::Bytes).take_until(tokio::time::sleep(time)).chain(cut))
        }
        Some(&Fault::EndAfter(count)) => Box::pin(events.take(count).map(Piece::Bytes)),
        Some(&Fault::Trickle(pause)) => {
            Box::pin(events.flat_map(move |event| stream::iter(trickle(&event, pause))))
        }
        _ => Box::pin(events.map(Piece::Bytes)),
    };
    form.respond(pieces)
}

impl Watch {
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.server.world().epoch != self.epoch {
                return None;
            }
            while let Some(entry) = self.visible_entry() {
                self.entry += 1;
                if let Some(event) = self.event_for(&entry) {
                    return Some(event);
                }
            }
            tokio::select! {
                changed = self.news.changed() => changed.ok()?,
                () = tokio::time::sleep_until(self.ends) => return None,
            }
        }
    }

    fn visible_entry(&self) -> Option<Entry> {
        let world = self.server.world();
        world.entries.get(self.entry).filter(|entry| entry.version() <= world.visible()).cloned()
    }

    fn event_for(&self, entry: &Entry) -> Option<Vec<u8>> {
        if entry.version() <= self.from {
            return None;
        }
        let (version, kind, before, after) = match entry {
            Entry::Bookmark { version } => {
                return Some(self.form.event("BOOKMARK", &bookmark(self.kind, *version)));
            }
            Entry::Change { version, kind, before, after } => (version, kind, before, after),
        };
        if *kind != self.kind {
            return None;
        }
        // As in a real server, an object that stops matching is deleted, with its last matching content.
        let matching =
            |object: &Option<Value>| object.clone().filter(|object| matches(object, &self.parameters));
        match (matching(before), matching(after)) {
            (None, None) => None,
            (None, Some(object)) => Some(self.form.event("ADDED", &object)),
            (Some(_), Some(object)) => Some(self.form.event("MODIFIED", &object)),
            (Some(mut object), None) => {
                object["metadata"]["resourceVersion"] = json!(version.to_string());
                Some(self.form.event("DELETED", &object))
            }
        }
    }
}

//! An API server that fails on demand.
//!
//! It keeps objects of the three kinds that kube-ipvs watches, with one version counter, and answers lists and
//! watches as the real one does: pages, selectors, streaming lists, bookmarks, `NotOlderThan`, 410 for what is
//! forgotten. What the real one does rarely, it does when told to ([`Fault`], [`Replica`]). It writes protocol buffers or
//! JSON ([`Form`]), as the test has it and the client wants it.
//!
//! It is reached in two ways: by a client that calls it directly ([`FakeApiServer::client`]), so that tests run
//! with a paused clock and nothing is ever waited for, and over TCP ([`FakeApiServer::serve`]).

mod answer;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, header};
use futures_util::stream::{self, Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt as _;

pub use self::answer::Form;
use self::answer::{Piece, trickle};

thread_local! {
    static FORM: Cell<Form> = const { Cell::new(Form::Protobuf) };
}

/// What servers know that are made on this thread from now on.
pub fn all_know(form: Form) {
    FORM.set(form);
}

/// A kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Services,
    Slices,
    Nodes,
}

impl Kind {
    fn of_path(path: &str) -> Option<Self> {
        match path {
            "/api/v1/services" => Some(Self::Services),
            "/apis/discovery.k8s.io/v1/endpointslices" => Some(Self::Slices),
            "/api/v1/nodes" => Some(Self::Nodes),
            _ => None,
        }
    }

    fn of_object(object: &Value) -> Self {
        match object["kind"].as_str() {
            Some("Service") => Self::Services,
            Some("EndpointSlice") => Self::Slices,
            Some("Node") => Self::Nodes,
            other => panic!("no kind of ours: {other:?}"),
        }
    }

    fn resource(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Slices => "endpointslices",
            Self::Nodes => "nodes",
        }
    }
}

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wants {
    /// A list, or a page of one.
    List,
    /// A watch from a version on.
    Watch,
    /// A watch that begins with all objects.
    Stream,
}

/// What happens to one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status code, with a Status object.
    Status(u16),
    /// This status code with plain text, as from an overloaded server or a proxy, and the header `Retry-After`.
    Plain(u16, u64),
    /// 410 as the first event of a watch.
    GoneEvent,
    /// No answer, ever.
    Silence,
    /// The answer stops after so many lines, without an end (a list stops in its middle).
    StallAfter(usize),
    /// The answer breaks off after so many lines (a list breaks off in its middle).
    CutAfter(usize),
    /// The answer ends, as if it were complete, after so many lines (a list ends in its middle).
    EndAfter(usize),
    /// 64 bytes of the answer at a time, with a pause before each.
    Trickle(Duration),
    /// This comes first: an event written as a line of JSON, or nonsense.
    Line(String),
}

/// How current the server's picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replica {
    /// Complete.
    Current,
    /// Stuck at a version, and honest: it refuses to answer for newer ones, and consistent reads.
    Behind(u64),
    /// Stuck at a version, and answers with it whatever is asked.
    Lying(u64),
}

/// A request, as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub kind: Kind,
    pub wants: Wants,
    pub parameters: BTreeMap<String, String>,
    /// The header `Accept`.
    pub accept: String,
}

impl Received {
    /// A query parameter, `-` where it is not given.
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("-", String::as_str)
    }
}

/// Something that happened, in the order of versions.
#[derive(Clone)]
enum Entry {
    Change { version: u64, kind: Kind, before: Option<Value>, after: Option<Value> },
    Bookmark { version: u64 },
}

struct World {
    form: Form,
    version: u64,
    entries: Vec<Entry>,
    /// Versions below this one are forgotten.
    remembered_from: u64,
    replica: Replica,
    has_streaming_lists: bool,
    denied: BTreeMap<(Kind, Wants), u16>,
    faults: VecDeque<(Kind, Wants, Fault)>,
    received: Vec<Received>,
    token: Option<String>,
    /// Watches of an earlier epoch end.
    epoch: u32,
}

/// The server; clones are the same one.
#[derive(Clone)]
pub struct FakeApiServer {
    world: Arc<Mutex<World>>,
    /// Changes when watches have something to look at.
    news: Arc<watch::Sender<u64>>,
}

impl FakeApiServer {
    /// A server without objects, at version 100.
    pub fn new() -> Self {
        let world = World {
            form: FORM.get(),
            version: 100,
            entries: Vec::new(),
            remembered_from: 0,
            replica: Replica::Current,
            has_streaming_lists: true,
            denied: BTreeMap::new(),
            faults: VecDeque::new(),
            received: Vec::new(),
            token: None,
            epoch: 0,
        };
        Self { world: Arc::new(Mutex::new(world)), news: Arc::new(watch::channel(0).0) }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn tell(&self) {
        self.news.send_modify(|count| *count += 1);
    }

    /// Creates or changes an object; returns its new version.
    pub fn put(&self, object: Value) -> u64 {
        let (kind, id) = (Kind::of_object(&object), id(&object));
        let mut world = self.world();
        let before = world.objects(kind, u64::MAX).remove(&id);
        let version = world.change(kind, before, Some(object));
        drop(world);
        self.tell();
        version
    }

    /// Changes an object by a function; returns its new version.
    pub fn patch(&self, kind: Kind, name: &str, change: impl FnOnce(&mut Value)) -> u64 {
        let mut object = self.world().named(kind, name);
        change(&mut object);
        self.put(object)
    }

    /// Deletes an object; returns the version of that.
    pub fn delete(&self, kind: Kind, name: &str) -> u64 {
        let mut world = self.world();
        let before = world.named(kind, name);
        let version = world.change(kind, Some(before), None);
        drop(world);
        self.tell();
        version
    }

    /// Sends a bookmark to all watches.
    pub fn bookmark(&self) {
        let mut world = self.world();
        let version = world.version;
        world.entries.push(Entry::Bookmark { version });
        drop(world);
        self.tell();
    }

    /// Forgets everything but the present: watches and pages from older versions are gone.
    pub fn compact(&self) {
        let mut world = self.world();
        world.remembered_from = world.version;
    }

    /// Goes back to the state of an older version, as an etcd restored from a backup. Watches end.
    pub fn restore(&self, version: u64) {
        let mut world = self.world();
        world.entries.retain(|entry| entry.version() <= version);
        world.version = version;
        world.epoch += 1;
        drop(world);
        self.tell();
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.world().version
    }

    /// How current the server is from now on.
    pub fn set_replica(&self, replica: Replica) {
        self.world().replica = replica;
        self.tell();
    }

    /// Makes this a server that does not know streaming lists.
    pub fn without_streaming_lists(self) -> Self {
        self.world().has_streaming_lists = false;
        self
    }

    /// Denies all such requests with this code, or (`None`) no more.
    pub fn deny(&self, kind: Kind, wants: Wants, code: Option<u16>) {
        let mut world = self.world();
        match code {
            Some(code) => world.denied.insert((kind, wants), code),
            None => world.denied.remove(&(kind, wants)),
        };
    }

    /// From now on requests need this bearer token.
    pub fn require_token(&self, token: &str) {
        self.world().token = Some(token.into());
    }

    /// The next such request that has no fault yet gets this one.
    pub fn fault(&self, kind: Kind, wants: Wants, fault: Fault) {
        self.world().faults.push_back((kind, wants, fault));
    }

    /// What was asked of one kind so far.
    pub fn received(&self, kind: Kind) -> Vec<Received> {
        self.world().received.iter().filter(|received| received.kind == kind).cloned().collect()
    }

    /// A client that calls this server without a network. Must be called inside a runtime.
    pub fn client(&self) -> kube::Client {
        let router = self.router();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            router.clone().oneshot(request.map(Body::new))
        });
        kube::Client::new(service, "default")
    }

    /// Serves on a port of this machine until the runtime ends.
    pub async fn serve(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = self.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    fn router(&self) -> axum::Router {
        axum::Router::new().fallback(answer).with_state(self.clone())
    }
}

impl Entry {
    fn version(&self) -> u64 {
        match self {
            Self::Change { version, .. } | Self::Bookmark { version } => *version,
        }
    }
}

impl World {
    fn change(&mut self, kind: Kind, before: Option<Value>, mut after: Option<Value>) -> u64 {
        self.version += 1;
        if let Some(object) = &mut after {
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        }
        self.entries.push(Entry::Change { version: self.version, kind, before, after });
        self.version
    }

    /// The objects of a kind as they were at a version.
    fn objects(&self, kind: Kind, at: u64) -> BTreeMap<String, Value> {
        let mut objects = BTreeMap::new();
        for entry in &self.entries {
            if let Entry::Change { version, kind: of, before, after } = entry
                && *version <= at
                && *of == kind
            {
                match (before, after) {
                    (_, Some(object)) => objects.insert(id(object), object.clone()),
                    (Some(object), None) => objects.remove(&id(object)),
                    (None, None) => None,
                };
            }
        }
        objects
    }

    fn named(&self, kind: Kind, name: &str) -> Value {
        let objects = self.objects(kind, u64::MAX);
        let found = objects.into_values().find(|object| object["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("there is no {kind:?} {name}"))
    }

    /// The newest version that this server knows.
    fn visible(&self) -> u64 {
        match self.replica {
            Replica::Current => self.version,
            Replica::Behind(version) | Replica::Lying(version) => version,
        }
    }

    /// The version to answer with, or the status that refuses.
    fn answerable(&self, parameters: &BTreeMap<String, String>) -> Result<u64, Value> {
        let wanted = parameters.get("resourceVersion").map_or("", String::as_str);
        let visible = self.visible();
        match (self.replica, wanted.parse::<u64>()) {
            // A consistent read waits for what etcd has, in vain.
            (Replica::Behind(_), Err(_)) => Err(too_large(self.version, visible)),
            (Replica::Behind(_) | Replica::Current, Ok(wanted)) if wanted > visible => {
                Err(too_large(wanted, visible))
            }
            _ => Ok(visible),
        }
    }
}

fn id(object: &Value) -> String {
    let metadata = &object["metadata"];
    format!("{}/{}", metadata["namespace"].as_str().unwrap_or_default(), metadata["name"].as_str().unwrap())
}

async fn answer(State(server): State<FakeApiServer>, request: Request<Body>) -> Response<Body> {
    let form = server.world().form.of(request.headers());
    let Some(kind) = Kind::of_path(request.uri().path()) else {
        return form.status(&failure(404, "NotFound", "the server could not find the requested resource"));
    };
    let parameters = query(request.uri().query().unwrap_or_default());
    let is = |name: &str| parameters.get(name).is_some_and(|value| value == "true");
    let wants = match (is("watch"), is("sendInitialEvents")) {
        (false, _) => Wants::List,
        (true, false) => Wants::Watch,
        (true, true) => Wants::Stream,
    };
    let bearer = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let fault = {
        let mut world = server.world();
        let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let accept = accept.unwrap_or_default().to_owned();
        world.received.push(Received { kind, wants, parameters: parameters.clone(), accept });
        if let Some(token) = &world.token
            && bearer != Some(&format!("Bearer {token}"))
        {
            return form.status(&failure(401, "Unauthorized", "Unauthorized"));
        }
        if let Some(code) = world.denied.get(&(kind, wants)) {
            return form.status(&denial(*code, kind, wants));
        }
        let position = world.faults.iter().position(|(of, to, _)| (*of, *to) == (kind, wants));
        position.and_then(|position| world.faults.remove(position)).map(|(.., fault)| fault)
    };
    match &fault {
        Some(Fault::Status(code)) => return form.status(&failure(*code, "", "told to fail")),
        Some(Fault::Plain(code, seconds)) => {
            let response = Response::builder().status(*code).header(header::RETRY_AFTER, *seconds);
            return response.body(Body::from("Too many requests, please try again later.\n")).unwrap();
        }
        Some(Fault::Silence) => std::future::pending().await,
        _ => {}
    }
    if wants == Wants::Stream && !server.world().has_streaming_lists {
        let message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the \
                       WatchList feature gate is enabled";
        return form.status(&failure(422, "Invalid", message));
    }
    match wants {
        Wants::List => list(&server, form, kind, &parameters, fault.as_ref()),
        Wants::Watch | Wants::Stream => open_watch(server, form, kind, wants, parameters, fault.as_ref()),
    }
}

fn list(
    server: &FakeApiServer,
    form: Form,
    kind: Kind,
    parameters: &BTreeMap<String, String>,
    fault: Option<&Fault>,
) -> Response<Body> {
    let world = server.world();
    // A ticket is "version:index".
    let (at, skip) = match parameters.get("continue").map(|ticket| ticket.split_once(':').unwrap()) {
        Some((version, skip)) => {
            let version: u64 = version.parse().unwrap();
            if version < world.remembered_from {
                return form.status(&failure(410, "Expired", "The provided continue parameter is too old"));
            }
            (version, skip.parse().unwrap())
        }
        None => match world.answerable(parameters) {
            Ok(version) => (version, 0),
            Err(refusal) => return form.status(&refusal),
        },
    };
    let objects = world.objects(kind, at);
    let matching: Vec<&Value> = objects.values().filter(|object| matches(object, parameters)).collect();
    let limit = parameters.get("limit").map_or(usize::MAX, |text| text.parse().unwrap());
    let rest = matching.len().saturating_sub(skip).saturating_sub(limit);
    let mut metadata = json!({"resourceVersion": at.to_string()});
    if rest > 0 {
        metadata["continue"] = json!(format!("{at}:{}", skip + limit));
        metadata["remainingItemCount"] = json!(rest);
    }
    let items: Vec<&Value> = matching.into_iter().skip(skip).take(limit).collect();
    let bytes = form.list(&metadata, &items);
    let half = bytes[..bytes.len() / 2].to_vec();
    let pieces = match fault {
        Some(Fault::StallAfter(_)) => vec![Piece::Bytes(half), Piece::Stall],
        Some(Fault::CutAfter(_)) => vec![Piece::Bytes(half), Piece::Cut],
        Some(Fault::EndAfter(_)) => vec![Piece::Bytes(half)],
        Some(Fault::Trickle(pause)) => trickle(&bytes, *pause),
        _ => vec![Piece::Bytes(bytes)],
    };
    form.respond(stream::iter(pieces))
}

/// An open watch.
struct Watch {
    server: FakeApiServer,
    form: Form,
    kind: Kind,
    parameters: BTreeMap<String, String>,
    /// Events to send before looking for news.
    events: VecDeque<Vec<u8>>,
    /// The next entry to look at.
    entry: usize,
    epoch: u32,
    news: watch::Receiver<u64>,
    ends: tokio::time::Instant,
}

fn open_watch(
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
        _ => {}
    }
    let entry = world.entries.iter().take_while(|entry| entry.version() <= from).count();
    let epoch = world.epoch;
    drop(world);
    let seconds = parameters.get("timeoutSeconds").map_or(1800, |text| text.parse().unwrap());
    let ends = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let watch = Watch { server, form, kind, parameters, events, entry, epoch, news, ends };
    let events = stream::unfold(watch, |mut watch| async { watch.next().await.map(|event| (event, watch)) });
    let pieces: Pin<Box<dyn Stream<Item = Piece> + Send>> = match fault {
        Some(&Fault::StallAfter(count)) => {
            Box::pin(events.take(count).map(Piece::Bytes).chain(stream::iter([Piece::Stall])))
        }
        Some(&Fault::CutAfter(count)) => {
            Box::pin(events.take(count).map(Piece::Bytes).chain(stream::iter([Piece::Cut])))
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
        let (version, kind, before, after) = match entry {
            Entry::Bookmark { version } => {
                return Some(self.form.event("BOOKMARK", &bookmark(self.kind, *version)));
            }
            Entry::Change { version, kind, before, after } => (version, kind, before, after),
        };
        if *kind != self.kind {
            return None;
        }
        // As the real one: an object that stops to match is deleted, with its last matching content.
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

fn bookmark(kind: Kind, version: u64) -> Value {
    let name = match kind {
        Kind::Services => "Service",
        Kind::Slices => "EndpointSlice",
        Kind::Nodes => "Node",
    };
    json!({"kind": name, "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}})
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

fn denial(code: u16, kind: Kind, wants: Wants) -> Value {
    if code == 401 {
        return failure(401, "Unauthorized", "Unauthorized");
    }
    let verb = if wants == Wants::List { "list" } else { "watch" };
    let resource = kind.resource();
    let message = format!("{resource} is forbidden: User \"nobody\" cannot {verb} resource \"{resource}\"");
    failure(code, "Forbidden", &message)
}

fn too_large(wanted: u64, known: u64) -> Value {
    let message = format!("Too large resource version: {wanted}, current: {known}");
    let mut status = failure(504, "Timeout", &message);
    status["details"] = json!({
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    });
    status
}

/// Whether an object passes the request's selectors, of the forms that kube-ipvs uses: `!label`, `field=value`,
/// `field!=value`.
fn matches(object: &Value, parameters: &BTreeMap<String, String>) -> bool {
    let terms = |name: &str| {
        let selector = parameters.get(name).map_or("", String::as_str);
        selector.split(',').filter(|term| !term.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let field = |path: &str| {
        let value = path.split('.').fold(object, |value, name| &value[name]);
        value.as_str().unwrap_or_default().to_owned()
    };
    let label_passes = |term: &String| match term.strip_prefix('!') {
        Some(label) => object["metadata"]["labels"].get(label).is_none(),
        None => panic!("an unexpected label selector: {term}"),
    };
    let field_passes = |term: &String| match (term.split_once("!="), term.split_once('=')) {
        (Some((path, value)), _) => field(path) != value,
        (None, Some((path, value))) => field(path) == value,
        (None, None) => panic!("an unexpected field selector: {term}"),
    };
    terms("labelSelector").iter().all(label_passes) && terms("fieldSelector").iter().all(field_passes)
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

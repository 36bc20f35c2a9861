//! An API server that fails on demand.
//!
//! It keeps objects of the three kinds that kube-ipvs watches, with one version counter, and answers lists and watches
//! as a real one does: pages, selectors, streaming lists, bookmarks, `NotOlderThan`, 410 for forgotten versions. What a
//! real one does rarely, this one does on demand ([`Fault`], [`Replica`]). It writes protocol buffers or JSON
//! ([`Form`]), whichever the test allows and the client accepts.
//!
//! It is reached in two ways: by a client that calls it directly ([`FakeApiServer::client`]), so that tests run with a
//! paused clock and never wait, and over TCP ([`FakeApiServer::serve`]).

mod answer;
mod requests;
mod selectors;
mod statuses;
mod watches;
mod world;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use serde_json::Value;
use tokio::sync::watch;
use tower::ServiceExt as _;

pub use self::answer::Form;
use self::world::{Entry, World, id};

thread_local! {
    static FORM: Cell<Form> = const { Cell::new(Form::Protobuf) };
}

/// Sets the encoding that servers created on this thread from now on prefer.
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
    /// Never any answer.
    Silence,
    /// The answer stops after this many lines, without an end (a list stops in its middle).
    StallAfter(usize),
    /// The answer breaks off after this many lines (a list breaks off in its middle).
    CutAfter(usize),
    /// The answer breaks off after this time.
    CutIn(Duration),
    /// The answer ends, as if it were complete, after this many lines (a list ends in its middle).
    EndAfter(usize),
    /// The answer comes 64 bytes at a time, with a pause before each piece.
    Trickle(Duration),
    /// This line comes first: an event as a line of JSON, or nonsense.
    Line(String),
    /// These lines come first in a watch, and in a streaming list after the objects, before the bookmark that ends it.
    Lines(Vec<String>),
}

/// How current the server's picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replica {
    /// Complete.
    Current,
    /// Stuck at a version, and says so: it refuses newer versions and consistent reads.
    Behind(u64),
    /// Stuck at a version, and answers every request from it.
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
    /// The header `User-Agent`.
    pub user_agent: String,
}

impl Received {
    /// A query parameter, `-` where it is not given.
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("-", String::as_str)
    }
}

/// The server; clones share it.
#[derive(Clone)]
pub struct FakeApiServer {
    world: Arc<Mutex<World>>,
    /// Changes when watches have new entries to look at.
    news: Arc<watch::Sender<u64>>,
}

impl FakeApiServer {
    /// A server without objects, at version 100.
    pub fn new() -> Self {
        Self { world: Arc::new(Mutex::new(World::new(FORM.get()))), news: Arc::new(watch::channel(0).0) }
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

    /// Deletes an object; returns the version of the deletion.
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

    /// Forgets everything but the present: older versions can no longer be watched or paged through.
    pub fn compact(&self) {
        let mut world = self.world();
        world.remembered_from = world.version;
    }

    /// Returns to the state of an older version, as an etcd restored from a backup does. Watches end.
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

    /// Sets how current the server is from now on.
    pub fn set_replica(&self, replica: Replica) {
        self.world().replica = replica;
        self.tell();
    }

    /// Makes this a server that does not know streaming lists.
    pub fn without_streaming_lists(self) -> Self {
        self.world().has_streaming_lists = false;
        self
    }

    /// Sets whether this server knows the field selector for cluster IPs from now on, as servers since 1.31 do.
    pub fn selects_services(&self, knows: bool) {
        self.world().selects_services = knows;
    }

    /// Denies all such requests with this code from now on; `None`: allows them again.
    pub fn deny(&self, kind: Kind, wants: Wants, code: Option<u16>) {
        let mut world = self.world();
        match code {
            Some(code) => world.denied.insert((kind, wants), code),
            None => world.denied.remove(&(kind, wants)),
        };
    }

    /// Requires this bearer token of requests from now on.
    pub fn require_token(&self, token: &str) {
        self.world().token = Some(token.into());
    }

    /// Gives this fault to the next such request that has none yet.
    pub fn fault(&self, kind: Kind, wants: Wants, fault: Fault) {
        self.world().faults.push_back((kind, wants, fault));
    }

    /// The requests for one kind so far.
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
        axum::Router::new().fallback(requests::answer).with_state(self.clone())
    }
}

//! A running source, and its events as text that can be compared.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kube_ipvs::api::watch::{ApiSource, Error, Monitor, Settings};
use kube_ipvs::api::{Change, Event};
use kube_ipvs::cluster::types::{EndpointSlice, Node, Service};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// A test: a function that makes a future.
pub type Test = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// Lists the tests of a file in `const TESTS`, for `main`.
macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        /// The tests of this file: name and body.
        pub const TESTS: &[(&str, $crate::session::Test)] =
            &[$((stringify!($name), || Box::pin($name()))),+];
    };
}
pub(crate) use tests;

thread_local! {
    static PAUSED: Cell<bool> = const { Cell::new(false) };
}

/// The name of the node that sessions watch.
pub const NODE: &str = "worker";

/// Runs a test with a clock that stands still while there is work, and jumps to the next deadline when there is none.
/// Only for tests without a network.
pub fn paused(test: impl Future<Output = ()>) {
    PAUSED.set(true);
    runtime(true).block_on(test);
}

/// Runs a test with the real clock.
pub fn on_the_clock(test: impl Future<Output = ()>) {
    PAUSED.set(false);
    runtime(false).block_on(test);
}

fn runtime(paused: bool) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(paused).build().unwrap()
}

/// The kind of objects that an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Services,
    Slices,
    Node,
    OtherNodes,
}

/// A running source.
pub struct Session {
    events: mpsc::Receiver<Event>,
    waiting: [VecDeque<String>; 4],
    monitors: Vec<Monitor>,
    pub shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Session {
    pub fn start(client: kube::Client, settings: Settings) -> Self {
        Self::with_capacity(client, settings, 64)
    }

    pub fn with_capacity(client: kube::Client, settings: Settings, capacity: usize) -> Self {
        Self::of(ApiSource::new(client, NODE.into()).with_settings(settings), capacity)
    }

    /// A session that watches all other nodes too.
    pub fn with_other_nodes(client: kube::Client) -> Self {
        Self::of(ApiSource::new(client, NODE.into()).with_other_nodes(), 64)
    }

    fn of(source: ApiSource, capacity: usize) -> Self {
        let (sender, events) = mpsc::channel(capacity);
        let (monitors, shutdown) = (source.monitors(), CancellationToken::new());
        let task = tokio::spawn(source.run(sender, shutdown.clone()));
        Self { events, waiting: Default::default(), monitors, shutdown, task }
    }

    /// The next event about one kind. With a paused clock, an hour may pass (in no time); otherwise a minute.
    pub async fn next(&mut self, of: Of) -> String {
        loop {
            if let Some(text) = self.waiting[of as usize].pop_front() {
                return text;
            }
            let event = timeout(patience(), self.events.recv()).await;
            let event =
                event.unwrap_or_else(|_| panic!("no event about {of:?}; status {:?}", self.status(of)));
            let (about, text) = describe(&event.expect("the source ended"));
            self.waiting[about as usize].push_back(text);
        }
    }

    /// The three first complete sets, in the order Services, slices, node.
    pub async fn first(&mut self) -> [String; 3] {
        [self.next(Of::Services).await, self.next(Of::Slices).await, self.next(Of::Node).await]
    }

    /// Lets time pass, and asserts that no event about one kind comes meanwhile.
    pub async fn nothing_for(&mut self, of: Of, duration: Duration) {
        let end = tokio::time::Instant::now() + duration;
        while let Ok(event) = tokio::time::timeout_at(end, self.events.recv()).await {
            let (about, text) = describe(&event.expect("the source ended"));
            self.waiting[about as usize].push_back(text);
        }
        assert_eq!(self.waiting[of as usize], VecDeque::<String>::new());
    }

    pub fn status(&self, of: Of) -> kube_ipvs::api::watch::Status {
        self.monitors[of as usize].status.borrow().clone()
    }

    /// Waits until the status meets the demand.
    pub async fn until(&mut self, of: Of, demand: impl FnMut(&kube_ipvs::api::watch::Status) -> bool) {
        let waiting = self.monitors[of as usize].status.wait_for(demand);
        timeout(patience(), waiting).await.expect("the status does not become what it should").unwrap();
    }

    /// The counters: received, ignored, refused, relists, errors.
    pub fn counters(&self, of: Of) -> [u64; 5] {
        let counters = &self.monitors[of as usize].counters;
        [
            &counters.events_received,
            &counters.objects_ignored,
            &counters.objects_refused,
            &counters.relists,
            &counters.errors,
        ]
        .map(|counter| counter.load(Ordering::Relaxed))
    }

    /// Drops the reader, and waits for the source to end.
    pub async fn without_reader(self) -> Result<(), Error> {
        drop(self.events);
        timeout(patience(), self.task).await.expect("the source does not end").unwrap()
    }

    /// How many objects are invalid now.
    pub fn refused_now(&self, of: Of) -> u64 {
        self.monitors[of as usize].counters.refused_now.load(Ordering::Relaxed)
    }

    /// Waits for the source to end, by itself or because of a shutdown; nobody reads events meanwhile.
    pub async fn end(self) -> Result<(), Error> {
        let _events = self.events;
        timeout(patience(), self.task).await.expect("the source does not end").unwrap()
    }
}

/// How long something that must happen may take: longer than any backoff where the clock is paused.
fn patience() -> Duration {
    if PAUSED.get() { Duration::from_hours(1) } else { Duration::from_mins(1) }
}

fn describe(event: &Event) -> (Of, String) {
    match event {
        Event::Service(change) => (Of::Services, change_text(change, ToString::to_string, service_text)),
        Event::Slice(change) => (Of::Slices, change_text(change, ToString::to_string, slice_text)),
        Event::Node(change) => (Of::Node, change_text(change, ToString::to_string, node_text)),
        Event::OtherNode(change) => (Of::OtherNodes, change_text(change, ToString::to_string, node_text)),
        Event::NodeAddresses(addresses) => panic!("not from an API server: {addresses:?}"),
    }
}

fn change_text<K, T>(
    change: &Change<K, T>,
    key: impl Fn(&K) -> String,
    item: impl Fn(&T) -> String,
) -> String {
    match change {
        Change::Upsert(object) => format!("upsert {}", item(object)),
        Change::Delete(object) => format!("delete {}", key(object)),
        Change::Replace(objects) => {
            let objects: Vec<String> = objects.iter().map(item).collect();
            format!("replace [{}]", objects.join(", "))
        }
    }
}

fn service_text(service: &Service) -> String {
    let mut text = service.key.to_string();
    for address in &service.cluster_ips {
        write!(text, " {address}").unwrap();
    }
    for port in &service.ports {
        write!(text, ":{}", port.port).unwrap();
    }
    text
}

fn slice_text(slice: &EndpointSlice) -> String {
    let endpoints: Vec<String> =
        slice.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
    format!("{} of {} ({})", slice.key, slice.service, endpoints.join(" "))
}

fn node_text(node: &Node) -> String {
    let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
    format!("{} ({})", node.name, addresses.join(" "))
}

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// The warnings and notices that the source logs in the test on this thread.
pub struct Log(());

impl Log {
    /// Collects from now on for all threads: with a subscriber on some threads only, `tracing` now and then remembers
    /// that nobody is interested.
    pub fn install() {
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Collector))
            .expect("nobody else sets one");
    }

    /// Begins with an empty log.
    pub fn begin() -> Self {
        LINES.take();
        Self(())
    }

    /// The lines so far that contain this text.
    #[expect(clippy::unused_self, reason = "only a log that was begun has only lines of this test")]
    pub fn with(&self, text: &str) -> Vec<String> {
        LINES.with_borrow(|lines| lines.iter().filter(|line| line.contains(text)).cloned().collect())
    }
}

struct Collector;

impl<S: tracing::Subscriber> Layer<S> for Collector {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        if *event.metadata().level() <= tracing::Level::INFO {
            let mut line = Line(String::new());
            event.record(&mut line);
            LINES.with_borrow_mut(|lines| lines.push(line.0));
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0.insert_str(0, &format!("{value:?}"));
        } else {
            write!(self.0, " {}={value:?}", field.name()).unwrap();
        }
    }
}

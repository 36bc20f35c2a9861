//! Kubernetes Events about this program (events.k8s.io/v1, contract 10.1), for people who ask the API server what
//! happens on a node. Best effort: nothing waits for an Event, and one that cannot be sent soon is dropped.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cluster::types::{ServiceKey, Uid};

/// The reporting controller, a name that people filter by.
const CONTROLLER: &str = "kube-proxy";
/// What the API allows in `reportingInstance`, in bytes.
const LONGEST_INSTANCE: usize = 128;
/// What the API allows in `note`, in bytes.
const LONGEST_NOTE: usize = 1024;
/// How many Events may wait to be sent; more are dropped.
const WAITING: usize = 64;
/// How many times one Event is tried.
const ATTEMPTS: u32 = 5;
/// How long the server may take to answer one Event.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_secs(10);
/// How long the program's exit waits for Events that are still to be sent.
const FAREWELL: Duration = Duration::from_secs(1);

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// What it is about.
    pub regarding: Regarding,
    /// Whether something is wrong.
    pub warning: bool,
    /// The reason in one word, which people filter by.
    pub reason: &'static str,
    /// What was being done, in one word.
    pub action: &'static str,
    /// The same in a sentence.
    pub note: String,
}

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Regarding {
    /// This node.
    Node,
    /// A Service.
    Service {
        /// Its name.
        key: ServiceKey,
        /// The uid of the object.
        uid: Option<Uid>,
    },
}

/// Takes what happens, without ever waiting.
#[derive(Clone, Debug)]
pub struct Events {
    sender: Option<mpsc::Sender<Happening>>,
}

impl Events {
    /// Sends to nobody: there is no API server.
    pub fn to_nobody() -> Self {
        Self { sender: None }
    }

    /// Sends to the API server, by [`Teller::run`].
    pub fn to(client: Client, node_name: Arc<str>) -> (Self, Teller) {
        let (sender, happenings) = mpsc::channel(WAITING);
        (Self { sender: Some(sender) }, Teller { client, node_name, happenings })
    }

    /// Sends to the holder of the receiver.
    #[cfg(test)]
    pub(crate) fn to_channel() -> (Self, mpsc::Receiver<Happening>) {
        let (sender, happenings) = mpsc::channel(WAITING);
        (Self { sender: Some(sender) }, happenings)
    }

    /// Takes something that happened.
    pub fn tell(&self, happening: Happening) {
        if let Some(sender) = &self.sender
            && sender.try_send(happening).is_err()
        {
            tracing::debug!("Too many Kubernetes Events wait to be sent, dropping one");
        }
    }
}

/// Sends Events to the API server.
pub struct Teller {
    client: Client,
    node_name: Arc<str>,
    happenings: mpsc::Receiver<Happening>,
}

impl Teller {
    /// Runs until nothing more can happen, or until `shutdown`; what happened before that is still tried once.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut instance = format!("{CONTROLLER}-{}", self.node_name);
        instance.truncate(instance.floor_char_boundary(LONGEST_INSTANCE));
        let reporter = Reporter { controller: CONTROLLER.into(), instance: Some(instance) };
        let (client, node_name, mut unfinished) = (self.client, self.node_name, None);
        let publish = async |happening: &Happening| publish(&client, &reporter, &node_name, happening).await;
        let mut refused_before = false;
        let tell_all = async {
            while let Some(happening) = self.happenings.recv().await {
                let happening = unfinished.insert(happening);
                for attempt in 0..ATTEMPTS {
                    if attempt > 0 {
                        tokio::time::sleep(PAUSE).await;
                    }
                    match publish(happening).await {
                        Published::Taken => break,
                        Published::Refused(error) => {
                            tell_refusal(&error, happening.reason, &mut refused_before);
                            break;
                        }
                        Published::Failed => {}
                    }
                }
                unfinished = None;
            }
        };
        // Cancel-safe: the Event that is being sent stays in `unfinished` and is tried once more below.
        if shutdown.run_until_cancelled(tell_all).await.is_some() {
            return;
        }
        let farewell = async {
            let rest = std::iter::from_fn(|| self.happenings.try_recv().ok());
            for happening in unfinished.into_iter().chain(rest) {
                if let Published::Refused(error) = publish(&happening).await {
                    tell_refusal(&error, happening.reason, &mut refused_before);
                }
            }
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
}

/// What became of an Event.
enum Published {
    Taken,
    /// The server would refuse it the next time as well.
    Refused(kube::Error),
    /// It may be tried again.
    Failed,
}

async fn publish(client: &Client, reporter: &Reporter, node_name: &str, happening: &Happening) -> Published {
    let (event, regarding) = as_event(happening, node_name);
    // Each Event gets a recorder of its own: for some minutes, a recorder would take another note about the same thing
    // for a repetition of the first one, and only count that one up.
    let recorder = Recorder::new(client.clone(), reporter.clone());
    match tokio::time::timeout(ANSWER_TIMEOUT, recorder.publish(&event, &regarding)).await {
        Ok(Ok(())) => Published::Taken,
        Err(_) => {
            tracing::debug!(
                reason = happening.reason,
                "The API server did not answer a Kubernetes Event in time"
            );
            Published::Failed
        }
        Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
            Published::Refused(kube::Error::Api(status))
        }
        Ok(Err(error)) => {
            tracing::debug!(
                err = %error, reason = happening.reason,
                "Cannot send a Kubernetes Event to the API server"
            );
            Published::Failed
        }
    }
}

/// Logs the first refusal as a warning: without it, people would look in vain for Events when the role lacks a right.
/// Further refusals most likely have the same cause.
fn tell_refusal(error: &kube::Error, reason: &str, refused_before: &mut bool) {
    if std::mem::replace(refused_before, true) {
        tracing::debug!(err = %error, reason, "The API server refuses an Event");
    } else {
        tracing::warn!(err = %error, reason, "The API server refuses an Event; further refusals are logged from -v=4 on");
    }
}

fn as_event(happening: &Happening, node_name: &str) -> (Event, ObjectReference) {
    // `kubectl describe` asks for Events of a Service by name and uid, and for Events of a node by a uid that is its
    // name.
    let (kind, namespace, name, uid) = match &happening.regarding {
        Regarding::Node => ("Node", None, node_name, Some(node_name.to_owned())),
        Regarding::Service { key, uid } => {
            ("Service", Some(key.namespace()), key.name(), uid.map(|uid| uid.to_string()))
        }
    };
    let regarding = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some(kind.into()),
        namespace: namespace.map(Into::into),
        name: Some(name.into()),
        uid,
        ..ObjectReference::default()
    };
    let mut note = happening.note.clone();
    note.truncate(note.floor_char_boundary(LONGEST_NOTE));
    let event = Event {
        type_: if happening.warning { EventType::Warning } else { EventType::Normal },
        reason: happening.reason.into(),
        note: Some(note),
        action: happening.action.into(),
        secondary: None,
    };
    (event, regarding)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU16, Ordering};

    use kube::client::Body;
    use tower::service_fn;

    use super::*;

    /// An API server that answers everything with this status, and remembers what it was told.
    fn server(status: Arc<AtomicU16>, told: Arc<Mutex<Vec<String>>>) -> Client {
        let answer = move |request: http::Request<Body>| {
            let (status, told) = (Arc::clone(&status), Arc::clone(&told));
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect_bytes().await.unwrap();
                let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
                told.lock().unwrap().push(format!("{path} {}", body["reason"].as_str().unwrap()));
                let code = status.load(Ordering::Relaxed);
                let answer = match code {
                    200 => body.to_string(),
                    code => format!("{{\"kind\":\"Status\",\"code\":{code},\"message\":\"no\"}}"),
                };
                let response = http::Response::builder().status(code).body(Body::from(answer.into_bytes()));
                Ok::<_, Infallible>(response.unwrap())
            }
        };
        Client::new(service_fn(answer), "default")
    }

    fn happening(regarding: Regarding, reason: &'static str) -> Happening {
        Happening { regarding, warning: false, reason, action: "Test", note: "a test".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_happens_is_told_in_order_and_tried_again() {
        let (status, told) = (Arc::new(AtomicU16::new(503)), Arc::default());
        let client = server(Arc::clone(&status), Arc::clone(&told));
        let (events, teller) = Events::to(client, "here".into());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(teller.run(shutdown.clone()));
        events.tell(happening(Regarding::Node, "Starting"));
        let dns = Regarding::Service { key: ServiceKey::new("kube-system", "dns"), uid: None };
        events.tell(happening(dns, "Failed"));
        tokio::time::sleep(PAUSE / 2).await;
        status.store(200, Ordering::Relaxed);
        tokio::time::sleep(PAUSE * 2).await;
        let of = |namespace, reason| format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events {reason}");
        let expected = [of("default", "Starting"), of("default", "Starting"), of("kube-system", "Failed")];
        assert_eq!(*told.lock().unwrap(), expected);
        // A refused Event is not tried again, and what is left at the end is tried once.
        status.store(403, Ordering::Relaxed);
        events.tell(happening(Regarding::Node, "Refused"));
        tokio::time::sleep(PAUSE * 2).await;
        status.store(503, Ordering::Relaxed);
        events.tell(happening(Regarding::Node, "Unlucky"));
        tokio::time::sleep(PAUSE / 2).await;
        events.tell(happening(Regarding::Node, "Last"));
        shutdown.cancel();
        task.await.unwrap();
        let told = told.lock().unwrap();
        let reasons: Vec<_> = told[3..].iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
        assert_eq!(reasons, ["Refused", "Unlucky", "Unlucky", "Last"]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_note_about_the_same_thing_is_another_event() {
        let (status, told) = (Arc::new(AtomicU16::new(200)), Arc::default());
        let (events, teller) = Events::to(server(status, Arc::clone(&told)), "here".into());
        let dns = Regarding::Service { key: ServiceKey::new("kube-system", "dns"), uid: None };
        for note in ["one address", "another address"] {
            events.tell(Happening { note: note.into(), ..happening(dns.clone(), "Failed") });
        }
        drop(events);
        teller.run(CancellationToken::new()).await;
        let new = "/apis/events.k8s.io/v1/namespaces/kube-system/events Failed";
        assert_eq!(*told.lock().unwrap(), [new; 2]);
    }

    #[test]
    fn what_an_event_is_about_is_named_as_kubectl_looks_for_it() {
        let reference = |regarding| {
            let (_, reference) = as_event(&happening(regarding, "Test"), "here");
            serde_json::to_value(reference).unwrap()
        };
        assert_eq!(
            reference(Regarding::Node),
            serde_json::json!({"apiVersion": "v1", "kind": "Node", "name": "here", "uid": "here"})
        );
        let service = |uid| Regarding::Service { key: ServiceKey::new("shop", "web"), uid };
        let unknown =
            serde_json::json!({"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web"});
        assert_eq!(reference(service(None)), unknown);
        let uid = "0c5a7bde-f012-4034-8967-89abcdef0100";
        let mut known = unknown;
        known["uid"] = uid.into();
        assert_eq!(reference(service(Uid::parse(uid))), known);
    }

    #[test]
    fn a_long_note_is_cut_to_what_the_api_takes() {
        let long = Happening { note: "é".repeat(600), ..happening(Regarding::Node, "Long") };
        let (event, _) = as_event(&long, "here");
        assert_eq!(event.note, Some("é".repeat(512)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_refusal_is_told_to_everybody() {
        let (log, _listening) = crate::telemetry::tests::listen();
        let (status, told) = (Arc::new(AtomicU16::new(503)), Arc::default());
        let (events, teller) = Events::to(server(Arc::clone(&status), Arc::clone(&told)), "here".into());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(teller.run(shutdown.clone()));
        events.tell(happening(Regarding::Node, "Unlucky"));
        tokio::time::sleep(PAUSE / 2).await;
        assert_eq!(log.lines_with("Event"), [""; 0], "it may go better the next time");
        status.store(403, Ordering::Relaxed);
        for _ in 0..3 {
            events.tell(happening(Regarding::Node, "Refused"));
        }
        tokio::time::sleep(PAUSE * 2).await;
        assert_eq!(told.lock().unwrap().len(), 5);
        let lines = log.lines_with("The API server refuses an Event");
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with('W') && lines[0].contains("reason=\"Unlucky\""), "{lines:?}");
        shutdown.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn nobody_waits_for_an_api_server_that_does_not_answer() {
        let never = service_fn(async |_: http::Request<Body>| {
            std::future::pending::<Result<http::Response<Body>, Infallible>>().await
        });
        let (events, teller) = Events::to(Client::new(never, "default"), "here".into());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(teller.run(shutdown.clone()));
        for _ in 0..WAITING * 3 {
            events.tell(happening(Regarding::Node, "Many"));
        }
        shutdown.cancel();
        tokio::time::timeout(FAREWELL * 3, task).await.unwrap().unwrap();
        Events::to_nobody().tell(happening(Regarding::Node, "Unheard"));
    }
}

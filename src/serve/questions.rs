//! `/services` and `/addresses`: what the loop knows of a Service or an address, and what became of it.
//!
//! The loop owns the data. So a question goes to the loop through a short queue, and is answered between two pieces of
//! work; whoever asks waits no longer than two seconds. This folder only knows how to write an answer, not what is in
//! it.

use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::Serialize;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::http::{JSON, typed};
use super::pages::plain;
use crate::cluster::types::ServiceKey;

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Why there may be no answer.
const WHY: &str = "The program has just started and is waiting for this node's Node object, or the kernel takes long for \
                   what it was asked to write. /healthz says more.";
/// How many questions may wait for the loop at once: more are turned away.
const WAITING: usize = 4;

/// What a question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// This Service.
    Service(ServiceKey),
    /// This address.
    Address(IpAddr),
    /// All Services that are in trouble.
    Troubles,
}

/// A question, with the channel for its answer.
#[derive(Debug)]
pub struct Question<A> {
    /// What it is about.
    pub about: About,
    back: oneshot::Sender<Result<A, String>>,
}

impl<A> Question<A> {
    /// Whether nobody waits for the answer any more.
    pub fn is_given_up(&self) -> bool {
        self.back.is_closed()
    }

    /// Answers; with a sentence where nothing is known of what was asked for.
    pub fn answer(self, answer: Result<A, String>) {
        // Somebody who gave up at this moment does not get it.
        let _ = self.back.send(answer);
    }
}

/// Asks the loop.
#[derive(Debug)]
pub struct Asker<A>(mpsc::Sender<Question<A>>);

impl<A> Clone for Asker<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The end that asks, and the end that questions come to.
pub fn channel<A>() -> (Asker<A>, mpsc::Receiver<Question<A>>) {
    let (sender, questions) = mpsc::channel(WAITING);
    (Asker(sender), questions)
}

impl<A: Serialize> Asker<A> {
    async fn ask(&self, about: About) -> Response {
        let (back, answer) = oneshot::channel();
        let unavailable = |text: &str| plain(StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n"));
        match self.0.try_send(Question { about, back }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return unavailable(&format!("Other questions wait for an answer already. {WHY}"));
            }
            Err(TrySendError::Closed(_)) => return unavailable("The program is ending."),
        }
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(Ok(answer))) => {
                let text = serde_json::to_string_pretty(&answer);
                typed(JSON, text.expect("texts, numbers, lists, and maps with text keys") + "\n")
            }
            Ok(Ok(Err(unknown))) => plain(StatusCode::NOT_FOUND, format!("{unknown}\n")),
            Ok(Err(_)) => unavailable("The program is ending."),
            Err(_) => unavailable(&format!("No answer within {} seconds. {WHY}", PATIENCE.as_secs())),
        }
    }
}

/// Answers `/services` and `/addresses`.
pub fn router<A: Serialize + Send + 'static>(asker: Asker<A>) -> Router {
    let of_service = {
        let asker = asker.clone();
        async move |Path((namespace, name)): Path<(String, String)>| {
            asker.ask(About::Service(ServiceKey::new(namespace, name))).await
        }
    };
    let of_address = {
        let asker = asker.clone();
        async move |Path(text): Path<String>| match text.parse() {
            Ok(address) => asker.ask(About::Address(address)).await,
            Err(_) => plain(StatusCode::BAD_REQUEST, format!("{text:?} is no IP address\n")),
        }
    };
    Router::new()
        .route("/services", get(async move || asker.ask(About::Troubles).await))
        .route("/services/{namespace}/{name}", get(of_service))
        .route("/addresses/{address}", get(of_address))
}

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::Duration;

use http::Method;
use kube::Client;
use kube::client::Body;
use tokio_util::sync::CancellationToken;
use tower::service_fn;

use super::*;
use crate::api::events::Events;
use crate::api::manifests::ManifestSource;
use crate::api::watch::ApiSource;
use crate::cluster::types::Family;
use crate::desired::settings::Supported;
use crate::options::{Command, from_args};
use crate::serve::metrics::Metrics;

/// An API server that accepts Events and answers nothing else, so it tells of no Node. `told` keeps the Events'
/// reasons.
fn server_without_answers(told: &Arc<Mutex<Vec<String>>>) -> Client {
    let told = Arc::clone(told);
    let answer = move |request: http::Request<Body>| {
        let told = Arc::clone(&told);
        async move {
            if request.method() != Method::POST {
                std::future::pending::<()>().await;
            }
            let body = request.into_body().collect_bytes().await.unwrap();
            let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
            told.lock().unwrap().push(event["reason"].as_str().unwrap().to_owned());
            Ok::<_, Infallible>(http::Response::new(Body::from(body.to_vec())))
        }
    };
    Client::new(service_fn(answer), "default")
}

#[tokio::test]
async fn an_address_in_use_ends_the_wait_for_the_node_where_the_user_wants_that() {
    let holder = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = holder.local_addr().unwrap();
    let words = [
        "--bind-address-hard-fail".to_owned(),
        format!("--healthz-bind-address={address}"),
        "--metrics-bind-address=".to_owned(),
    ];
    let command = from_args(words.into_iter().map(Into::into), std::iter::empty());
    let Ok(Command::Run(merged)) = command else { panic!("{command:?}") };
    let supported = Supported { families: Family::ALL.into(), kernel: (6, 12), missing: BTreeSet::new() };
    let (metrics, told) = (Arc::new(Metrics::new(&[], &[])), Arc::default());
    let client = server_without_answers(&told);
    let (_status, looked_at) = watch::channel(serve::Status::default());
    let mut tasks = Tasks::new();
    let (events, teller) = Events::to(client.clone(), "here".into());
    tasks.accompany(teller.run(tasks.shutdown()));
    let (asker, _) = serve::questions::channel();
    servers::start(&merged, &metrics, asker, &looked_at, &events, &mut tasks);

    let source = Opened::Api(Box::new(ApiSource::new(client, "here".into())));
    let (sender, _heard) = mpsc::channel(LISTS);
    let ended = async {
        let listened = source::listen(source, &merged.options, &supported, sender, &mut tasks).await;
        tasks.end(listened.map(|_| ())).await
    };
    let ended = tokio::time::timeout(Duration::from_secs(1), ended).await.expect("it ends at once");
    let error = format!("{:#}", ended.unwrap_err());
    assert!(
        error.starts_with(&format!("cannot serve healthz on {address}: Address already in use")),
        "{error}"
    );
    assert_eq!(*told.lock().unwrap(), ["FailedToStartProxierHealthcheck"]);
}

#[tokio::test]
async fn what_is_wrong_with_the_manifests_is_said_once() {
    let source = ManifestSource::new(vec!["/does/not/exist".into()], "here");
    let (sender, _heard) = mpsc::channel(1);
    let ended = Opened::Manifests(Box::new(source)).run(sender, CancellationToken::new()).await;
    assert_eq!(
        format!("{:#}", ended.unwrap_err()),
        "manifests: /does/not/exist: No such file or directory (os error 2)"
    );
}

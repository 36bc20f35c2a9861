use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::Duration;

use http::Method;
use kube::Client;
use kube::client::Body;
use tower::service_fn;

use super::*;
use crate::options::{Command, from_args};

/// An API server that takes Events, and answers nothing else: it tells of no Node. The reasons of the Events are kept.
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
    let (shutdown, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let (events, teller) = Events::to(client.clone(), "here".into());
    let stop = shutdown.clone();
    tasks.spawn(async move {
        teller.run(stop).await;
        Ok(())
    });
    let (asker, _) = serve::questions::channel();
    serve(&merged, &metrics, asker, &looked_at, &events, &shutdown, &mut tasks);

    let source = Opened::Api(Box::new(ApiSource::new(client, "here".into())));
    let (sender, _heard) = mpsc::channel(LISTS);
    let ended = async {
        let listened = listen(source, &merged.options, &supported, sender, &shutdown, &mut tasks).await;
        end(listened.map(|_| ()), tasks, &shutdown).await
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

#[test]
fn a_family_that_is_switched_off_is_none_of_this_kernels() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let put = |path: &str, text: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let has_v6 = || supported_families(root, |_| None).contains(&Family::V6);
    assert!(!has_v6(), "a kernel without it");
    put("proc/net/if_inet6", "");
    assert!(has_v6());
    for devices in ["all", "default"] {
        let path = format!("proc/sys/net/ipv6/conf/{devices}/disable_ipv6");
        put(&path, "1\n");
        assert!(!has_v6(), "{devices}");
        put(&path, "0\n");
        assert!(has_v6(), "{devices}");
    }
    let refused = |_| Some(Refusal { errno: 95, text: "Operation not supported".to_owned() });
    assert_eq!(supported_families(root, refused), [Family::V4].into(), "no packet filter for it");
    assert_eq!(supported_families(root, |_| None), Family::ALL.into());
}

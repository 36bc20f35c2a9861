//! The program, or another proxy, on the real API machinery. Everything happens from outside: objects come through the
//! API, and the kernel is polled.
//!
//! etcd is filled on the host, where that is quick, and its data copied into the lab.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kube::Client;
use kube_ipvs::api::client::connect;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::figures::{Figures, median_milliseconds};
use crate::input::{self, Size, endpoint_address, service_address, slice};
use crate::look::{Ipvs, servers};
use crate::program::Program;
use crate::real_apiserver::RealApiServer;

/// How many requests run at once while etcd is filled.
const REQUESTS: usize = 64;
/// How many changes are measured.
const CHANGES: u32 = 40;
/// The pause between two changes, and between two looks at a whole state.
const PAUSE: Duration = Duration::from_millis(50);
/// What takes longer is lost.
const LIMIT: Duration = Duration::from_mins(10);

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("a runtime")
}

/// On the host: fills an API server's etcd with the cluster. Its data is in the folder `etcd` of the result.
pub(crate) fn fill(size: Size) -> anyhow::Result<TempDir> {
    let data = tempfile::tempdir()?;
    runtime()?.block_on(async {
        let server = RealApiServer::start_at(Ipv4Addr::LOCALHOST, &[RANGE]).await;
        let client = server.client("admin").await;
        for namespace in input::namespaces() {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            create(&client, "/api/v1/namespaces", &object).await?;
        }
        create(&client, "/api/v1/nodes", &input::node()).await?;
        let slots = Arc::new(Semaphore::new(REQUESTS));
        let mut requests = tokio::task::JoinSet::new();
        for number in 0..size.services {
            let slot = Arc::clone(&slots).acquire_owned().await?;
            let client = client.clone();
            requests.spawn(async move {
                let _slot = slot;
                create(&client, &services(number), &input::service(number)).await?;
                create(&client, &slices(number), &slice(number, &input::endpoints(size, number))).await
            });
        }
        while let Some(request) = requests.join_next().await {
            request??;
        }
        server.end(&data.path().join("etcd")).await;
        anyhow::Ok(data)
    })
}

/// The range of the service addresses.
const RANGE: &str = "--service-cluster-ip-range=10.64.0.0/12";

fn services(number: u32) -> String {
    format!("/api/v1/namespaces/{}/services", input::namespace(number))
}

fn slices(number: u32) -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", input::namespace(number))
}

async fn create(client: &Client, path: &str, object: &Value) -> anyhow::Result<()> {
    let mut object = object.clone();
    for field in ["uid", "resourceVersion", "creationTimestamp", "ownerReferences"] {
        object["metadata"].as_object_mut().context("metadata")?.remove(field);
    }
    let request = http::Request::post(path).header("Content-Type", "application/json");
    let request = request.body(serde_json::to_vec(&object)?)?;
    client
        .request::<Value>(request)
        .await
        .with_context(|| format!("{path}: {}", object["metadata"]["name"]))?;
    Ok(())
}

/// In the lab: starts the program on the data, or the proxy that `peer` starts; `{kubeconfig}` in that line stands for
/// the file with its credentials.
pub(crate) fn measure(size: Size, data: &Path, peer: Option<&str>) -> anyhow::Result<Figures> {
    let runtime = runtime()?;
    let server = runtime.block_on(RealApiServer::start_with(data, &[RANGE]));
    let kubeconfig = server.kubeconfig("proxy");
    let admin = runtime.block_on(connect(Some(&server.kubeconfig("admin")), None))?;
    let mut figures = Figures::new();
    // The first fetch makes the API server fill its caches; a node joins a cluster where they are filled.
    fetch(&runtime, &kubeconfig)?;
    figures.insert("fetch_seconds".into(), fetch(&runtime, &kubeconfig)?.as_secs_f64());

    let text = kubeconfig.to_string_lossy();
    Program::warm_up()?;
    let started = Instant::now();
    let program = if let Some(line) = peer {
        Program::start_peer(&line.replace("{kubeconfig}", &text))?
    } else {
        let program = Program::start(&["--kubeconfig", &text])?;
        program.wait_complete()?;
        figures.insert("cold_seconds".into(), started.elapsed().as_secs_f64());
        program
    };
    // `default/kubernetes` is there, too. A look takes long, so only peers are measured by it.
    let real_servers = (size.services * size.endpoints) as usize;
    while servers()?.1 < real_servers {
        ensure!(started.elapsed() < LIMIT, "{:?} servers after {LIMIT:?}", servers()?);
        sleep(PAUSE);
    }
    figures.entry("cold_seconds".into()).or_insert(started.elapsed().as_secs_f64());
    sleep(Duration::from_secs(2));
    figures.insert("change_milliseconds".into(), changes(size, &runtime, &admin)?);
    figures.insert("steady_mebibytes".into(), program.memory()?.now);
    Ok(figures)
}

fn fetch(runtime: &Runtime, kubeconfig: &Path) -> anyhow::Result<Duration> {
    runtime.block_on(async { crate::live::fetch(connect(Some(kubeconfig), None).await?).await })
}

/// Replaces an endpoint of one Service after the other, timed from the API server's answer; returns the median.
fn changes(size: Size, runtime: &Runtime, admin: &Client) -> anyhow::Result<f64> {
    let mut ipvs = Ipvs::open()?;
    let mut times = Vec::new();
    for change in 0..CHANGES {
        let number = change * 7919 % size.services;
        let mut endpoints = input::endpoints(size, number);
        let new = endpoint_address(size.services * size.endpoints + 1 + change);
        endpoints.pop();
        endpoints.push(new);
        let mut object = slice(number, &endpoints);
        let name = object["metadata"]["name"].as_str().context("a name")?.to_owned();
        let body = json!({"endpoints": object["endpoints"].take()});
        let request = http::Request::patch(format!("{}/{name}", slices(number)))
            .header("Content-Type", "application/merge-patch+json")
            .body(serde_json::to_vec(&body)?)?;
        runtime.block_on(admin.request::<Value>(request))?;
        let answered = Instant::now();
        times.push(ipvs.wait_for(service_address(number), new)?.saturating_duration_since(answered));
        sleep(PAUSE);
    }
    Ok(median_milliseconds(times))
}

use std::io::Read as _;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// The level that was set; only one test sets it.
static VERBOSITY: AtomicU8 = AtomicU8::new(0);

/// The pages on a port of their own.
struct Served {
    address: std::net::SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn start(profiling: bool) -> Self {
        let metrics = Arc::new(Metrics::new(&[], &[]));
        metrics.kube_proxy.service_changes_total.inc();
        let flags = [("v", "2"), ("proxy-mode", "ipvs")].map(|(name, value)| (name.into(), value.into()));
        let shown = Shown {
            configuration: r#"{"mode":"ipvs"}"#.to_owned(),
            flags: flags.to_vec(),
            profiling: profiling.then_some(|level| VERBOSITY.store(level, Ordering::Relaxed)),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async { axum::serve(listener, router(metrics, shown)).await.unwrap() });
        Self { address, server }
    }

    /// Status, content type, body.
    async fn ask(&self, method: &str, path: &str, accept: &str, body: &str) -> (u16, String, String) {
        let (head, body) = self.ask_whole(method, path, accept, body).await;
        let content_type =
            head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
        (head[9..12].parse().unwrap(), content_type.to_owned(), body)
    }

    /// Head, with the end of its last line, and body.
    async fn ask_whole(&self, method: &str, path: &str, accept: &str, body: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{accept}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (format!("{head}\r\n"), body.to_owned())
    }

    /// Head and body of a page, for somebody who takes these encodings.
    async fn ask_encoded(&self, path: &str, encodings: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // In HTTP 1.0 there are no chunks.
        let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\nAccept-Encoding: {encodings}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end + 2].to_vec()).unwrap();
        (head, answer.split_off(end + 4))
    }

    async fn get(&self, path: &str) -> (u16, String, String) {
        self.ask("GET", path, "", "").await
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tokio::test]
async fn who_takes_compressed_metrics_gets_them() {
    let served = Served::start(false).await;
    // Only then is there a number on the second page.
    served.get("/healthz").await;
    for (path, line) in [
        ("/metrics", "kubeproxy_sync_proxy_rules_service_changes_total 1\n"),
        ("/metrics/slis", "# TYPE kubernetes_healthcheck gauge\n"),
    ] {
        // As Prometheus asks.
        let (head, body) = served.ask_encoded(path, "gzip").await;
        assert!(head.contains("\r\ncontent-encoding: gzip\r\n"), "{path}: {head}");
        assert!(head.contains("\r\nvary: accept-encoding\r\n"), "{path}: {head}");
        let mut text = String::new();
        flate2::read::GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
        assert!(text.contains(line), "{path}: {text}");
        for encodings in ["identity", "gzip;q=0", "br"] {
            let (head, body) = served.ask_encoded(path, encodings).await;
            assert!(!head.contains("content-encoding"), "{path}, {encodings}: {head}");
            assert!(String::from_utf8(body).unwrap().contains(line), "{path}, {encodings}");
        }
    }
    let (head, _) = served.ask_encoded("/configz", "gzip").await;
    assert!(!head.contains("content-encoding"), "{head}");
}

#[tokio::test]
async fn every_page_answers() {
    let served = Served::start(false).await;
    let (code, content_type, body) = served.get("/metrics").await;
    assert_eq!((code, &*content_type), (200, "text/plain; version=0.0.4; charset=utf-8"));
    assert!(body.contains("\nkubeproxy_sync_proxy_rules_service_changes_total 1\n"), "{body}");
    for (path, content_type, body) in [
        ("/proxyMode", TEXT, "ipvs"),
        ("/healthz", TEXT, "ok"),
        ("/healthz?verbose", TEXT, "[+]ping ok\nhealthz check passed\n"),
        ("/healthz?a=b&verbose=", TEXT, "[+]ping ok\nhealthz check passed\n"),
        ("/healthz?verbosely&a=verbose", TEXT, "ok"),
        ("/healthz/ping", TEXT, "ok"),
        ("/healthz/ping?verbose", TEXT, "ok"),
        ("/configz", JSON, r#"{"kubeproxy.config.k8s.io":{"mode":"ipvs"}}"#),
    ] {
        assert_eq!(served.get(path).await, (200, content_type.to_owned(), body.to_owned()), "{path}");
    }
    for path in ["/proxymode", "/", "/livez", "/debug/pprof/", "/debug/flags/v"] {
        assert_eq!(served.get(path).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn slis_count_checks_until_they_are_reset() {
    let served = Served::start(false).await;
    assert_eq!(served.get("/metrics/slis").await.2, "");
    served.get("/healthz").await;
    served.get("/healthz").await;
    let (_, content_type, body) = served.get("/metrics/slis").await;
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    let series: Vec<_> = body.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        series,
        [
            "kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1",
            "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"healthz\"} 2",
        ]
    );
    assert_eq!(served.ask("DELETE", "/metrics/slis", "", "").await.2, "metrics reset\n");
    assert_eq!(served.get("/metrics/slis").await.2, "");
}

#[tokio::test]
async fn z_pages_are_for_people_and_for_programs() {
    let served = Served::start(false).await;
    let (_, content_type, text) = served.get("/flagz").await;
    assert_eq!(content_type, TEXT);
    assert!(text.starts_with("\nkube-proxy flagz\nWarning: "), "{text}");
    assert!(text.ends_with("\n\nproxy-mode=ipvs\nv=2\n"), "{text}");
    let (_, _, text) = served.get("/statusz").await;
    for line in [
        "kube-proxy statusz",
        "Up: 0 hr 00 min 00 sec",
        concat!("Binary version: ", env!("CARGO_PKG_VERSION")),
        "Emulation version: 1.37",
        "Paths: /addresses/ /configz /flagz /healthz /healthz/ping /metrics /metrics/slis /proxyMode /services /services/ /statusz",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn z_pages_have_a_structured_form_by_its_full_name() {
    let served = Served::start(false).await;
    let accept = |encoding, version, kind| {
        format!("Accept: application/{encoding};v={version};g=config.k8s.io;as={kind}\r\n")
    };
    let flagz = serde_json::json!({
        "kind": "Flagz", "apiVersion": "config.k8s.io/v1beta1", "metadata": {"name": "kube-proxy"},
        "flags": {"proxy-mode": "ipvs", "v": "2"},
    });
    let (_, content_type, body) = served.ask("GET", "/flagz", &accept("json", "v1beta1", "Flagz"), "").await;
    assert_eq!(content_type, "application/json;g=config.k8s.io;v=v1beta1;as=Flagz");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap(), flagz);
    let (_, content_type, body) = served.ask("GET", "/flagz", &accept("yaml", "v1beta1", "Flagz"), "").await;
    assert_eq!(content_type, "application/yaml;g=config.k8s.io;v=v1beta1;as=Flagz");
    assert_eq!(
        body,
        "apiVersion: config.k8s.io/v1beta1\nflags:\n  proxy-mode: ipvs\n  v: '2'\nkind: Flagz\nmetadata:\n  \
         name: kube-proxy\n"
    );
    for version in ["v1alpha1", "v1beta1"] {
        let (_, content_type, body) =
            served.ask("GET", "/statusz", &accept("json", version, "Statusz"), "").await;
        assert_eq!(content_type, format!("application/json;g=config.k8s.io;v={version};as=Statusz"));
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&body["kind"], &body["uptimeSeconds"]), (&"Statusz".into(), &0.into()));
        assert_eq!(body["apiVersion"], format!("config.k8s.io/{version}"));
        assert!(body["startTime"].as_str().unwrap().ends_with('Z'), "{body}");
    }
    let (code, content_type, _) = served.ask("GET", "/statusz", "Accept:\r\n", "").await;
    assert_eq!((code, &*content_type), (200, TEXT));
    let (code, _, body) = served.ask("GET", "/statusz", "Accept: application/json\r\n", "").await;
    assert_eq!(code, 406);
    assert!(body.contains(";g=config.k8s.io;v=v1alpha1|v1beta1;as=Statusz"), "{body}");
}

#[tokio::test]
async fn who_asks_for_an_old_version_is_warned() {
    let served = Served::start(false).await;
    for (page, kind) in [("statusz", "Statusz"), ("flagz", "Flagz")] {
        for (version, is_old) in [("v1alpha1", true), ("v1beta1", false)] {
            let accept = format!("Accept: application/json;v={version};g=config.k8s.io;as={kind}\r\n");
            let (head, _) = served.ask_whole("GET", &format!("/{page}"), &accept, "").await;
            let warning = format!(
                "\r\nwarning: 299 - \"This version of the {page} endpoint is deprecated. \
                 Please use a newer version.\"\r\n"
            );
            assert_eq!(head.contains(&warning), is_old, "{head}");
        }
    }
}

#[tokio::test]
async fn with_profiling_there_is_more_to_look_at() {
    let served = Served::start(true).await;
    let (code, _, body) = served.get("/debug/pprof/cmdline").await;
    let program = std::env::args().next().unwrap();
    assert!(code == 200 && body.starts_with(&program) && !body.ends_with('\0'), "{body}");
    let (code, _, body) = served.get("/debug/pprof/threads").await;
    assert_eq!(code, 200);
    let lines: Vec<_> = body.lines().collect();
    assert_eq!(lines[0], "thread state user system name");
    assert!(lines.len() > 2 && lines[1].split(' ').count() >= 5, "{body}");
    assert!(served.get("/debug/pprof/").await.2.starts_with("cmdline: "));
    assert_eq!(served.get("/debug/pprof").await.0, 308);
    let (code, _, body) = served.get("/debug/pprof/heap").await;
    assert!(code == 501 && body.contains("perf record"), "{body}");
    let (_, _, text) = served.get("/statusz").await;
    assert!(text.contains("Paths: /debug/flags/v /debug/pprof/ /addresses/ /configz "), "{text}");
}

#[tokio::test]
async fn the_level_of_the_log_can_be_set() {
    let served = Served::start(true).await;
    for (method, body, code, answer) in [
        ("PUT", "-1", 400, "failed set klog.logging.verbosity \"-1\": must be a whole number from 0\n"),
        ("PUT", "high", 400, "failed set klog.logging.verbosity \"high\": must be a whole number from 0\n"),
        ("GET", "", 406, "unsupported http method\n"),
        ("PUT", "200", 200, "successfully set klog.logging.verbosity to 200\n"),
    ] {
        assert_eq!(
            served.ask(method, "/debug/flags/v", "", body).await,
            (code, TEXT.to_owned(), answer.to_owned()),
            "{method} {body}"
        );
    }
    let (code, _, answer) = served.ask("PUT", "/debug/flags/v", "", &"1".repeat(100)).await;
    assert!(code == 413 && answer.len() < 100, "{code} {answer}");
    assert_eq!(VERBOSITY.load(Ordering::Relaxed), 200);
}

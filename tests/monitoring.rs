//! Monitoring of the proxy: the metrics, and what `deploy/monitoring` makes of them. Prometheus' own tool checks them:
//! `promtool` of the Debian package `prometheus`, which `tests/lab/packages.sh promtool=prometheus` installs.

#[path = "monitoring/document.rs"]
mod document;
#[path = "monitoring/expressions.rs"]
mod expressions;
#[path = "monitoring/page.rs"]
mod page;
#[path = "monitoring/promtool.rs"]
mod promtool;

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube_ipvs::diff::StepKind;
use kube_ipvs::options::EXTERNAL_IPS_GATE;
use kube_ipvs::reconcile::note::Verdict;
use kube_ipvs::serve::metrics::Metrics;
use kube_ipvs::serve::metrics::watches::{WatchNumbers, Watches};

use page::Page;

/// A file of `deploy/monitoring`.
fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring").join(name)
}

/// All metrics, as the page of a running proxy shows them once it has talked to the API server.
fn page() -> String {
    let metrics = Metrics::new(&StepKind::ALL.map(StepKind::as_str), &Verdict::ALL.map(Verdict::as_str));
    let numbers = || WatchNumbers { healthy: true, ..WatchNumbers::default() };
    metrics.add(Watches::new(vec![("services".to_owned(), Box::new(numbers))]));
    metrics.client.observe("GET", "192.0.2.1:6443", Some(200), Duration::from_millis(20));
    metrics.client.observe_sizes("POST", "192.0.2.1:6443", 205, 482);
    metrics.tell_feature(EXTERNAL_IPS_GATE, true);
    metrics.text()
}

/// The findings of promtool's linter that remain: kube-proxy's own names, on which dashboards rely.
const FINDINGS: [&str; 1] = [
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total non-counter metrics should not have \"_total\" suffix",
];

#[test]
fn a_scrape_parses_and_its_linter_finds_only_kube_proxys_own_names() {
    let (code, output) = promtool::run(&["check", "metrics"], &page());
    let found: Vec<_> = output.lines().collect();
    assert_eq!(found, FINDINGS, "{output}");
    // 3: only findings of the linter.
    assert_eq!(code, 3);
}

#[test]
fn promtool_is_heard() {
    let (code, output) = promtool::run(&["check", "metrics"], "x_total{a=\"b\" 1\n");
    assert_eq!(code, 1, "{output}");
}

/// Contract 9: name, type, labels, number of buckets.
const CONTRACT: [(&str, &str, &[&str], usize); 24] = [
    ("kubeproxy_sync_proxy_rules_duration_seconds", "histogram", &["ip_family"], 15),
    ("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "gauge", &["ip_family"], 0),
    ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "gauge", &["ip_family"], 0),
    ("kubeproxy_network_programming_duration_seconds", "histogram", &["ip_family"], 81),
    ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "gauge", &[], 0),
    ("kubeproxy_sync_proxy_rules_endpoint_changes_total", "counter", &[], 0),
    ("kubeproxy_sync_proxy_rules_service_changes_pending", "gauge", &[], 0),
    ("kubeproxy_sync_proxy_rules_service_changes_total", "counter", &[], 0),
    ("kubeproxy_sync_proxy_rules_no_local_endpoints_total", "gauge", &["ip_family", "traffic_policy"], 0),
    ("kubeproxy_sync_proxy_rules_iptables_restore_failures_total", "counter", &["ip_family"], 0),
    ("kubeproxy_proxy_healthz_total", "counter", &["code"], 0),
    ("kubeproxy_proxy_livez_total", "counter", &["code"], 0),
    ("kubeproxy_conntrack_reconciler_sync_duration_seconds", "histogram", &["ip_family"], 15),
    ("kubeproxy_conntrack_reconciler_deleted_entries_total", "counter", &["ip_family"], 0),
    ("process_cpu_seconds_total", "counter", &[], 0),
    ("process_resident_memory_bytes", "gauge", &[], 0),
    ("process_start_time_seconds", "gauge", &[], 0),
    ("process_virtual_memory_max_bytes", "gauge", &[], 0),
    ("go_goroutines", "gauge", &[], 0),
    ("rest_client_requests_total", "counter", &["code", "host", "method"], 0),
    ("rest_client_request_duration_seconds", "histogram", &["host", "verb"], 12),
    (
        "kubernetes_build_info",
        "gauge",
        &[
            "build_date",
            "compiler",
            "git_commit",
            "git_tree_state",
            "git_version",
            "go_version",
            "major",
            "minor",
            "platform",
        ],
        0,
    ),
    ("kubernetes_feature_enabled", "gauge", &["name", "stage"], 0),
    ("registered_metrics_total", "counter", &["deprecated_version", "stability_level"], 0),
];

#[test]
fn every_series_of_the_contract_is_there() {
    let text = page();
    let page = Page::parse(&text);
    for (name, kind, labels, buckets) in CONTRACT {
        let family = page.families.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(family.kind, kind, "{name}");
        assert_eq!(family.label_names(), labels, "{name}");
        // One more bucket: infinity.
        assert_eq!(family.buckets().len(), if buckets > 0 { buckets + 1 } else { 0 }, "{name}");
    }
    for family in ["IPv4", "IPv6"] {
        for policy in ["internal", "external"] {
            let series = format!(
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total{{ip_family=\"{family}\",traffic_policy=\"{policy}\"}} 0"
            );
            assert!(text.lines().any(|line| line == series), "{series}");
        }
    }
}

#[test]
fn the_alert_rules_are_good_and_each_is_tested() {
    let rules = deployed("rules.yaml");
    let path = rules.to_str().expect("UTF-8");
    let (code, output) = promtool::run(&["check", "rules", path], "");
    assert_eq!(code, 0, "{output}");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/monitoring/rules_test.yaml");
    let (code, output) = promtool::run(&["test", "rules", tests.to_str().expect("UTF-8")], "");
    assert_eq!(code, 0, "{output}");

    let tests = std::fs::read_to_string(tests).expect("the tests of the rules");
    let alerts: Vec<_> = expressions::of_rules(&rules).into_iter().map(|(alert, _)| alert).collect();
    assert!(alerts.len() > 5, "{alerts:?}");
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} has no test");
    }
}

/// Debian's promtool does not support Kubernetes: the discovery of pods is left out.
#[test]
fn prometheus_takes_the_part_of_its_configuration() {
    let text = std::fs::read_to_string(deployed("scrape.yaml")).expect("the file");
    let mut configuration: serde_json::Value = serde_yaml::from_str(&text).expect("YAML");
    let job = configuration["scrape_configs"][0].as_object_mut().expect("a job");
    let found = job.remove("kubernetes_sd_configs").expect("what finds the pods");
    assert_eq!(found, serde_json::json!([{"role": "pod", "namespaces": {"names": ["kube-system"]}}]));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("prometheus.yaml");
    std::fs::write(&file, configuration.to_string()).expect("a file");
    let (code, output) = promtool::run(&["check", "config", file.to_str().expect("UTF-8")], "");
    assert_eq!(code, 0, "{output}");
}

/// kube-prometheus' alert `KubeVersionMismatch`, from kubernetes-mixin.
const MISMATCH: &str = r#"count by (cluster) (count by (git_version, cluster) (label_replace(
    kubernetes_build_info{job!~"kube-dns|coredns"}, "git_version", "$1", "git_version", "(v[0-9]*.[0-9]*).*"))) > 1"#;

/// The contract requires this metric, whose version is ours here: it is dropped where it would be compared.
#[test]
fn our_version_is_not_compared_with_those_of_kubernetes() {
    let text = std::fs::read_to_string(deployed("scrape.yaml")).expect("the file");
    let configuration: serde_json::Value = serde_yaml::from_str(&text).expect("YAML");
    let rules = configuration["scrape_configs"][0]["metric_relabel_configs"].as_array().expect("a list");
    let is_dropped = |name: &str| {
        let drops = |rule: &serde_json::Value| {
            rule["action"] == "drop"
                && rule["source_labels"] == serde_json::json!(["__name__"])
                && rule["regex"] == name
        };
        rules.iter().any(drops)
    };
    let page = page();
    let builds: Vec<_> = page.lines().filter_map(|line| line.split_once("_build_info{")).collect();
    assert_eq!(builds.len(), 2, "{builds:?}");
    let series = |(component, rest): &(&str, &str)| {
        let labels = rest.strip_suffix("} 1").expect("the end of a series of the number 1");
        (format!("{component}_build_info{{job=\"kube-proxy\",instance=\"a\",{labels}}}"), 1)
    };
    let scraped = || builds.iter().map(series);
    let kept: Vec<_> = scraped().filter(|(name, _)| !is_dropped(name.split('{').next().unwrap())).collect();
    let kubelet = r#"kubernetes_build_info{job="kubelet",instance="a",git_version="v1.37.2"}"#;
    let versions = |series: Vec<(String, u32)>, number| {
        let all = [series, vec![(kubelet.to_owned(), 1)]].concat();
        let (code, output) = promtool::check_value(&format!("({MISMATCH}) or vector(0)"), &all, number);
        assert_eq!(code, 0, "{output}");
    };
    versions(scraped().collect(), 2);
    versions(kept.clone(), 0);
    assert!(kept.iter().any(|(name, _)| name.starts_with("kube_ipvs_build_info{")), "{kept:?}");
}

#[test]
fn alerts_and_dashboard_go_by_metrics_that_there_are() {
    let page = Page::parse(&page());
    let (rules, dashboard) = (deployed("rules.yaml"), deployed("dashboard.json"));
    let mut expressions = expressions::of_rules(&rules);
    expressions.extend(expressions::of_dashboard(&dashboard));
    assert!(expressions.len() > 40, "{}", expressions.len());
    for (place, expression) in &expressions {
        let used = expressions::metrics(expression);
        assert!(!used.is_empty(), "{place}: {expression}");
        // `up` is Prometheus' own.
        let is_others =
            |name: &str| name == "up" || expressions::OTHERS.iter().any(|prefix| name.starts_with(prefix));
        for metric in used.iter().filter(|metric| !is_others(metric.name())) {
            let family = page.families.get(metric.name()).unwrap_or_else(|| panic!("{place}: no {metric:?}"));
            assert_eq!(family.kind == "histogram", metric.is_part_of_histogram(), "{place}: {metric:?}");
        }
    }
    // A query that does not parse leaves its panel empty.
    let (code, output) = promtool::check_expressions(&expressions);
    assert_eq!(code, 0, "{output}");
}

/// Such a node has nothing queued, like a family that a node does not have, although it is the farthest from being
/// synced.
#[test]
fn a_node_that_waits_for_the_api_server_is_counted_among_those_that_have_not_synced() {
    let panels = expressions::of_dashboard(&deployed("dashboard.json"));
    let (_, panel) = panels.iter().find(|(title, _)| title == "Not synced yet").expect("the panel");
    let shows = |nodes: &[(&str, u32, u32)], number| {
        let series: Vec<_> = nodes
            .iter()
            .flat_map(|(labels, queued, synced)| {
                [("last_queued_timestamp", *queued), ("last_timestamp", *synced)].map(|(name, value)| {
                    (
                        format!("kubeproxy_sync_proxy_rules_{name}_seconds{{job=\"kube-proxy\",{labels}}}"),
                        value,
                    )
                })
            })
            .collect();
        let (code, output) = promtool::check_value(panel, &series, number);
        assert_eq!(code, 0, "{output}");
    };
    let well = [
        ("instance=\"well\",ip_family=\"IPv4\"", 30, 60),
        // A family that the node does not have.
        ("instance=\"well\",ip_family=\"IPv6\"", 0, 0),
    ];
    let waits =
        [("instance=\"waits\",ip_family=\"IPv4\"", 0, 0), ("instance=\"waits\",ip_family=\"IPv6\"", 0, 0)];
    let begun = [("instance=\"begun\",ip_family=\"IPv4\"", 30, 0)];
    shows(&well, 0);
    shows(&[&well[..], &waits].concat(), 1);
    shows(&[&well[..], &begun].concat(), 1);
    shows(&[&well[..], &begun, &waits].concat(), 2);
}

/// The metrics that kube-prometheus' dashboard for kube-proxy shows, and the labels by which it selects.
const KUBE_PROMETHEUS: [(&str, &[&str]); 9] = [
    ("kubeproxy_sync_proxy_rules_duration_seconds_count", &[]),
    ("kubeproxy_sync_proxy_rules_duration_seconds_bucket", &[]),
    ("kubeproxy_network_programming_duration_seconds_count", &[]),
    ("kubeproxy_network_programming_duration_seconds_bucket", &[]),
    ("rest_client_requests_total", &["code"]),
    ("rest_client_request_duration_seconds_bucket", &["verb"]),
    ("process_resident_memory_bytes", &[]),
    ("process_cpu_seconds_total", &[]),
    ("go_goroutines", &[]),
];

#[test]
fn the_dashboard_of_kube_prometheus_keeps_working() {
    let text = page();
    let page = Page::parse(&text);
    for (series, labels) in KUBE_PROMETHEUS {
        assert!(text.lines().any(|line| line.split(['{', ' ']).next() == Some(series)), "{series}");
        let metrics = expressions::metrics(series);
        let family = &page.families[metrics[0].name()];
        for label in labels {
            assert!(family.label_names().contains(label), "{series}: {label}");
        }
    }
}

/// `REGENERATE=1` rewrites the table; review the difference.
#[test]
fn the_table_of_metrics_is_up_to_date() {
    let file = deployed("metrics.md");
    let text = document::of(&Page::parse(&page()));
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::write(&file, &text).expect("the table can be written");
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(written, text, "{} is not up to date: run this test with REGENERATE=1", file.display());
}

//! The expressions of alert rules and dashboards, and the metrics that they use.

use std::path::Path;

use serde_json::Value;

/// The name and the expression of each alert.
pub(crate) fn of_rules(file: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(file).expect("the rules");
    let rules: Value = serde_yaml::from_str(&text).expect("YAML");
    let groups = rules["groups"].as_array().expect("groups");
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().expect("rules"));
    rules.map(|rule| (text_of(&rule["alert"]), text_of(&rule["expr"]))).collect()
}

/// The title and the expressions of each panel. Panel ids must be unique: Grafana drops panels that share one.
pub(crate) fn of_dashboard(file: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(file).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut numbers: Vec<_> = panels.iter().map(|panel| panel["id"].as_u64().expect("a number")).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), panels.len(), "two panels have the same number");
    let charts = panels.iter().filter(|panel| panel["type"] != "row");
    let targets = charts.flat_map(|panel| {
        let targets = panel["targets"].as_array().expect("targets");
        targets.iter().map(|target| (text_of(&panel["title"]), text_of(&target["expr"])))
    });
    targets.collect()
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// Prefixes of other programs' metrics that are used here: of kube-state-metrics and `node_exporter`.
pub(crate) const OTHERS: [&str; 3] = ["kube_daemonset_status_", "kube_node_", "node_nf_conntrack_"];

/// A metric, as an expression names it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Metric(String);

impl Metric {
    /// Its name on the page.
    pub(crate) fn name(&self) -> &str {
        let ends = ["_bucket", "_count", "_sum"];
        ends.iter().find_map(|end| self.0.strip_suffix(end)).unwrap_or(&self.0)
    }

    pub(crate) fn is_part_of_histogram(&self) -> bool {
        self.name() != self.0
    }
}

/// The metrics in an expression.
pub(crate) fn metrics(expression: &str) -> Vec<Metric> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = ["kubeproxy_", "kube_ipvs_", "rest_client_", "process_", "go_", "kubernetes_", "up"];
    let prefixes = [&ours[..], &OTHERS].concat();
    let metrics = words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)));
    metrics.map(|word| Metric(word.to_owned())).collect()
}

//! Turns a page of metrics into the table for people.

use std::fmt::Write as _;

use crate::page::{Family, Page};

/// The groups of metrics: the beginnings of their names, the heading, and what applies to all of them.
const GROUPS: [(&[&str], &str, &str); 4] = [
    (
        &["kubeproxy_"],
        "kube-proxy's",
        "Names, labels, buckets and help texts are those of kube-proxy in ipvs mode. There is no iptables here:
`..._iptables_restore_failures_total` counts plans of which the kernel refused something in nftables, so that an alert
on it means the same. `..._service_changes_total` counts each change of a Service once for each IP family that is
served, as in kube-proxy, but not a Service that is sent again unchanged. `..._endpoint_changes_total` counts the
Services whose slices an event changed, of any family; kube-proxy counts slices, of families that are served.
`..._last_timestamp_seconds` is renewed while nothing changes, too: three times in each `syncPeriod` kube-ipvs looks
whether the device, addresses, the tables and the virtual servers are there, and renews it if it could look, and nothing
waits to be written. It and `..._last_queued_timestamp_seconds` are 0 until there is such a time. A family that the node
does not serve has neither, once the start no longer waits for the API server and the Node.",
    ),
    (
        &["kube_ipvs_"],
        "Our own",
        "All values of all labels exist from the start, so that zero can be told from unknown. `kube_ipvs_watch_*` exist with
an API server, not with `--manifests`.",
    ),
    (
        &["rest_client_"],
        "The client of the API server",
        "They exist after the first request; those of sizes after the first complete answer, which is that of an Event, not of
a watch. Retries, waiting for a rate limiter and credential plugins are not counted.",
    ),
    (
        &["process_", "go_", "kubernetes_", "registered_", "hidden_", "disabled_"],
        "The process",
        "`go_goroutines` and `go_threads` are tasks and threads, for dashboards of Kubernetes components; the other `go_*`
metrics are about Go's memory and do not exist here. `kubernetes_build_info` has our version, as `kube_ipvs_build_info`
has: an alert that compares the versions of Kubernetes' components, such as kubernetes-mixin's KubeVersionMismatch,
keeps firing unless it is left out, as in scrape.yaml. `kubernetes_feature_enabled` has the one gate that counts here.
`process_network_*` are, as in kube-proxy, those of the whole network namespace: with `hostNetwork`, of the node.
`git_commit` is what `GIT_COMMIT` was when the program was built (`make image` sets it), and empty otherwise.",
    ),
];

const HEAD: &str = "\
# Metrics

What `/metrics` has, in Prometheus' text format 0.0.4, compressed with gzip for clients that accept it. This file is
made from the page itself by `cargo test --test monitoring` with `REGENERATE=1`.

By default the page is at 127.0.0.1:10249, where nobody outside of the node reaches it; Prometheus does with
`metricsBindAddress: 0.0.0.0:10249` ([scrape.yaml](scrape.yaml)). [rules.yaml](rules.yaml) has alerts.

Not here: how full connection tracking is. When it is full, the node drops the first packets of new connections.
node_exporter has that, as `node_nf_conntrack_entries` and `node_nf_conntrack_entries_limit`, and rules.yaml an alert
on it.
";

/// The values of a label are listed only up to this number.
const NAMED_VALUES: usize = 12;

/// The document.
pub(crate) fn of(page: &Page) -> String {
    let mut text = HEAD.to_owned();
    let mut left: Vec<_> = page.families.keys().collect();
    for (prefixes, heading, about) in GROUPS {
        let belongs = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        left.retain(|name| !belongs(name));
        let _ = write!(text, "\n## {heading}\n\n{about}\n\n| Name | Type | Labels | |\n|---|---|---|---|\n");
        for (name, family) in page.families.iter().filter(|(name, _)| belongs(name)) {
            let _ = writeln!(text, "| `{name}` | {} | {} | {} |", kind(family), labels(family), help(family));
        }
    }
    assert!(left.is_empty(), "these belong to no group: {left:?}");
    text
}

fn kind(family: &Family) -> String {
    match family.buckets() {
        [first, .., last, _infinity] => {
            format!("{} ({} buckets, {first} to {last})", family.kind, family.buckets().len() - 1)
        }
        _ => family.kind.clone(),
    }
}

fn labels(family: &Family) -> String {
    let label = |name: &&str| {
        let values = &family.labels[*name];
        // The example does not have all possible values of these.
        let open = ["host", "method", "verb", "resource"].contains(name)
            || family.label_names().contains(&"host")
            || family.label_names().contains(&"git_version");
        if open || values.len() > NAMED_VALUES {
            return format!("`{name}`");
        }
        let values: Vec<_> =
            values.iter().map(|value| if value.is_empty() { "\"\"" } else { value }).collect();
        format!("`{name}`: {}", values.join(", "))
    };
    family.label_names().iter().map(label).collect::<Vec<_>>().join("; ")
}

/// The help text without the stability level of Kubernetes components, which means nothing here.
fn help(family: &Family) -> &str {
    let help = family.help.as_str();
    help.strip_prefix('[').and_then(|rest| rest.split_once("] ")).map_or(help, |(_, help)| help)
}

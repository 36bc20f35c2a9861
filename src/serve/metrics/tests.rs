use super::kube_proxy::{TrafficPolicy, programming_buckets, sync_buckets};
use super::own::{DrainEnd, DriftKind, ObjectKind};
use super::*;
use crate::cluster::types::Family;
use crate::diff::StepKind;
use crate::reconcile::note::Verdict;

/// All that this program has.
fn all() -> Metrics {
    Metrics::new(&StepKind::ALL.map(StepKind::as_str), &Verdict::ALL.map(Verdict::as_str))
}

/// The page without what differs from run to run.
fn stable(metrics: &Metrics) -> String {
    let lines = metrics.text();
    let stable = lines.lines().filter(|line| {
        let name = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ");
        !["process_", "kube_ipvs_resident_memory_", "go_"].iter().any(|prefix| name.starts_with(prefix))
    });
    stable.map(|line| line.to_owned() + "\n").collect()
}

#[test]
fn the_whole_page() {
    let metrics = all();
    let Metrics { kube_proxy, own, client, .. } = &metrics;
    metrics.tell_feature("AllowServiceExternalIPs", true);
    kube_proxy.sync_duration_seconds.of(Family::V4).observe(0.003);
    kube_proxy.sync_last_queued_timestamp_seconds.of(Family::V6).set(1_795_359_600.25);
    kube_proxy.sync_last_timestamp_seconds.of(Family::V4).set(1_795_359_601.5);
    kube_proxy.network_programming_duration_seconds.of(Family::V4).observe(0.4);
    kube_proxy.endpoint_changes_pending.set(3);
    kube_proxy.endpoint_changes_total.inc_by(7);
    kube_proxy.service_changes_pending.set(1);
    kube_proxy.service_changes_total.inc();
    kube_proxy.set_no_local_endpoints(Family::V6, TrafficPolicy::External, 2);
    kube_proxy.filter_failures_total.of(Family::V4).inc();
    kube_proxy.conntrack_sync_duration_seconds.of(Family::V4).observe(0.001);
    kube_proxy.conntrack_deleted_entries_total.of(Family::V6).inc_by(5);
    kube_proxy.healthz_total.with_label_values(&["503"]).inc();
    own.count_writes("add_address", "done", 2);
    own.count_writes("add_real_server", "refused", 1);
    own.count_drift(DriftKind::Address, 1);
    own.set_objects(ObjectKind::VirtualServer, 12);
    own.foreign_virtual_servers.set(2);
    own.draining_real_servers.set(4);
    own.count_drain_ends(DrainEnd::Deadline, 3);
    own.refused_objects.set(1);
    own.queue_duration_seconds.observe(0.000_05);
    own.apply_duration_seconds.observe(0.000_15);
    client.observe("GET", "192.0.2.1:6443", Some(200), std::time::Duration::from_millis(20));
    client.observe("POST", "192.0.2.1:6443", None, std::time::Duration::from_secs(2));
    client.observe_sizes("POST", "192.0.2.1:6443", 205, 482);
    let platform = format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH);
    let commit = format!("git_commit=\"{}\"", crate::COMMIT);
    let page = stable(&metrics).replace(&platform, "PLATFORM").replace(&commit, "git_commit=\"COMMIT\"");
    insta::assert_snapshot!(page);
}

#[test]
fn the_process_is_on_the_page() {
    let text = all().text();
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_virtual_memory_max_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_network_receive_bytes_total",
        "process_network_transmit_bytes_total",
        "process_start_time_seconds",
        "kube_ipvs_resident_memory_peak_bytes",
        "go_goroutines",
        "go_threads",
    ] {
        assert!(text.contains(&format!("\n{name} ")), "{name}");
    }
}

#[test]
fn buckets_are_those_of_kube_proxy() {
    let buckets = programming_buckets();
    assert_eq!(buckets.len(), 3 + 59 + 12 + 7);
    assert!(buckets.is_sorted_by(|left, right| left < right));
    assert_eq!((buckets[0], buckets[1], buckets[2], buckets[3]), (0.0, 0.25, 0.5, 1.0));
    assert_eq!((buckets[62], buckets[73], buckets[74], buckets[80]), (60.0, 115.0, 120.0, 300.0));
    assert!((sync_buckets()[14] - 16.384).abs() < 1e-9);
}

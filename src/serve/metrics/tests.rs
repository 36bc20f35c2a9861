use super::*;

/// The page without what differs from run to run.
fn stable(metrics: &Metrics) -> String {
    let lines = metrics.text();
    let stable = lines.lines().filter(|line| !line.contains("process_"));
    stable.map(|line| line.to_owned() + "\n").collect()
}

#[test]
fn the_whole_page() {
    let metrics = Metrics::new();
    metrics.sync_duration_seconds.of(Family::V4).observe(0.003);
    metrics.sync_last_queued_timestamp_seconds.of(Family::V6).set(1_795_359_600.25);
    metrics.sync_last_timestamp_seconds.of(Family::V4).set(1_795_359_601.5);
    metrics.network_programming_duration_seconds.of(Family::V4).observe(0.4);
    metrics.endpoint_changes_pending.set(3);
    metrics.endpoint_changes_total.inc_by(7);
    metrics.service_changes_pending.set(1);
    metrics.service_changes_total.inc();
    metrics.count_write("add_address", Verdict::Done);
    metrics.count_write("add_address", Verdict::Done);
    metrics.count_write("add_real_server", Verdict::Refused);
    metrics.count_drift("add_address");
    metrics.set_objects(ObjectKind::VirtualServer, 12);
    metrics.foreign_virtual_servers.set(2);
    metrics.draining_real_servers.set(4);
    metrics.refused_objects.set(1);
    metrics.apply_duration_seconds.observe(0.000_15);
    metrics.healthz_total.with_label_values(&["503"]).inc();
    let platform = format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH);
    insta::assert_snapshot!(stable(&metrics).replace(&platform, "PLATFORM"));
}

#[test]
fn the_process_is_on_the_page() {
    let text = Metrics::new().text();
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        assert!(text.contains(&format!("\n{name} ")), "{name}");
    }
}

#[test]
fn every_kind_of_write_exists_from_the_start() {
    // The names as the plan's own source has them: a step that is added there is missed here.
    let source = include_str!("../../diff/plan.rs");
    let kinds: Vec<_> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.split_once("=> \"")?.1.split_once('"'))
        .map(|(kind, _)| kind)
        .collect();
    assert_eq!(kinds, WRITE_KINDS);
}

#[test]
fn buckets_are_those_of_the_contract() {
    let buckets = programming_buckets();
    assert_eq!(buckets.len(), 2 + 59 + 12 + 7);
    assert!(buckets.is_sorted_by(|left, right| left < right));
    assert_eq!((buckets[61], buckets[72], buckets[73], buckets[79]), (60.0, 115.0, 120.0, 300.0));
    assert!((sync_buckets()[14] - 16.384).abs() < 1e-9);
}

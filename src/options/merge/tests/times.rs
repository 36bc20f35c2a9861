//! Timeouts and periods.

use std::time::Duration;

use super::*;

#[test]
fn ipvs_keeps_idle_connections_as_long_as_connection_tracking_or_as_it_can() {
    for (timeout, wanted) in [
        ("0s", 86_400),
        ("1h", 3_600),
        ("2147483s", 2_147_483),
        ("2147484s", 2_147_483),
        // More than fits into 32 bits.
        ("2000000h", 2_147_483),
    ] {
        let merged = with_flags(&["--conntrack-tcp-timeout-established", timeout]).unwrap();
        assert_eq!(merged.options.proxy.tracked_tcp_seconds, wanted, "{timeout}");
        let merged = with_file(&[], &format!("conntrack: {{tcpEstablishedTimeout: {timeout}}}")).unwrap();
        assert_eq!(merged.options.proxy.tracked_tcp_seconds, wanted, "{timeout}");
    }
}

#[test]
fn a_timeout_that_the_kernel_cannot_count_is_noticed() {
    let merged = with_flags(&["--ipvs-scheduler=rr", "--ipvs-tcp-timeout=900ms"]).unwrap();
    assert_eq!(merged.options.proxy.timeouts.tcp_seconds, 0);
    let [notice] = merged.notices.as_slice() else { panic!("{:?}", merged.notices) };
    assert_eq!(notice.detail, "--ipvs-tcp-timeout=900ms");
}

#[test]
fn the_least_time_between_writes_is_nothing_unless_somebody_says_so() {
    for (flags, body, seconds) in [
        (&[][..], None, 0),
        (&["--ipvs-min-sync-period=1s"], None, 1),
        (&[], Some(""), 0),
        (&["--ipvs-min-sync-period=1s"], Some(""), 0),
        (&[], Some("ipvs: {minSyncPeriod: 2s}"), 2),
    ] {
        let merged = body.map_or_else(|| with_flags(flags), |body| with_file(flags, body)).unwrap();
        assert_eq!(merged.options.min_sync_period, Duration::from_secs(seconds), "{flags:?} {body:?}");
        let shown = merged.configuration.ipvs.min_sync_period.to_string();
        assert_eq!(shown, format!("{seconds}s"), "{flags:?} {body:?}");
    }
    // A period shorter than the default minimum of another mode is no contradiction.
    assert!(with_flags(&["--ipvs-sync-period=500ms"]).is_ok());
}

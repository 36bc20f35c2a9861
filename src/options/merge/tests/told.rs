//! Notices about settings without effect.

use super::*;

#[test]
fn flags_in_vain_are_told_once() {
    let notices =
        with_flags(&["--ipvs-scheduler=rr", "--kube-api-qps=50", "--proxy-port-range=x"]).unwrap().notices;
    let wanted = Notice::detail(
        "Flags have no effect in this program",
        "--kube-api-qps, --proxy-port-range".to_owned(),
    );
    assert_eq!(notices, [wanted]);
}

#[test]
fn fields_in_vain_are_told_once() {
    let detail = |body: &str| {
        let notices = with_file(&[], &format!("ipvs: {{scheduler: rr}}\n{body}")).unwrap().notices;
        notices.first().map(|notice| notice.detail.clone()).unwrap_or_default()
    };
    for (body, fields) in [
        ("", ""),
        ("clientConnection: {qps: 5, burst: 10}\nconfigSyncPeriod: 15m", ""),
        (
            "clientConnection: {contentType: application/json, qps: 50, burst: 100}",
            "clientConnection.qps, clientConnection.burst",
        ),
        ("portRange: x", "portRange"),
        (
            "configSyncPeriod: 1m\nshowHiddenMetricsForVersion: '1.35'",
            "configSyncPeriod, showHiddenMetricsForVersion",
        ),
        (
            "logging: {flushFrequency: 1s, vmodule: [{filePattern: a, verbosity: 1}], options: {text: {splitStream: true}}}",
            "logging.flushFrequency, logging.vmodule, logging.options",
        ),
    ] {
        assert_eq!(detail(body), fields, "{body}");
    }
}

/// An unknown gate ends kube-proxy. It would end this program at each new release that adds one.
#[test]
fn one_feature_gate_counts_and_the_others_are_told() {
    const GATE: &str = "AllowServiceExternalIPs";
    let off =
        || Notice::info("External IPs of Services are not served", format!("feature gate {GATE} is false"));
    let in_vain =
        |gates: &str| Notice::detail("Feature gates have no effect in this program", gates.to_owned());
    for (written, external_ips, notices) in [
        (&[][..], true, vec![]),
        (&[(GATE, true)], true, vec![]),
        (&[(GATE, false)], false, vec![off()]),
        (&[("AllAlpha", false), ("AllBeta", false)], true, vec![in_vain("AllAlpha, AllBeta")]),
        (&[("X", true), (GATE, false), ("A", false)], false, vec![in_vain("A, X"), off()]),
    ] {
        let list = |between: &str| {
            let items = written.iter().map(|(gate, on)| format!("{gate}{between}{on}"));
            items.collect::<Vec<_>>().join(",")
        };
        let flag = format!("--feature-gates={}", list("="));
        let body = format!("featureGates: {{{}}}\nipvs: {{scheduler: rr}}", list(": "));
        for merged in [with_flags(&["--ipvs-scheduler=rr", &flag]), with_file(&[], &body)] {
            let merged = merged.unwrap();
            assert_eq!((merged.options.proxy.external_ips, merged.notices), (external_ips, notices.clone()));
        }
    }
    // A file says everything about gates, as about most other settings.
    assert!(
        with_file(&["--feature-gates=AllowServiceExternalIPs=false"], "").unwrap().options.proxy.external_ips
    );
}

#[test]
fn schedulers_that_do_not_balance_are_told_of() {
    for (scheduler, does) in [
        ("rr", None),
        ("lc", None),
        ("sh", None),
        ("mh", None),
        ("ovf", Some("ovf refuses new connections once each endpoint has two")),
        ("fo", Some("fo sends all clients of an address to one endpoint")),
        ("dh", Some("dh sends all clients of an address to one endpoint")),
        (
            "lblc",
            Some("lblc sends all clients of an address to one endpoint unless another has no connection"),
        ),
        ("lblcr", None),
    ] {
        let notices = with_flags(&[&format!("--ipvs-scheduler={scheduler}")]).unwrap().notices;
        let told = "This IPVS scheduler does not balance Services";
        let wanted: Vec<_> = does.map(|does| Notice::warning(told, does.to_owned())).into_iter().collect();
        assert_eq!(notices, wanted);
    }
}

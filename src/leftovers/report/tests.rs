use super::*;

#[test]
fn what_is_out_of_reach_waits_for_programs() {
    let mut report = Report::default();
    report.added("an accept rule");
    report.out_of_reach("iptables-legacy: what may be in its tables nat", "there are no programs");
    assert!(!report.is_complete() && !report.is_worth_another_try());
    assert_eq!(report.clone().out_of_reach_only().findings, report.findings[1..]);
    report.failed("iptables-nft nat", "locked");
    assert!(!report.is_complete() && report.is_worth_another_try());
    let failures: Vec<_> = report.failures().collect();
    assert_eq!(
        failures,
        [
            ("iptables-legacy: what may be in its tables nat", "there are no programs"),
            ("iptables-nft nat", "locked")
        ]
    );
}

#[test]
fn only_a_failure_makes_it_incomplete() {
    let mut report = Report::default();
    report.removed("ipsets", vec![]);
    assert_eq!(report, Report::default(), "nothing is not worth a line");
    report.removed("ipsets", vec!["KUBE-LOOP-BACK".to_owned()]);
    report.kept("iptables-nft nat chain KUBE-MARK-MASQ", "CNI-X -j KUBE-MARK-MASQ uses it");
    report.added("an accept rule");
    assert!(report.is_complete());
    report.failed("ipset KUBE-CLUSTER-IP", "rules refer to it");
    assert!(!report.is_complete());
    assert_eq!(report.findings[0].to_string(), "removed ipsets: KUBE-LOOP-BACK");
}

#[test]
fn what_lasts_is_no_news() {
    let mut before = Report::default();
    before.added("an accept rule");
    before.kept("ipset KUBE-CLUSTER-IP", "rules refer to it");
    before.failed("ipset KUBE-LOOP-BACK", "no memory");
    assert!(before.news(&Report::default()).eq(&before.findings));
    let mut after = before.clone();
    after.failed("ipset KUBE-LOOP-BACK", "no right");
    let news: Vec<_> = after.news(&before).map(ToString::to_string).collect();
    assert_eq!(news, ["added an accept rule", "failed ipset KUBE-LOOP-BACK: no right"]);
}

#[test]
fn the_log_says_what_was_done_and_why_not() {
    let (log, _listening) = crate::telemetry::tests::listen();
    let mut report = Report::default();
    report.removed("ipsets", vec!["KUBE-LOOP-BACK".to_owned()]);
    report.added("iptables-nft filter: accept rule");
    report.lost("iptables-nft filter INPUT", vec!["KUBE-NODE-PORT -j ACCEPT".to_owned()]);
    report.kept("device kube-ipvs0", "it is not a dummy");
    report.out_of_reach("iptables-legacy", "no programs");
    report.failed("cleanup", "kube-ipvs runs");
    report.back(&["ipset KUBE-LOOP-BACK".to_owned()]);
    report.log();
    let lines = log.lines_with("");
    let expected = [
        ('I', r#""Removed" what="ipsets" count=1 names="KUBE-LOOP-BACK""#),
        ('I', r#""Added" what="iptables-nft filter: accept rule""#),
        ('W', r#""INPUT drops what no rule accepts, and kube-proxy's accept rules "#),
        (
            'W',
            r#""Not removing something that kube-proxy left" what="device kube-ipvs0" why="it is not a dummy""#,
        ),
        (
            'E',
            r#""Cannot remove what kube-proxy left, or replace it" what="iptables-legacy" err="no programs""#,
        ),
        ('E', r#""Cannot remove what kube-proxy left, or replace it" what="cleanup" err="kube-ipvs runs""#),
        (
            'W',
            r#""kube-proxy was started again beside kube-ipvs" what="rules of kube-proxy that came after the "#,
        ),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, (level, text)) in lines.iter().zip(expected) {
        assert!(line.starts_with(level) && line.contains(text), "{text}\n{line}");
    }
}

#[test]
fn that_kube_proxy_is_back_is_news_once() {
    let (mut before, mut after) = (Report::default(), Report::default());
    after.back(&[]);
    assert_eq!(after, before, "nothing is not worth a line");
    before.back(&["ipset KUBE-CLUSTER-IP".to_owned()]);
    assert_eq!(before.news(&after).count(), 1);
    after.back(&["ipset KUBE-CLUSTER-IP".to_owned(), "ipset KUBE-LOOP-BACK".to_owned()]);
    assert_eq!(after.news(&before).count(), 0, "it has come no second time");
    assert!(after.is_back() && !after.is_complete() && !after.has_failed(), "{after:?}");
}

#[test]
fn long_lists_are_cut() {
    let names: Vec<_> = (0..23).map(|number| number.to_string()).collect();
    assert!(named(&names).ends_with("18, 19 and 3 more"), "{}", named(&names));
}

#[test]
fn only_what_fails_is_said_to_be_tried_again() {
    let (well, mut failed, mut back) = (Report::default(), Report::default(), Report::default());
    failed.failed("iptables-nft nat", "locked");
    back.back(&["ipset KUBE-CLUSTER-IP".to_owned()]);
    let said = |before: &Report, after: &Report| {
        let (log, _listening) = crate::telemetry::tests::listen();
        after.log_turn(before, Duration::from_mins(1));
        log.lines_with("").iter().map(|line| line.split('"').nth(1).unwrap_or_default().to_owned()).collect()
    };
    let none: [&str; 0] = [];
    for (before, after, expected) in [
        (
            &well,
            &failed,
            &["Some leftovers of kube-proxy could not be removed or replaced, trying again"][..],
        ),
        (&failed, &failed, &none),
        (&failed, &well, &["All leftovers of kube-proxy that failed before are now removed or replaced"]),
        (&well, &back, &none),
        (&back, &back, &none),
        (&back, &well, &["What kube-proxy wrote beside kube-ipvs is removed"]),
    ] {
        let lines: Vec<String> = said(before, after);
        assert_eq!(lines, expected, "{before:?} {after:?}");
    }
}

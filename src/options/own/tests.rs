use super::*;

fn read_all(variables: &[(&str, &str)]) -> Result<(Own, Vec<Notice>), String> {
    let mut own = Own { drain_deadline: Some(GoDuration::from_seconds(1)), ..Own::default() };
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    own.read_environment(variables).map(|notices| (own, notices))
}

#[test]
fn the_environment_beats_the_file() {
    let (own, notices) = read_all(&[
        ("PATH", "x"),
        ("KUBE_IPVS_DRAIN_DEADLINE", "5m"),
        ("KUBE_IPVS_ESTIMATOR", "off"),
        ("KUBE_IPVS_SLOPPY_SCTP", "true"),
        ("KUBE_IPVS_WATCH_ALL_NODES", "true"),
    ])
    .unwrap();
    let wanted = Own {
        drain_deadline: Some(GoDuration::from_seconds(300)),
        estimator: Some(Estimator::Off),
        sloppy_sctp: Some(true),
        watch_all_nodes: Some(true),
    };
    assert_eq!((own, notices), (wanted, vec![]));
    // An empty environment leaves the file's value.
    assert_eq!(read_all(&[]).unwrap().0.drain_deadline, Some(GoDuration::from_seconds(1)));
}

#[test]
fn a_blank_value_says_nothing() {
    for name in ["DRAIN_DEADLINE", "ESTIMATOR", "SLOPPY_SCTP", "WATCH_ALL_NODES"] {
        for value in ["", " ", "\n"] {
            let mut own = Own {
                drain_deadline: Some(GoDuration::from_seconds(300)),
                estimator: Some(Estimator::Off),
                sloppy_sctp: Some(true),
                watch_all_nodes: Some(true),
            };
            let from_file = own.clone();
            let variable = (OsString::from(format!("{PREFIX}{name}")), OsString::from(value));
            assert_eq!(own.read_environment([variable].into_iter()), Ok(vec![]), "{name}={value:?}");
            assert_eq!(own, from_file, "{name}={value:?}");
        }
    }
    let (_, notices) = read_all(&[("KUBE_IPVS_DRAIN", "")]).unwrap();
    assert_eq!(notices, [Notice::warning("Unknown environment variable", "KUBE_IPVS_DRAIN".to_owned())]);
}

#[test]
fn a_variable_that_means_nothing_is_named() {
    let (_, notices) = read_all(&[
        ("KUBE_IPVS_DRAIN", "5m"),
        // Of the Services `kube-ipvs` and `kube-ipvs-metrics`.
        ("KUBE_IPVS_SERVICE_HOST", "10.96.0.9"),
        ("KUBE_IPVS_SERVICE_PORT_HTTP", "80"),
        ("KUBE_IPVS_PORT", "tcp://10.96.0.9:80"),
        ("KUBE_IPVS_METRICS_PORT_80_TCP_ADDR", "10.96.0.9"),
    ])
    .unwrap();
    assert_eq!(notices, [Notice::warning("Unknown environment variable", "KUBE_IPVS_DRAIN".to_owned())]);
}

#[test]
fn a_wrong_value_is_an_error() {
    for (name, value, problem) in [
        (
            "KUBE_IPVS_DRAIN_DEADLINE",
            "15",
            "KUBE_IPVS_DRAIN_DEADLINE: Invalid value: 15: a duration needs a unit: write for example 15s",
        ),
        (
            "KUBE_IPVS_DRAIN_DEADLINE",
            "-1s",
            "KUBE_IPVS_DRAIN_DEADLINE: Invalid value: \"-1s\": must be 0 or longer",
        ),
        (
            "KUBE_IPVS_ESTIMATOR",
            "fast",
            "KUBE_IPVS_ESTIMATOR: Invalid value: \"fast\": must be auto, on, off or keep",
        ),
        ("KUBE_IPVS_SLOPPY_SCTP", "5", "KUBE_IPVS_SLOPPY_SCTP: must be true or false, found the number 5"),
    ] {
        assert_eq!(read_all(&[(name, value)]).unwrap_err(), problem);
    }
}

#[test]
fn the_deadline_has_a_default_and_is_not_negative() {
    let deadline = |deadline: Option<&str>| {
        let drain_deadline = deadline.map(|text| text.parse().unwrap());
        Own { drain_deadline, ..Own::default() }.checked_drain_deadline()
    };
    assert_eq!(deadline(None), Ok(Duration::from_mins(15)));
    assert_eq!(deadline(Some("0")), Ok(Duration::ZERO));
    assert_eq!(deadline(Some("1h")), Ok(Duration::from_hours(1)));
    assert_eq!(deadline(Some("-1s")), Err("Invalid value: \"-1s\": must be 0 or longer".to_owned()));
}

#[test]
fn the_estimator_is_stopped_on_big_old_machines_only() {
    for (estimator, kernel, processors, wanted) in [
        (Estimator::Auto, (5, 15), 16, Some(false)),
        (Estimator::Auto, (6, 1), 128, Some(false)),
        (Estimator::Auto, (6, 1), 15, None),
        (Estimator::Auto, (6, 2), 128, None),
        (Estimator::Keep, (5, 15), 128, None),
        (Estimator::On, (5, 15), 128, Some(true)),
        (Estimator::Off, (6, 12), 1, Some(false)),
    ] {
        assert_eq!(estimator.should_run(kernel, processors), wanted, "{estimator} {kernel:?} {processors}");
    }
}

use serde_json::{Value, json};

use super::*;

fn parsed(words: &[&str]) -> Result<Flags, String> {
    parse(words.iter().map(OsString::from))
}

fn accepted(words: &[&str]) -> Flags {
    parsed(words).unwrap_or_else(|problem| panic!("{words:?}: {problem}"))
}

/// One flag: the field that it sets, its default there, and which values are accepted and refused.
struct Row {
    flag: &'static str,
    field: &'static str,
    default: Value,
    accepts: &'static [(&'static str, &'static str)],
    rejects: &'static [(&'static str, &'static str)],
}

const NOT_A_SWITCH: &[(&str, &str)] = &[
    ("maybe", "must be true or false"),
    ("", "must be true or false"),
    ("yes", "must be true or false"),
    ("TrUe", "must be true or false"),
];
const SWITCHES: &[(&str, &str)] = &[
    ("true", "true"),
    ("1", "true"),
    ("t", "true"),
    ("TRUE", "true"),
    ("false", "false"),
    ("0", "false"),
    ("F", "false"),
];
const NOT_A_NUMBER: &[(&str, &str)] = &[
    ("x", "must be a whole number"),
    ("", "must be a whole number"),
    ("1.5", "must be a whole number"),
    ("2147483648", "must be within -2147483648 and 2147483647"),
];
const NUMBERS: &[(&str, &str)] = &[("7", "7"), ("0x1F", "31"), ("016", "14"), ("-1", "-1"), ("0", "0")];
const NOT_A_TIME: &[(&str, &str)] = &[
    ("30", "a duration needs a unit: write for example 90s, 15m or 1h30m"),
    ("1d", "unknown unit in a duration: allowed are ns, us, ms, s, m and h"),
    ("", "not a duration: write a number with its unit, such as 90s, 15m or 1h30m"),
];
const TIMES: &[(&str, &str)] = &[
    ("90s", "\"1m30s\""),
    ("0", "\"0s\""),
    ("1h30m", "\"1h30m0s\""),
    ("100ms", "\"100ms\""),
    ("-1s", "\"-1s\""),
];
const TEXTS: &[(&str, &str)] = &[("", "\"\""), ("a_b,c", "\"a_b,c\""), ("--x", "\"--x\"")];
const LISTS: &[(&str, &str)] = &[("", "[]"), ("a,b", "[\"a\",\"b\"]")];

fn text(flag: &'static str, field: &'static str, default: &str) -> Row {
    Row { flag, field, default: default.into(), accepts: TEXTS, rejects: &[] }
}

fn switch(flag: &'static str, field: &'static str, default: bool) -> Row {
    Row { flag, field, default: default.into(), accepts: SWITCHES, rejects: NOT_A_SWITCH }
}

fn number(flag: &'static str, field: &'static str, default: i64) -> Row {
    Row { flag, field, default: default.into(), accepts: NUMBERS, rejects: NOT_A_NUMBER }
}

fn level(flag: &'static str, field: &'static str, default: i64) -> Row {
    let accepts = &[("7", "7"), ("010", "10")];
    let rejects = &[("0x1F", "must be a whole number"), ("1_0", "must be a whole number")];
    Row { accepts, rejects, ..number(flag, field, default) }
}

fn time(flag: &'static str, field: &'static str, default: &str) -> Row {
    Row { flag, field, default: default.into(), accepts: TIMES, rejects: NOT_A_TIME }
}

fn list(flag: &'static str, field: &'static str) -> Row {
    Row { flag, field, default: Value::Null, accepts: LISTS, rejects: &[] }
}

/// Contract 1.2, the flags that have a field.
fn rows() -> Vec<Row> {
    vec![
        text("kubeconfig", "clientConnection.kubeconfig", ""),
        text("kube-api-content-type", "clientConnection.contentType", "application/vnd.kubernetes.protobuf"),
        Row {
            flag: "kube-api-qps",
            field: "clientConnection.qps",
            default: json!(5.0),
            accepts: &[("50", "50.0"), ("0.5", "0.5"), ("-1", "-1.0")],
            rejects: &[("x", "must be a number"), ("", "must be a number"), ("inf", "must be a number")],
        },
        number("kube-api-burst", "clientConnection.burst", 10),
        text("hostname-override", "hostnameOverride", ""),
        Row {
            flag: "bind-address",
            field: "bindAddress",
            default: json!("0.0.0.0"),
            accepts: &[("", "\"0.0.0.0\""), ("a_b,c", "\"a_b,c\""), ("--x", "\"--x\"")],
            rejects: &[],
        },
        text("healthz-bind-address", "healthzBindAddress", "0.0.0.0:10256"),
        text("metrics-bind-address", "metricsBindAddress", "127.0.0.1:10249"),
        switch("bind-address-hard-fail", "bindAddressHardFail", false),
        switch("profiling", "enableProfiling", false),
        text("show-hidden-metrics-for-version", "showHiddenMetricsForVersion", ""),
        text("proxy-mode", "mode", "ipvs"),
        number("iptables-masquerade-bit", "iptables.masqueradeBit", 14),
        switch("masquerade-all", "iptables.masqueradeAll", false),
        switch("iptables-localhost-nodeports", "iptables.localhostNodePorts", true),
        time("iptables-sync-period", "iptables.syncPeriod", "30s"),
        time("iptables-min-sync-period", "iptables.minSyncPeriod", "1s"),
        time("ipvs-sync-period", "ipvs.syncPeriod", "30s"),
        time("ipvs-min-sync-period", "ipvs.minSyncPeriod", "1s"),
        text("ipvs-scheduler", "ipvs.scheduler", ""),
        list("ipvs-exclude-cidrs", "ipvs.excludeCIDRs"),
        switch("ipvs-strict-arp", "ipvs.strictARP", false),
        time("ipvs-tcp-timeout", "ipvs.tcpTimeout", "0s"),
        time("ipvs-tcpfin-timeout", "ipvs.tcpFinTimeout", "0s"),
        time("ipvs-udp-timeout", "ipvs.udpTimeout", "0s"),
        text("detect-local-mode", "detectLocalMode", "ClusterCIDR"),
        text("cluster-cidr", "clusterCIDR", ""),
        text("pod-bridge-interface", "detectLocal.bridgeInterface", ""),
        text("pod-interface-name-prefix", "detectLocal.interfaceNamePrefix", ""),
        list("nodeport-addresses", "nodePortAddresses"),
        number("oom-score-adj", "oomScoreAdj", -999),
        number("conntrack-max-per-core", "conntrack.maxPerCore", 32_768),
        number("conntrack-min", "conntrack.min", 131_072),
        time("conntrack-tcp-timeout-established", "conntrack.tcpEstablishedTimeout", "24h0m0s"),
        time("conntrack-tcp-timeout-close-wait", "conntrack.tcpCloseWaitTimeout", "1h0m0s"),
        switch("conntrack-tcp-be-liberal", "conntrack.tcpBeLiberal", false),
        time("conntrack-udp-timeout", "conntrack.udpTimeout", "0s"),
        time("conntrack-udp-timeout-stream", "conntrack.udpStreamTimeout", "0s"),
        time("config-sync-period", "configSyncPeriod", "15m0s"),
        text("proxy-port-range", "portRange", ""),
        Row {
            flag: "feature-gates",
            field: "featureGates",
            default: Value::Null,
            accepts: &[("A=true", "{\"A\":true}"), ("A=true, B=F", "{\"A\":true,\"B\":false}")],
            rejects: &[
                ("A", "must be a list of names with a truth value each, such as A=true,B=false"),
                ("A=x", "must be a list of names with a truth value each, such as A=true,B=false"),
                ("=true", "must be a list of names with a truth value each, such as A=true,B=false"),
            ],
        },
        level("v", "logging.verbosity", 0),
        Row {
            flag: "vmodule",
            field: "logging.vmodule",
            default: Value::Null,
            accepts: &[(
                "a=2,b*=3",
                r#"[{"filePattern":"a","verbosity":2},{"filePattern":"b*","verbosity":3}]"#,
            )],
            rejects: &[
                ("a", "must be a list of patterns with a level each, such as watch=4,core*=2"),
                ("a=-1", "must be a list of patterns with a level each, such as watch=4,core*=2"),
                ("=1", "must be a list of patterns with a level each, such as watch=4,core*=2"),
            ],
        },
        text("logging-format", "logging.format", "text"),
        time("log-flush-frequency", "logging.flushFrequency", "5s"),
        Row {
            default: Value::Null,
            ..switch("log-text-split-stream", "logging.options.text.splitStream", false)
        },
        Row {
            default: Value::Null,
            ..switch("log-json-split-stream", "logging.options.json.splitStream", false)
        },
        Row {
            accepts: &[("512Ki", "\"512Ki\""), ("0", "\"0\"")],
            ..text("log-text-info-buffer-size", "logging.options.text.infoBufferSize", "0")
        },
        Row {
            accepts: &[("512Ki", "\"512Ki\""), ("0", "\"0\"")],
            ..text("log-json-info-buffer-size", "logging.options.json.infoBufferSize", "0")
        },
    ]
}

/// Flags without a field, which have tests of their own.
const WITHOUT_FIELD: [&str; 15] = [
    "config",
    "write-config-to",
    "cleanup",
    "cleanup-own",
    "cleanup-own-stay",
    "init-only",
    "dry-run",
    "master",
    "manifests",
    "healthz-port",
    "metrics-port",
    "version",
    "help",
    "boot-id-file",
    "machine-id-file",
];

fn field(flags: &Flags, path: &str) -> Value {
    let document = serde_json::to_value(&flags.configuration).unwrap();
    document.pointer(&format!("/{}", path.replace('.', "/"))).cloned().unwrap_or_default()
}

#[test]
fn every_flag_is_in_the_table_of_this_test() {
    let rows = rows();
    let known: Vec<_> = rows.iter().map(|row| row.flag).chain(WITHOUT_FIELD).collect();
    for flag in FLAGS {
        assert!(known.contains(&flag.name), "--{} is not tested", flag.name);
    }
    assert_eq!(FLAGS.len(), known.len(), "a flag of the test is gone, or there twice");
}

#[test]
fn every_flag_sets_its_field() {
    for row in rows() {
        let name = row.flag;
        assert_eq!(field(&Flags::default(), row.field), row.default, "--{name}: default");
        for (word, wanted) in row.accepts {
            let wanted: Value = serde_json::from_str(wanted).unwrap();
            let shown = |value: Value| if value == json!(false) { Value::Null } else { value };
            for word in [format!("--{name}={word}"), format!("--{}={word}", name.replace('-', "_"))] {
                let flags = accepted(&[&word]);
                let found = field(&flags, row.field);
                // A false `splitStream` is left out.
                let same = found == wanted || row.default.is_null() && found == shown(wanted.clone());
                assert!(same, "{word}: {found} is not {wanted}");
                assert!(flags.has(name), "{word}");
            }
        }
        for (word, problem) in row.rejects {
            let wanted = format!("--{name}: Invalid value: {word:?}: {problem}");
            assert_eq!(parsed(&[&format!("--{name}={word}")]).unwrap_err(), wanted);
        }
    }
}

#[test]
fn a_value_may_be_a_word_of_its_own_and_a_switch_stands_alone() {
    for row in rows() {
        let name = format!("--{}", row.flag);
        if row.rejects == NOT_A_SWITCH {
            assert_eq!(field(&accepted(&[&name]), row.field), true, "{name}");
            assert!(
                parsed(&[&name, "false"]).unwrap_err().starts_with("unexpected argument \"false\""),
                "{name}"
            );
        } else {
            let (word, wanted) = row.accepts[0];
            let wanted: Value = serde_json::from_str(wanted).unwrap();
            assert_eq!(field(&accepted(&[&name, word]), row.field), wanted, "{name}");
            let problem = parsed(&[&name]).unwrap_err();
            assert!(problem.starts_with(&format!("flag needs a value: {name} <")), "{problem}");
        }
    }
}

#[test]
fn the_last_one_wins_and_lists_grow() {
    for (words, path, wanted) in [
        (&["--proxy-mode=a", "--proxy-mode=b"][..], "mode", json!("b")),
        (&["--masquerade-all", "--masquerade-all=0"], "iptables.masqueradeAll", json!(false)),
        (
            &["--ipvs-exclude-cidrs=a,b", "--ipvs-exclude-cidrs", "c"],
            "ipvs.excludeCIDRs",
            json!(["a", "b", "c"]),
        ),
        // Quotes that a manifest passed on.
        (&["--ipvs-exclude-cidrs=\"a\",\"b\""], "ipvs.excludeCIDRs", json!(["a", "b"])),
        (&["--nodeport-addresses=\"a\""], "nodePortAddresses", json!(["a"])),
        (&["--feature-gates=A=true,,B=false,"], "featureGates", json!({"A": true, "B": false})),
        (&["--feature-gates=A=true", "--feature-gates=A=false"], "featureGates", json!({"A": false})),
        (&["--v", "4", "--v", "2"], "logging.verbosity", json!(2)),
        (&["-v", "4"], "logging.verbosity", json!(4)),
        (&["-v=4"], "logging.verbosity", json!(4)),
        (&["-v4"], "logging.verbosity", json!(4)),
        (&["--hostname_override", "--a_b"], "hostnameOverride", json!("--a_b")),
        (&["", "--"], "mode", json!("ipvs")),
        (&["--", ""], "mode", json!("ipvs")),
    ] {
        assert_eq!(field(&accepted(words), path), wanted, "{words:?}");
    }
    // A wrong value is an error even where a later one would win.
    assert!(parsed(&["--ipvs-udp-timeout=30", "--ipvs-udp-timeout=30s"]).is_err());
}

#[test]
fn what_has_no_field() {
    let flags = accepted(&[
        "--config",
        "c_d",
        "--master=http://x",
        "--manifests=a,b",
        "--manifests",
        "c",
        "--write-config-to=/o",
        "--healthz-port=0",
        "--metrics-port=1",
        "--boot-id-file=b",
        "--machine-id-file=m",
        "--init-only",
    ]);
    assert_eq!(flags.config, Some("c_d".into()));
    assert_eq!(flags.write_config_to, Some("/o".into()));
    assert_eq!(flags.master.as_deref(), Some("http://x"));
    assert_eq!(flags.manifests, [PathBuf::from("a,b"), PathBuf::from("c")]);
    assert_eq!((flags.healthz_port, flags.metrics_port), (Some(0), Some(1)));
    assert!(flags.init_only && !flags.cleanup && !flags.cleanup_own && !flags.dry_run);
    assert!(accepted(&["--dry-run"]).dry_run);
    assert!(accepted(&["--cleanup"]).cleanup);
    assert!(accepted(&["--cleanup-own"]).cleanup_own);
    let stays = accepted(&["--cleanup-own-stay"]);
    assert!(stays.cleanup_own_stay && !stays.cleanup_own);
    for words in [&["--config="][..], &["--write-config-to="], &["--master="]] {
        let flags = accepted(words);
        assert_eq!((flags.config, flags.write_config_to, flags.master), (None, None, None), "{words:?}");
    }
    for (words, version, help) in [
        (&["--version"][..], Some(VersionForm::Plain), false),
        (&["--version=raw"], Some(VersionForm::Raw), false),
        (&["--version=true"], Some(VersionForm::Plain), false),
        (&["--version=1"], Some(VersionForm::Plain), false),
        (&["--version=false"], None, false),
        (&["--help"], None, true),
        (&["-h"], None, true),
    ] {
        let flags = accepted(words);
        assert_eq!((flags.version, flags.help), (version, help), "{words:?}");
    }
}

#[test]
fn a_path_needs_no_utf8() {
    let path = OsString::from_vec(b"/x\xff_y".to_vec());
    let flags = parse([OsString::from("--config"), path.clone()].into_iter()).unwrap();
    assert_eq!(flags.config, Some(path.into()));
}

#[test]
fn what_is_wrong_is_one_clear_line() {
    for (words, line) in [
        (
            &["--ipvs-schedular=rr"][..],
            "unknown flag: --ipvs-schedular (did you mean --ipvs-scheduler?); --help lists all flags",
        ),
        (
            &["--ipvs-schedular", "rr"],
            "unknown flag: --ipvs-schedular (did you mean --ipvs-scheduler?); --help lists all flags",
        ),
        // Historic flags are unknown to kube-proxy, too.
        (
            &["--cleanup-ipvs"],
            "unknown flag: --cleanup-ipvs (did you mean --cleanup?); --help lists all flags",
        ),
        (&["--logtostderr=true"], "unknown flag: --logtostderr; --help lists all flags"),
        (&["--resource-container=x"], "unknown flag: --resource-container; --help lists all flags"),
        (&["-x"], "unknown flag: -x; --help lists all flags"),
        (&["-config=x"], "unknown flag: -c; --help lists all flags"),
        (
            &["run"],
            "unexpected argument \"run\": only flags are accepted; give a boolean flag its value as --flag=value",
        ),
        (
            &["--", "--version"],
            "unexpected argument \"--version\": only flags are accepted; give a boolean flag its value as --flag=value",
        ),
        (&["--version=1.2"], "--version: Invalid value: \"1.2\": must be true, false or raw"),
        (&["--version="], "--version: Invalid value: \"\": must be true, false or raw"),
        (&["--manifests="], "--manifests: Invalid value: \"\": must be the path of a file or a folder"),
        (
            &["--ipvs-exclude-cidrs=\"a"],
            "--ipvs-exclude-cidrs: Invalid value: \"\\\"a\": must end with a quote where an item begins with one",
        ),
        (&["-v"], "flag needs a value: --v <level>"),
        (&["-v", "high"], "--v: Invalid value: \"high\": must be a whole number"),
    ] {
        assert_eq!(parsed(words).unwrap_err(), line, "{words:?}");
    }
}

#[test]
fn a_file_replaces_what_is_bound_to_it() {
    let words = [
        "--config=x",
        "--kubeconfig=k",
        "--master=m",
        "--hostname-override=h",
        "-v=1",
        "--proxy-mode=ipvs",
        "--logging-format=json",
        "--init-only",
        "--feature-gates=A=true",
        "--kube-api-burst=7",
    ];
    let flags = accepted(&words);
    assert_eq!(
        flags.replaced_by_file().collect::<Vec<_>>(),
        ["kubeconfig", "proxy-mode", "feature-gates", "kube-api-burst"]
    );
    assert_eq!(flags.without_effect().collect::<Vec<_>>(), ["kube-api-burst"]);
}

#[test]
fn all_values_can_be_shown() {
    let values =
        accepted(&["--ipvs-tcp-timeout=900s", "--ipvs-exclude-cidrs=a", "--ipvs-exclude-cidrs=b"]).values();
    assert_eq!(values.len(), FLAGS.len());
    assert!(values.is_sorted());
    for (name, value) in [
        ("ipvs-tcp-timeout", "15m0s"),
        ("ipvs-exclude-cidrs", "a,b"),
        ("oom-score-adj", "-999"),
        ("masquerade-all", "false"),
        ("cluster-cidr", ""),
    ] {
        assert!(values.contains(&(name, value.to_owned())), "{name} {value} {values:#?}");
    }
}

/// The defaults that the help shows and the effective ones are written down in different places.
#[test]
fn the_defaults_that_are_shown_are_those_that_count() {
    for row in rows() {
        let flag = FLAGS.iter().find(|flag| flag.name == row.flag).unwrap();
        let counts = match &row.default {
            Value::Null if row.rejects == NOT_A_SWITCH => "false".to_owned(),
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            Value::Number(number) if number.is_f64() => format!("{}", number.as_f64().unwrap()),
            other => other.to_string(),
        };
        assert_eq!(flag.default, counts, "--{}", row.flag);
    }
}

#[test]
fn the_help_names_every_flag() {
    insta::assert_snapshot!(help());
}

proptest::proptest! {
    #[test]
    fn no_words_make_it_panic(words: Vec<String>) {
        let _ = parse(words.into_iter().map(OsString::from));
    }
}

use serde_json::{Value, json};

use super::*;
use crate::options::file;

const HEADER: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/// One field of the file: its default, values that are accepted with their results, and values that are refused with
/// the reason.
struct Row {
    field: &'static str,
    default: Value,
    accepts: &'static [(&'static str, &'static str)],
    rejects: &'static [(&'static str, &'static str)],
}

const TEXTS: &[(&str, &str)] = &[("some text", "\"some text\""), ("'5'", "\"5\"")];
const NOT_A_TEXT: &[(&str, &str)] = &[
    ("5", "must be a string, found the number 5: write it in quotes"),
    ("true", "must be a string, found the truth value true: write it in quotes"),
    ("[a]", "must be a string, found a list"),
    ("{a: 1}", "must be a string, found a mapping"),
];
const SWITCHES: &[(&str, &str)] =
    &[("true", "true"), ("yes", "true"), ("On", "true"), ("off", "false"), ("n", "false")];
const NOT_A_SWITCH: &[(&str, &str)] = &[
    ("maybe", "must be true or false, found \"maybe\""),
    ("1", "must be true or false, found the number 1"),
    ("[true]", "must be true or false, found a list"),
];
const NUMBERS: &[(&str, &str)] = &[
    ("7", "7"),
    ("-7", "-7"),
    ("2147483647", "2147483647"),
    ("14.0", "14"),
    ("-7.", "-7"),
    ("1e2", "100"),
    ("10e-1", "1"),
];
const NOT_A_NUMBER: &[(&str, &str)] = &[
    ("'7'", "must be a whole number, found \"7\""),
    ("1.5", "must be a whole number, found the number 1.5"),
    ("1e-1", "must be a whole number, found the number 0.1"),
    (".inf", "must be a whole number, found the number .inf"),
    ("3e9", "Invalid value: 3000000000: must be within -2147483648 and 2147483647"),
    ("2147483648", "Invalid value: 2147483648: must be within -2147483648 and 2147483647"),
    ("true", "must be a whole number, found the truth value true"),
];
const TIMES: &[(&str, &str)] = &[("90s", "\"1m30s\""), ("1h", "\"1h0m0s\""), ("-1s", "\"-1s\"")];
const NOT_A_TIME: &[(&str, &str)] = &[
    ("30", "Invalid value: 30: a duration needs a unit: write for example 30s"),
    ("1d", "Invalid value: \"1d\": unknown unit in a duration: allowed are ns, us, ms, s, m and h"),
    ("[1s]", "must be a duration such as 30s, found a list"),
];
const LISTS: &[(&str, &str)] = &[("[a, 'b']", "[\"a\",\"b\"]"), ("[]", "[]")];
const NOT_A_LIST: &[(&str, &str)] = &[
    ("a", "must be a list, found \"a\""),
    ("[a, 5]", "item 2: must be a string, found the number 5: write it in quotes"),
];

fn text(field: &'static str, default: &str) -> Row {
    Row { field, default: default.into(), accepts: TEXTS, rejects: NOT_A_TEXT }
}

fn switch(field: &'static str) -> Row {
    Row { field, default: false.into(), accepts: SWITCHES, rejects: NOT_A_SWITCH }
}

fn number(field: &'static str, default: i64) -> Row {
    Row { field, default: default.into(), accepts: NUMBERS, rejects: NOT_A_NUMBER }
}

fn time(field: &'static str, default: &str) -> Row {
    Row { field, default: default.into(), accepts: TIMES, rejects: NOT_A_TIME }
}

fn list(field: &'static str) -> Row {
    Row { field, default: Value::Null, accepts: LISTS, rejects: NOT_A_LIST }
}

/// A field that takes any text as an address; whether it is one is checked later.
fn address(field: &'static str, default: &str) -> Row {
    Row { accepts: &[("'::'", "\"[::]:PORT\""), ("1.2.3.4:5", "\"1.2.3.4:5\"")], ..text(field, default) }
}

/// Contract 2.1.
#[expect(clippy::too_many_lines, reason = "a table")]
fn rows() -> Vec<Row> {
    vec![
        Row {
            field: "featureGates",
            default: Value::Null,
            accepts: &[("{A: true, B: no}", "{\"A\":true,\"B\":false}")],
            rejects: &[
                ("[A]", "must be a mapping, found a list"),
                ("{A: 1}", "A: must be true or false, found the number 1"),
            ],
        },
        text("clientConnection.kubeconfig", ""),
        text("clientConnection.acceptContentTypes", ""),
        text("clientConnection.contentType", "application/vnd.kubernetes.protobuf"),
        Row {
            field: "clientConnection.qps",
            default: json!(5.0),
            accepts: &[("50", "50.0"), ("0.5", "0.5"), ("-1", "-1.0")],
            rejects: &[
                ("'5'", "must be a number, found \"5\""),
                (".inf", "must be a number, found the number .inf"),
            ],
        },
        number("clientConnection.burst", 10),
        text("logging.format", "text"),
        Row {
            accepts: &[("90s", "\"1m30s\""), ("5000000000", "\"5s\"")],
            rejects: &[(
                "1d",
                "Invalid value: \"1d\": unknown unit in a duration: allowed are ns, us, ms, s, m and h",
            )],
            ..time("logging.flushFrequency", "5s")
        },
        number("logging.verbosity", 0),
        Row {
            field: "logging.vmodule",
            default: Value::Null,
            accepts: &[("[{filePattern: a, verbosity: 2}]", r#"[{"filePattern":"a","verbosity":2}]"#)],
            rejects: &[],
        },
        Row {
            default: Value::Null,
            accepts: &[("true", "true")],
            ..switch("logging.options.text.splitStream")
        },
        Row {
            default: Value::Null,
            accepts: &[("true", "true")],
            ..switch("logging.options.json.splitStream")
        },
        Row {
            field: "logging.options.text.infoBufferSize",
            default: json!("0"),
            accepts: &[("512Ki", "\"512Ki\""), ("7", "\"7\"")],
            rejects: &[("[1]", "must be a string, found a list")],
        },
        Row {
            field: "logging.options.json.infoBufferSize",
            default: json!("0"),
            accepts: &[("512Ki", "\"512Ki\""), ("7", "\"7\"")],
            rejects: &[("[1]", "must be a string, found a list")],
        },
        text("hostnameOverride", ""),
        text("bindAddress", "0.0.0.0"),
        address("healthzBindAddress", "0.0.0.0:10256"),
        address("metricsBindAddress", "127.0.0.1:10249"),
        switch("bindAddressHardFail"),
        switch("enableProfiling"),
        text("showHiddenMetricsForVersion", ""),
        text("mode", "ipvs"),
        number("iptables.masqueradeBit", 14),
        switch("iptables.masqueradeAll"),
        Row { default: json!(true), ..switch("iptables.localhostNodePorts") },
        time("iptables.syncPeriod", "30s"),
        time("iptables.minSyncPeriod", "1s"),
        time("ipvs.syncPeriod", "30s"),
        time("ipvs.minSyncPeriod", "0s"),
        text("ipvs.scheduler", ""),
        list("ipvs.excludeCIDRs"),
        switch("ipvs.strictARP"),
        time("ipvs.tcpTimeout", "0s"),
        time("ipvs.tcpFinTimeout", "0s"),
        time("ipvs.udpTimeout", "0s"),
        number("nftables.masqueradeBit", 14),
        switch("nftables.masqueradeAll"),
        time("nftables.syncPeriod", "30s"),
        time("nftables.minSyncPeriod", "1s"),
        switch("winkernel.enableDSR"),
        switch("winkernel.forwardHealthCheckVip"),
        text("winkernel.networkName", ""),
        text("winkernel.rootHnsEndpointName", ""),
        text("winkernel.sourceVip", ""),
        Row { default: Value::Null, accepts: &[("true", "true")], ..switch("windowsRunAsService") },
        text("detectLocalMode", "ClusterCIDR"),
        text("detectLocal.bridgeInterface", ""),
        text("detectLocal.interfaceNamePrefix", ""),
        text("clusterCIDR", ""),
        list("nodePortAddresses"),
        number("oomScoreAdj", -999),
        number("conntrack.maxPerCore", 32_768),
        number("conntrack.min", 131_072),
        time("conntrack.tcpEstablishedTimeout", "24h0m0s"),
        time("conntrack.tcpCloseWaitTimeout", "1h0m0s"),
        switch("conntrack.tcpBeLiberal"),
        time("conntrack.udpTimeout", "0s"),
        time("conntrack.udpStreamTimeout", "0s"),
        time("configSyncPeriod", "15m0s"),
        text("portRange", ""),
        Row { default: Value::Null, ..time("kubeIPVS.drainDeadline", "") },
        Row {
            field: "kubeIPVS.estimator",
            default: Value::Null,
            accepts: &[("auto", "\"auto\""), ("on", "\"on\""), ("false", "\"off\""), ("keep", "\"keep\"")],
            rejects: &[
                ("fast", "Invalid value: \"fast\": must be auto, on, off or keep"),
                ("5", "must be a string, found the number 5: write it in quotes"),
            ],
        },
        Row { default: Value::Null, ..switch("kubeIPVS.sloppySCTP") },
        Row { default: Value::Null, ..switch("kubeIPVS.watchAllNodes") },
    ]
}

/// A file that sets a field to this value.
fn with(field: &str, value: &str) -> String {
    let lines: Vec<_> =
        field.split('.').enumerate().map(|(depth, name)| format!("{}{name}:", "  ".repeat(depth))).collect();
    format!("{HEADER}\n{} {value}\n", lines.join("\n"))
}

fn read_field(configuration: &Configuration, field: &str) -> Value {
    let document = serde_json::to_value(configuration).unwrap();
    document.pointer(&format!("/{}", field.replace('.', "/"))).cloned().unwrap_or_default()
}

#[test]
fn every_field_is_read_refused_and_defaulted() {
    let nothing = file::parse(HEADER).unwrap().configuration;
    for Row { field, default, accepts, rejects } in rows() {
        assert_eq!(read_field(&nothing, field), default, "{field}: default");
        for nothing in ["", "null", "~"] {
            let text = with(field, nothing);
            let found = file::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(read_field(&found.configuration, field), default, "{field}: {nothing:?}");
            assert_eq!(found.notices, [], "{field}");
        }
        for (word, wanted) in accepts {
            let text = with(field, word);
            let found = file::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let port = if field.starts_with("healthz") { "10256" } else { "10249" };
            let wanted: Value = serde_json::from_str(&wanted.replace("PORT", port)).unwrap();
            assert_eq!(read_field(&found.configuration, field), wanted, "{field}: {word}");
            assert_eq!(found.notices, [], "{field}: {word}");
        }
        for (word, problem) in rejects {
            let error = file::parse(&with(field, word)).unwrap_err().to_string();
            let wanted = format!("failed to decode: {field}: {problem} at line ");
            assert!(error.starts_with(&wanted), "{field}: {word}: {error}\n{wanted}");
        }
    }
}

/// Zero means "not set" for every field that is not a pointer in Go.
#[test]
fn zeros_mean_the_default_but_for_pointers() {
    const POINTERS: [&str; 5] = [
        "iptables.masqueradeBit",
        "nftables.masqueradeBit",
        "oomScoreAdj",
        "conntrack.maxPerCore",
        "conntrack.min",
    ];
    const POINTERS_TO_TIME: [&str; 3] =
        ["conntrack.tcpEstablishedTimeout", "conntrack.tcpCloseWaitTimeout", "kubeIPVS.drainDeadline"];
    for Row { field, default, accepts, .. } in rows() {
        let (zero, wanted) = match accepts {
            NUMBERS if POINTERS.contains(&field) => ("0", json!(0)),
            NUMBERS => ("0", default),
            TIMES if POINTERS_TO_TIME.contains(&field) => ("0s", json!("0s")),
            TIMES => ("0s", default),
            TEXTS => ("''", default),
            _ => continue,
        };
        let found = file::parse(&with(field, zero)).unwrap().configuration;
        assert_eq!(read_field(&found, field), wanted, "{field}: {zero}");
    }
    let found = file::parse(&with("iptables.localhostNodePorts", "false")).unwrap().configuration;
    assert_eq!(found.iptables.localhost_node_ports, Some(false));
    let found = file::parse(&with("clientConnection.qps", "0")).unwrap().configuration;
    assert_eq!(read_field(&found, "clientConnection.qps"), json!(5.0));
}

/// All leaves of a document, as paths.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let separator = if path.is_empty() { "" } else { "." };
                leaves(value, &format!("{path}{separator}{key}"), found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn every_field_is_in_the_table_of_this_test() {
    let rows = rows();
    let known: Vec<_> = rows.iter().map(|row| row.field).chain(["apiVersion", "kind"]).collect();
    let mut all = Configuration::default();
    all.set_defaults();
    // Fields that are left out when they are not set.
    all.own = Own {
        drain_deadline: Some(GoDuration::ZERO),
        estimator: Some(crate::options::Estimator::On),
        sloppy_sctp: Some(true),
        watch_all_nodes: Some(true),
    };
    all.feature_gates.insert("A".to_owned(), true);
    all.logging.vmodule.push(ModuleVerbosity::default());
    all.windows_run_as_service = true;
    all.logging.options.json.split_stream = true;
    all.logging.options.text.split_stream = true;
    let mut found = Vec::new();
    leaves(&serde_json::to_value(&all).unwrap(), "", &mut found);
    for field in &mut found {
        if field == "featureGates.A" {
            field.truncate("featureGates".len());
        }
    }
    found.sort_unstable();
    let mut known: Vec<_> = known.iter().map(ToString::to_string).collect();
    known.sort_unstable();
    assert_eq!(found, known);
}

#[test]
fn what_is_written_is_read_as_the_same() {
    let mut configuration = Configuration::for_flags();
    configuration.ipvs.exclude_cidrs = Some(vec!["10.0.0.0/8".to_owned()]);
    configuration.own.drain_deadline = Some(GoDuration::from_seconds(5));
    configuration.feature_gates.insert("A".to_owned(), false);
    let text = file::text(&configuration);
    let loaded = file::parse(&text).unwrap();
    assert_eq!(loaded.configuration, configuration, "{text}");
    assert_eq!(loaded.notices, []);
}

#[test]
fn the_defaults_as_a_file() {
    insta::assert_snapshot!(file::text(&file::parse(HEADER).unwrap().configuration));
}

/// JSON is YAML.
#[test]
fn what_configz_shows_is_the_configuration_file() {
    let configuration = file::parse(&format!(
        "{HEADER}ipvs: {{scheduler: wlc, tcpTimeout: 15m}}\nclientConnection: {{qps: 0.1}}\n\
         kubeIPVS: {{drainDeadline: 5s}}"
    ));
    let configuration = configuration.unwrap().configuration;
    let json = file::json(&configuration);
    assert_eq!(file::parse(&json).unwrap(), file::Loaded { configuration, notices: vec![] }, "{json}");
    for shown in [
        r#""apiVersion":"kubeproxy.config.k8s.io/v1alpha1""#,
        r#""kind":"KubeProxyConfiguration""#,
        r#""mode":"ipvs""#,
        r#""scheduler":"wlc""#,
        r#""tcpTimeout":"15m0s""#,
        r#""excludeCIDRs":null"#,
        r#""qps":0.1}"#,
        r#""drainDeadline":"5s""#,
    ] {
        assert!(json.contains(shown), "{shown}: {json}");
    }
}

#[test]
fn listen_addresses_follow_the_family_of_the_bind_address() {
    for (bind, healthz, metrics) in [
        ("0.0.0.0", "0.0.0.0:10256", "127.0.0.1:10249"),
        ("192.0.2.1", "0.0.0.0:10256", "127.0.0.1:10249"),
        ("'::'", "[::]:10256", "[::1]:10249"),
        ("'fd00::1'", "[::]:10256", "[::1]:10249"),
    ] {
        let found = file::parse(&with("bindAddress", bind)).unwrap().configuration;
        assert_eq!(
            (&*found.healthz_bind_address, &*found.metrics_bind_address),
            (healthz, metrics),
            "{bind}"
        );
    }
}

//! Runs promtool. On a machine without it, the test fails and says where to get it.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Runs promtool with these arguments and this input; returns its exit status and its output.
pub(crate) fn run(arguments: &[&str], input: &str) -> (i32, String) {
    let child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| {
        panic!("promtool: {error}; `tests/lab/packages.sh promtool=prometheus` installs it")
    });
    let sent = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("promtool ends");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).expect("promtool writes text");
    assert!(sent.is_ok() || input.is_empty(), "promtool does not read its input: {text}");
    (output.status.code().unwrap_or(-1), text)
}

/// An expression of a panel, with Grafana's variables filled in.
fn filled(expression: &str) -> String {
    expression.replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$job", ".*")
}

/// Checks that a panel shows this number, if these are all series and their values are constant.
pub(crate) fn check_value(panel: &str, series: &[(String, u32)], number: u32) -> (i32, String) {
    let series: Vec<_> = series
        .iter()
        .map(|(series, value)| serde_json::json!({"series": series, "values": format!("{value}x5")}))
        .collect();
    let shown = serde_json::json!([{"labels": "{}", "value": number}]);
    let tests = serde_json::json!({"rule_files": [], "tests": [{
        "interval": "1m", "input_series": series,
        "promql_expr_test": [{"expr": filled(panel), "eval_time": "5m", "exp_samples": shown}],
    }]});
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tests.yaml");
    std::fs::write(&file, tests.to_string()).expect("a file");
    run(&["test", "rules", file.to_str().expect("UTF-8")], "")
}

/// Checks that these expressions parse: as rules, since without a server promtool checks nothing smaller.
pub(crate) fn check_expressions(expressions: &[(String, String)]) -> (i32, String) {
    let rules: Vec<_> = expressions
        .iter()
        .enumerate()
        .map(|(number, (place, expression))| {
            serde_json::json!({
                "record": format!("x:{number}"), "expr": filled(expression),
                // Equal rules would be an error; equal panels are not.
                "labels": {"place": place},
            })
        })
        .collect();
    let rules = serde_json::json!({"groups": [{"name": "all", "rules": rules}]});
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.yaml");
    std::fs::write(&file, rules.to_string()).expect("a file");
    run(&["check", "rules", file.to_str().expect("UTF-8")], "")
}

//! Runs promtool. A machine without it fails the test, and learns where to get it.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Runs it with these arguments and this input: its exit status, and what it says about the input.
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
    assert!(sent.is_ok(), "promtool does not read its input: {text}");
    (output.status.code().unwrap_or(-1), text)
}

use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::*;

/// Collects what was written.
#[derive(Clone, Default)]
pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    pub(crate) fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    /// The lines with this text.
    pub(crate) fn lines_with(&self, text: &str) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.contains(text)).collect()
    }
}

/// Keeps a second listener, which discards everything. With a single listener, `tracing` asks the thread that first
/// reaches a line whether anybody listens to it, and keeps the answer for all threads.
fn keep_a_second_listener() {
    static SECOND: OnceLock<tracing::Dispatch> = OnceLock::new();
    let lines = Lines { format: LogFormat::Text, process: 1, now: || UNIX_EPOCH };
    SECOND.get_or_init(|| tracing::Dispatch::new(subscriber(lines, io::sink)));
}

/// Collects what this thread logs until the guard is dropped.
pub(crate) fn listen() -> (Written, tracing::subscriber::DefaultGuard) {
    keep_a_second_listener();
    let written = Written::default();
    let writer = written.clone();
    let lines = Lines { format: LogFormat::Text, process: 1, now: || UNIX_EPOCH };
    let guard = tracing::subscriber::set_default(subscriber(lines, move || writer.clone()));
    (written, guard)
}

/// What `events` logs, line by line.
fn lines_of(format: LogFormat, process: u32, events: impl FnOnce()) -> Vec<String> {
    let written = Written::default();
    let writer = written.clone();
    let now = || UNIX_EPOCH + Duration::from_nanos(1_795_359_845_000_042_999);
    keep_a_second_listener();
    let subscriber = subscriber(Lines { format, process, now }, move || writer.clone());
    tracing::subscriber::with_default(subscriber, events);
    written.lines()
}

/// The level is global to the process, so everything that depends on it is in one test.
#[test]
fn lines_are_klogs() {
    let line = line!() + 2;
    let lines = lines_of(LogFormat::Text, 12345, || {
        tracing::info!(ipFamily = "IPv4", "Using ipvs Proxier");
        tracing::warn!(count = 3_u64, delta = -1, ratio = 0.5, ok = true, "a {}", "b");
        tracing::error!(err = %"no \"x\"\nhere", "command failed");
        tracing::info!(NodeIPs = ?["10.0.0.1", "::1"], at = %"[::]:10256", elapsed = ?Duration::from_millis(5), "m");
        let inner = io::Error::other("inner");
        let outer = crate::kernel::ReadError { what: "all", source: inner };
        tracing::error!(err = &outer as &dyn Error, "outer");
    });
    let wanted = [
        format!(r#"I1122 15:04:05.000042   12345 tests.rs:{line}] "Using ipvs Proxier" ipFamily="IPv4""#),
        format!(
            r#"W1122 15:04:05.000042   12345 tests.rs:{}] "a b" count=3 delta=-1 ratio=0.5 ok=true"#,
            line + 1
        ),
        format!(
            r#"E1122 15:04:05.000042   12345 tests.rs:{}] "command failed" err="no \"x\"\nhere""#,
            line + 2
        ),
        format!(
            r#"I1122 15:04:05.000042   12345 tests.rs:{}] "m" NodeIPs=["10.0.0.1", "::1"] at="[::]:10256" elapsed="5ms""#,
            line + 3
        ),
        format!(
            r#"E1122 15:04:05.000042   12345 tests.rs:{}] "outer" err="cannot read all from the kernel: inner""#,
            line + 6
        ),
    ];
    assert_eq!(lines, wanted);

    let shown = |verbosity| {
        set_verbosity(verbosity);
        let lines = lines_of(LogFormat::Text, 1, || {
            tracing::info!("info");
            vlog!(2, interface = "kube-ipvs0", "v2");
            tracing::debug!("debug");
            tracing::trace!("trace");
            tracing::warn!(target: "hyper", "other warn");
            tracing::info!(target: "hyper", "other info");
            tracing::error!(target: "kube_client::client::builder", "told by the watch too");
            tracing::debug!(target: "hyper", "other debug");
            tracing::trace!(target: "hyper", "other trace");
        });
        lines.iter().map(|line| line.split('"').nth(1).unwrap().to_owned()).collect::<Vec<_>>().join(", ")
    };
    for (verbosity, wanted) in [
        (0, "info, other warn"),
        (1, "info, other warn"),
        (2, "info, v2, other warn"),
        (4, "info, v2, debug, other warn, other info, told by the watch too"),
        (6, "info, v2, debug, trace, other warn, other info, told by the watch too, other debug"),
        (
            8,
            "info, v2, debug, trace, other warn, other info, told by the watch too, other debug, other trace",
        ),
    ] {
        assert_eq!(shown(verbosity), wanted, "-v={verbosity}");
    }

    set_verbosity(8);
    let leveled = |format| {
        lines_of(format, 1, || {
            let level: u8 = 3;
            vlog!(level, interface = "kube-ipvs0", "v3");
            vlog!(0, "v0");
            tracing::debug!("debug");
            tracing::info!(target: "hyper", "other info");
            tracing::warn!("warn");
        })
    };
    let after = |lines: Vec<String>, mark: &str| -> Vec<String> {
        lines.iter().map(|line| line.split_once(mark).unwrap().1.to_owned()).collect()
    };
    let wanted = [r#""v3" interface="kube-ipvs0""#, r#""v0""#, r#""debug""#, r#""other info""#, r#""warn""#];
    assert_eq!(after(leveled(LogFormat::Text), "] "), wanted);
    let wanted = [
        r#""v3","v":3,"interface":"kube-ipvs0"}"#,
        r#""v0","v":0}"#,
        r#""debug","v":4}"#,
        r#""other info","v":4}"#,
        r#""warn"}"#,
    ];
    assert_eq!(after(leveled(LogFormat::Json), "\"msg\":"), wanted);
    set_verbosity(0);
}

#[test]
fn lines_without_structure_have_no_quotes() {
    let line = line!() + 1;
    let lines = lines_of(LogFormat::Text, 1, || tracing::info!(target: PLAIN, "FLAG: --v={:?}", "0"));
    assert_eq!(lines, [format!(r#"I1122 15:04:05.000042       1 tests.rs:{line}] FLAG: --v="0""#)]);
}

#[test]
fn lines_may_be_json() {
    let line = line!() + 2;
    let lines = lines_of(LogFormat::Json, 1, || {
        tracing::info!(ipFamily = "IPv4", count = 3, ratio = 0.5, ok = true, "Using \"ipvs\" Proxier");
        let outer = crate::kernel::ReadError { what: "all", source: io::Error::other("inner") };
        tracing::error!(err = &outer as &dyn Error, at = %"[::]:1", "outer");
    });
    let wanted = [
        format!(
            r#"{{"ts":1795359845000.043,"caller":"tests.rs:{line}","msg":"Using \"ipvs\" Proxier","v":0,"ipFamily":"IPv4","count":3,"ratio":0.5,"ok":true}}"#
        ),
        format!(
            r#"{{"ts":1795359845000.043,"level":"error","caller":"tests.rs:{}","msg":"outer","err":"cannot read all from the kernel: inner","at":"[::]:1"}}"#,
            line + 2
        ),
    ];
    assert_eq!(lines, wanted);
}

#[test]
fn the_process_has_seven_places() {
    let place = |process| {
        let mut lines = lines_of(LogFormat::Text, process, || tracing::warn!("x"));
        lines.remove(0).split("tests.rs").next().unwrap().to_owned()
    };
    assert_eq!(place(1), "W1122 15:04:05.000042       1 ");
    assert_eq!(place(12_345_678), "W1122 15:04:05.000042 12345678 ");
}

#[test]
fn sources_are_short() {
    for (path, wanted) in [
        ("src/options/merge.rs", "merge.rs"),
        ("src/reconcile/mod.rs", "reconcile/mod.rs"),
        ("main.rs", "main.rs"),
        ("serve/mod.rs", "serve/mod.rs"),
        ("/registry/kube-5.0.0/src/lib.rs", "lib.rs"),
    ] {
        assert_eq!(source(path), wanted);
    }
}

use std::ffi::OsString;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;
use crate::options::{Command, from_args};

/// The options that these flags give.
fn options(words: &[&str]) -> Options {
    match from_args(words.iter().map(OsString::from), std::iter::empty()).unwrap() {
        Command::Run(merged) => merged.options,
        other => panic!("{other:?}"),
    }
}

/// A folder that looks like the roots of `proc` and `sys`.
pub(super) fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

fn content(root: &tempfile::TempDir, path: &str) -> String {
    fs::read_to_string(root.path().join(path)).unwrap().trim().to_owned()
}

fn texts(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(entry, value)| ((*entry).to_owned(), (*value).to_owned())).collect()
}

/// The entries that were set, without their previous values.
fn set(report: &Report) -> Vec<(String, String)> {
    report.set.iter().map(|change| (change.entry.clone(), change.after.clone())).collect()
}

const MAX: &str = "proc/sys/net/netfilter/nf_conntrack_max";
const ESTABLISHED: &str = "proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
const CLOSE_WAIT: &str = "proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";

#[test]
fn what_differs_is_written_and_named() {
    let root = host(&[
        (MAX, "65536\n"),
        (HASH_SIZE, "16384\n"),
        (ESTABLISHED, "432000\n"),
        (CLOSE_WAIT, "3600\n"),
        (OOM_SCORE_ADJUSTMENT, "0\n"),
    ]);
    let report = apply(root.path(), &options(&[]), 8);
    let wanted = texts(&[
        ("net/netfilter/nf_conntrack_max", "262144"),
        (HASH_SIZE, "65536"),
        ("net/netfilter/nf_conntrack_tcp_timeout_established", "86400"),
        (OOM_SCORE_ADJUSTMENT, "-999"),
    ]);
    assert_eq!(set(&report), wanted);
    assert!(report.missing.is_empty() && report.failed.is_empty(), "{report:?}");
    assert_eq!((content(&root, MAX), content(&root, HASH_SIZE)), ("262144".into(), "65536".into()));
    // A second run changes nothing.
    let again = apply(root.path(), &options(&[]), 8);
    assert!(again.set.is_empty() && again.missing.is_empty() && again.failed.is_empty(), "{again:?}");
}

#[test]
fn what_would_be_set_is_seen_and_not_set() {
    let files =
        [(MAX, "65536\n"), (HASH_SIZE, "16384\n"), (ESTABLISHED, "86400\n"), (ONLINE_PROCESSORS, "0-7\n")];
    let root = host(&files);
    fs::create_dir_all(root.path().join(CLOSE_WAIT)).unwrap();
    let changes = changes(root.path(), &options(&[]));
    let change = |entry: &str, before: &str, after: &str| Change {
        entry: entry.to_owned(),
        before: before.to_owned(),
        after: after.to_owned(),
    };
    let wanted =
        [change("net/netfilter/nf_conntrack_max", "65536", "262144"), change(HASH_SIZE, "16384", "65536")];
    assert_eq!(changes, wanted);
    for (path, text) in files {
        assert_eq!(content(&root, path), text.trim(), "{path}");
    }
}

#[test]
fn zeros_leave_everything_as_it_is() {
    let root = host(&[(MAX, "1\n"), (HASH_SIZE, "1\n"), (ESTABLISHED, "1\n"), (OOM_SCORE_ADJUSTMENT, "5\n")]);
    let words = [
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
        "--oom-score-adj=5",
    ];
    let report = apply(root.path(), &options(&words), 8);
    assert!(report.set.is_empty() && report.missing.is_empty() && report.failed.is_empty(), "{report:?}");
}

#[test]
fn the_limit_of_connection_tracking_is_never_lowered() {
    let quiet = ["--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"];
    let set = |now: &str| {
        let root = host(&[(MAX, now), (HASH_SIZE, "1024\n")]);
        let report = apply(root.path(), &options(&quiet), 8);
        assert!(report.failed.is_empty(), "{report:?}");
        let max = report.set.iter().find(|change| change.entry.ends_with("nf_conntrack_max"));
        // The table is sized for the wanted limit, as in kube-proxy.
        assert_eq!(content(&root, HASH_SIZE), "65536", "{now:?}");
        (max.is_some(), content(&root, MAX))
    };
    for (now, wanted) in [
        ("262143\n", (true, "262144")),
        ("262144\n", (false, "262144")),
        ("1048576\n", (false, "1048576")),
        ("nonsense\n", (true, "262144")),
    ] {
        assert_eq!(set(now), (wanted.0, wanted.1.to_owned()), "{now:?}");
    }
}

#[test]
fn a_hash_table_is_never_made_smaller() {
    let root = host(&[(MAX, "1\n"), (HASH_SIZE, "262144\n")]);
    let words = ["--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"];
    let report = apply(root.path(), &options(&words), 1);
    assert_eq!(set(&report), texts(&[("net/netfilter/nf_conntrack_max", "131072")]));
    assert_eq!(content(&root, HASH_SIZE), "262144");
}

#[test]
fn what_the_kernel_lacks_or_refuses_is_no_reason_to_stop() {
    let root = host(&[(OOM_SCORE_ADJUSTMENT, "-999\n")]);
    // Nobody can read or write a folder as a file.
    fs::create_dir_all(root.path().join(MAX)).unwrap();
    let report = apply(root.path(), &options(&["--conntrack-tcp-be-liberal"]), 1);
    let wanted = [
        HASH_SIZE,
        "net/netfilter/nf_conntrack_tcp_timeout_established",
        "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
        "net/netfilter/nf_conntrack_tcp_be_liberal",
    ];
    assert_eq!(report.missing, wanted);
    let failed: Vec<_> = report.failed.iter().map(|(entry, _)| entry.as_str()).collect();
    assert_eq!(failed, ["net/netfilter/nf_conntrack_max"]);
    assert!(report.set.is_empty());
}

#[test]
fn a_small_table_of_connections_is_named() {
    let head = |size: u32| format!("IP Virtual Server version 1.2.1 (size={size})\nProt LocalAddress:Port\n");
    let small = |size, most, bits| Some(SmallTable { size, most, bits });
    for (size, most, wanted) in [
        (4096, 131_072, small(4096, 131_072, 15)),
        (32_768, 131_072, None),
        (4096, 16_384, None),
        (4096, 16_388, small(4096, 16_388, 13)),
        (1 << 20, u32::MAX, None),
        (4096, u32::MAX, small(4096, u32::MAX, 20)),
    ] {
        let root = host(&[(IPVS, &head(size)), (MAX, &format!("{most}\n"))]);
        assert_eq!(small_table(root.path()), wanted, "{size} for {most}");
    }
    for files in [
        vec![(IPVS, head(4096))],
        vec![(MAX, "131072\n".into())],
        vec![(IPVS, "IP Virtual Server\n".into()), (MAX, "131072\n".into())],
        vec![(IPVS, head(4096)), (MAX, "131072\n".into()), (LOAD_FACTOR, "-4\n".into())],
    ] {
        let files: Vec<_> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        assert_eq!(small_table(host(&files).path()), None, "{files:?}");
    }
}

#[test]
fn nothing_behind_the_first_line_is_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let (tell, told) = mpsc::channel();
    let slow = path.clone();
    let writer = std::thread::spawn(move || {
        let mut pipe = OpenOptions::new().write(true).open(slow).unwrap();
        pipe.write_all(b"first\nsec").unwrap();
        told.recv_timeout(Duration::from_secs(10)).is_ok()
    });
    assert_eq!(first_line(&path).unwrap(), "first\n");
    tell.send(()).unwrap();
    assert!(writer.join().unwrap(), "it was read to its end");
}

#[test]
fn processors_are_counted() {
    for (list, wanted) in [
        ("0", Some(1)),
        ("0-3", Some(4)),
        ("0-3,6,8-9", Some(7)),
        ("", None),
        ("3-0", None),
        ("x", None),
        ("0-", None),
    ] {
        assert_eq!(count(list), wanted, "{list:?}");
    }
    assert_eq!(processors(host(&[(ONLINE_PROCESSORS, "0-15\n")]).path()), 16);
    assert!(processors(host(&[]).path()) >= 1);
}

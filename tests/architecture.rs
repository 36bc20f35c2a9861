//! Facts flow one way: no module uses a later one, and the pure modules know no runtime, socket or clock.

use std::fs;
use std::path::{Path, PathBuf};

/// These modules connect everything, and may see all others.
const SEE_ALL: [&str; 3] = ["app", "lib", "main"];
/// What each other part of `src` may use of the others (as prefixes of paths after `crate::`).
const MAY_USE: [(&str, &[&str]); 15] = [
    ("allocator", &[]),
    ("open_files", &[]),
    ("reconcile", &RECONCILE),
    ("report", &REPORT),
    ("state", &["cluster::types"]),
    ("sloppy", &[]),
    ("telemetry", &["telemetry", "options::LogFormat"]),
    ("api", &["api", "cluster::types", "sloppy", "telemetry"]),
    ("cluster", &["cluster", "api::{Change, Event}", "state"]),
    ("desired", &["desired", "cluster", "options::ProxyOptions", "options::proxy", "state"]),
    ("diff", &["diff", "cluster::types", "state"]),
    ("kernel", &["kernel", "diff", "cluster::types", "state", "telemetry"]),
    ("leftovers", &["leftovers", "kernel", "diff::Step", "cluster::types", "state"]),
    ("options", &["options", "cluster::types", "sloppy", "state", "COMMIT"]),
    ("serve", &["serve", "cluster::types", "telemetry", "vlog", "COMMIT"]),
];
/// The loop sees the trait and the memory kernel, never Linux.
const RECONCILE: [&str; 15] = [
    "reconcile",
    "api",
    "cluster",
    "desired",
    "diff",
    "kernel::{",
    "kernel::Found",
    "kernel::Kernel",
    "kernel::Purged",
    "kernel::ReadError",
    "kernel::Refusal",
    "kernel::Selection",
    "options::ProxyOptions",
    "options::proxy",
    "state",
];
/// Reports use the kernel's answers, and never ask the kernel.
const REPORT: [&str; 16] = [
    "report",
    "allocator",
    "api::events",
    "cluster",
    "desired",
    "diff",
    "kernel::Outcome",
    "kernel::Purged",
    "kernel::ReadError",
    "options::ProxyOptions",
    "options::proxy",
    "reconcile",
    "serve",
    "state",
    "telemetry",
    "vlog",
];
const PURE: [&str; 26] = [
    "cluster",
    "desired",
    "diff",
    "leftovers/forward.rs",
    "leftovers/names.rs",
    "leftovers/plan.rs",
    "leftovers/iptables_save.rs",
    "leftovers/seen.rs",
    "options",
    "reconcile/core.rs",
    "reconcile/core",
    "reconcile/explanation.rs",
    "reconcile/first.rs",
    "reconcile/foreign.rs",
    "reconcile/note.rs",
    "reconcile/purge.rs",
    "reconcile/picture.rs",
    "reconcile/progress.rs",
    "reconcile/schedule.rs",
    "reconcile/drain.rs",
    "reconcile/audit.rs",
    "reconcile/refusals.rs",
    "reconcile/rehearse.rs",
    "sloppy.rs",
    "state.rs",
    "state",
];
const IMPURE: [&str; 11] = [
    "tokio",
    "netlink",
    "Instant::now",
    "SystemTime",
    "TcpStream",
    "UdpSocket",
    "std::thread",
    "kube::",
    "std::fs",
    "tracing::",
    "vlog!",
];
/// The configuration file is read in the settings module.
const EXCEPTIONS: [(&str, &str); 1] = [("options/file.rs", "std::fs")];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn offences(rule: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30, "the sources are not where they were");
    let mut found = Vec::new();
    for file in files {
        let name = file.strip_prefix(&root).expect("below src").to_string_lossy().into_owned();
        let is_test = name.split(['/', '.']).any(|part| part == "tests");
        let text = fs::read_to_string(&file).expect("a source");
        let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
        found.extend(
            code.filter(|(_, line)| !is_test && rule(&name, line))
                .map(|(index, line)| format!("src/{name}:{}: {}", index + 1, line.trim())),
        );
    }
    found
}

#[test]
fn nothing_uses_what_comes_after_it() {
    let bad = offences(|name, line| {
        let part = name.split(['/', '.']).next().expect("a name");
        let Some((_, allowed)) = MAY_USE.iter().find(|(known, _)| *known == part) else {
            assert!(SEE_ALL.contains(&part), "{name}: what may it use?");
            return false;
        };
        line.match_indices("crate::").any(|(at, found)| {
            let path = &line[at + found.len()..];
            !allowed.iter().any(|prefix| path.starts_with(prefix))
                // A list of items of one module: none of them may be Linux.
                || part == "reconcile" && path.starts_with("kernel::{") && path.contains("linux")
        })
    });
    assert!(bad.is_empty(), "these look the wrong way:\n{}", bad.join("\n"));
}

#[test]
fn pure_modules_know_no_runtime_socket_or_clock() {
    let bad = offences(|name, line| {
        PURE.iter().any(|pure| name.starts_with(pure))
            && IMPURE.iter().any(|word| line.contains(word) && !EXCEPTIONS.contains(&(name, *word)))
    });
    assert!(bad.is_empty(), "these are not pure:\n{}", bad.join("\n"));
}

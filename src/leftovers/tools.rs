//! Finds and runs the programs of iptables.
//!
//! Linux has two iptables, `legacy` (with tables of its own) and `nft` (with tables in nftables, in a form of its own),
//! and a packet passes both. Each has its own programs, per family. This program does not try to do without them: the
//! interface of legacy is a binary image of whole tables, which differs by processor, and that of nft is full of
//! compatibility forms that only its own programs write in the way they will read them. Reading as much of the nft
//! tables as is needed to delete from them is another matter: see `seen.rs`, for tables that the programs do not print.

use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::iptables_save::{self, Table, Unreadable};
use crate::cluster::types::Family;

/// Where the programs are searched for, besides the folders of `PATH`, which may be short in a service's environment.
const FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"];
/// How many seconds a program waits while somebody else changes iptables (`--wait`).
const WAIT_SECONDS: &str = "30";
/// How long a program is waited for: longer than any that makes progress takes, so that one that hangs is noticed.
const LIMIT: Duration = Duration::from_mins(5);

/// One of the two iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Variant {
    Legacy,
    Nft,
}

impl Variant {
    const ALL: [Self; 2] = [Self::Legacy, Self::Nft];

    fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
        }
    }
}

/// The iptables of one variant and family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) variant: Variant,
    pub(super) family: Family,
}

impl Place {
    /// All four.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Variant::ALL
            .into_iter()
            .flat_map(|variant| Family::ALL.into_iter().map(move |family| Self { variant, family }))
    }
}

impl fmt::Display for Place {
    /// The name of its program: `ip6tables-legacy`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", stem(self.family), self.variant.as_str())
    }
}

fn stem(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

/// The programs of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tool {
    save: PathBuf,
    restore: PathBuf,
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum ToolError {
    /// The program could not be started, or communicated with.
    #[error("{}: {error}", .program.display())]
    Start { program: PathBuf, error: std::io::Error },
    /// The program failed, with this text.
    #[error("{}: {text}", .program.display())]
    Failed { program: PathBuf, text: String },
    /// The program did not end by itself.
    #[error("{}: it did not end within {limit:?}, and was killed", .program.display())]
    Hung { program: PathBuf, limit: Duration },
    /// The program printed something that is not understood.
    #[error("{}: {error}", .program.display())]
    Unreadable { program: PathBuf, error: Unreadable },
}

impl Tool {
    /// The programs of a place, if they are installed: under the name that includes the variant, or (before iptables
    /// 1.8, and where only one variant is installed) under the plain name, if that program says it is this variant.
    pub(super) fn find(place: Place) -> Option<Self> {
        let folders = folders();
        let named = Self::in_folders(&folders, &place.to_string());
        named.or_else(|| {
            let plain = stem(place.family);
            let version = run(&search(&folders, plain)?, &["--version"], "").ok()?;
            (variant_of(&String::from_utf8_lossy(&version)) == place.variant)
                .then(|| Self::in_folders(&folders, plain))
                .flatten()
        })
    }

    /// Whether programs are installed that may be those of a place. None of them is started.
    pub(super) fn may_be_there(place: Place) -> bool {
        let folders = folders();
        [&*place.to_string(), stem(place.family)]
            .into_iter()
            .any(|name| Self::in_folders(&folders, name).is_some())
    }

    fn in_folders(folders: &[PathBuf], name: &str) -> Option<Self> {
        Some(Self {
            save: search(folders, &format!("{name}-save"))?,
            restore: search(folders, &format!("{name}-restore"))?,
        })
    }

    /// All tables that exist. Asking for all does not create any, unlike asking for one.
    pub(super) fn save(&self) -> Result<Vec<Table>, ToolError> {
        let printed = run(&self.save, &[], "")?;
        iptables_save::read(&String::from_utf8_lossy(&printed))
            .map_err(|error| ToolError::Unreadable { program: self.save.clone(), error })
    }

    /// Carries out all changes, or none of them.
    pub(super) fn restore(&self, input: &str) -> Result<(), ToolError> {
        run(&self.restore, &["--noflush", "--wait", WAIT_SECONDS], input).map(drop)
    }
}

fn folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from)).collect()
}

fn search(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    folders.iter().filter(|folder| folder.is_absolute()).map(|folder| folder.join(name)).find(|p| p.is_file())
}

/// The variant according to `iptables v1.8.9 (nf_tables)`, `iptables v1.8.9 (legacy)` or `iptables v1.6.1`.
fn variant_of(version: &str) -> Variant {
    if version.contains("nf_tables") { Variant::Nft } else { Variant::Legacy }
}

/// Runs a program with this input, and returns what it printed.
fn run(program: &Path, arguments: &[&str], input: &str) -> Result<Vec<u8>, ToolError> {
    run_for(LIMIT, on_a_thread, program, arguments, input)
}

type Work = Box<dyn FnOnce() + Send>;

fn on_a_thread(work: Work) -> io::Result<()> {
    thread::Builder::new().name("iptables".to_owned()).spawn(work).map(drop)
}

/// As [`run`], with a limit. `begin` is given the work that starts the program and waits for its end. If `begin` fails,
/// no program was started: a program that nobody waits for would stay a zombie for as long as this one runs.
fn run_for(
    limit: Duration,
    begin: impl FnOnce(Work) -> io::Result<()>,
    program: &Path,
    arguments: &[&str],
    input: &str,
) -> Result<Vec<u8>, ToolError> {
    let start = || -> io::Result<Option<Output>> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        let (starter, started) = mpsc::channel();
        let (ender, ended) = mpsc::channel();
        let input = input.to_owned();
        // The work ends when the program does. If the program was given up, nobody listens to the result any more.
        begin(Box::new(move || {
            let output = command.spawn().and_then(|child| {
                let _ = starter.send(Pid::from_child(&child));
                talk(child, &input)
            });
            let _ = ender.send(output);
        }))?;
        // `None` if the program could not be started; then `ended` says why.
        let group = started.recv().ok();
        let output = ended.recv_timeout(limit).map_or(Ok(None), |output| output.map(Some));
        if let Some(group) = group.filter(|_| !matches!(output, Ok(Some(_)))) {
            // Including what the program has started. The group may already be gone.
            let _ = kill_process_group(group, Signal::KILL);
        }
        output
    };
    let output = start().map_err(|error| ToolError::Start { program: program.to_owned(), error })?;
    let Some(output) = output else { return Err(ToolError::Hung { program: program.to_owned(), limit }) };
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    let text = if text.is_empty() { output.status.to_string() } else { text };
    Err(ToolError::Failed { program: program.to_owned(), text })
}

/// Gives a program its input, and waits for its end.
fn talk(mut child: Child, input: &str) -> io::Result<Output> {
    // The program reads all of its input before it prints anything, so neither side waits for the other. A program that
    // rejects its input says why by itself.
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    match written {
        Some(Err(error)) if output.status.success() => Err(error),
        _ => Ok(output),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn versions_tell_the_variant() {
        assert_eq!(variant_of("iptables v1.8.9 (nf_tables)\n"), Variant::Nft);
        assert_eq!(variant_of("iptables v1.8.9 (legacy)\n"), Variant::Legacy);
        assert_eq!(variant_of("iptables v1.6.1\n"), Variant::Legacy);
    }

    #[test]
    fn what_a_program_says_against_it_is_the_error() {
        let shell = Path::new("/bin/sh");
        let error = run(shell, &["-c", "cat >/dev/null; echo first >&2; echo second >&2; exit 2"], "input")
            .expect_err("it failed");
        assert_eq!(error.to_string(), "/bin/sh: first; second");
        let error = run(shell, &["-c", "exit 3"], "").expect_err("it failed");
        assert_eq!(error.to_string(), "/bin/sh: exit status: 3");
        let error = run(Path::new("/nonexistent"), &[], "").expect_err("it cannot be started");
        assert!(error.to_string().starts_with("/nonexistent: No such file"), "{error}");
        assert_eq!(run(shell, &["-c", "cat"], "input").expect("a copy"), b"input");
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_what_it_started() {
        let started = Instant::now();
        let folder = tempfile::tempdir().expect("a folder");
        let pids = folder.path().join("pids");
        let script = format!("sleep 600 & echo $$ $! >{}; wait", pids.display());
        let limit = Duration::from_secs(1);
        let input = "x".repeat(1 << 20);
        let error = run_for(limit, on_a_thread, Path::new("/bin/sh"), &["-c", &script], &input)
            .expect_err("it hangs");
        assert_eq!(error.to_string(), "/bin/sh: it did not end within 1s, and was killed");
        let pids = std::fs::read_to_string(pids).expect("it was started");
        assert_eq!(pids.split_whitespace().count(), 2, "{pids}");
        let runs = |pid: &str| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // A zombie waits to be reaped by the process that adopted it.
            status.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
        };
        while pids.split_whitespace().any(runs) {
            assert!(started.elapsed() < Duration::from_mins(1), "{pids}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn no_program_is_started_that_nobody_could_wait_for() {
        const EAGAIN: i32 = 11;
        let refuse = |_: Work| Err(io::Error::from_raw_os_error(EAGAIN));
        let error = run_for(LIMIT, refuse, Path::new("/nonexistent"), &[], "").expect_err("no thread");
        assert!(error.to_string().starts_with("/nonexistent: Resource temporarily unavailable"), "{error}");
    }

    #[test]
    fn both_programs_of_a_place_are_needed() {
        let folder = tempfile::tempdir().expect("a folder");
        let folders = [folder.path().to_owned()];
        std::fs::write(folder.path().join("ip6tables-legacy-save"), "").expect("a file");
        assert_eq!(Tool::in_folders(&folders, "ip6tables-legacy"), None);
        std::fs::write(folder.path().join("ip6tables-legacy-restore"), "").expect("a file");
        assert!(Tool::in_folders(&folders, "ip6tables-legacy").is_some());
    }
}

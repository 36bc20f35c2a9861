//! Runs a test binary on a kernel with IPVS, each test in a network namespace of its own.
//!
//! ```ignore
//! #[path = "common/lab.rs"]
//! mod lab;
//!
//! fn main() -> std::process::ExitCode {
//!     lab::run(lab::tests![a_test, another_test])
//! }
//! ```
//!
//! with `harness = false` in Cargo.toml. Outside the lab (no environment variable `LAB`) the binary starts itself again
//! through `tests/lab/run.sh`, with the same arguments, and ends with the exit status of that run. What cannot run
//! fails with the reason.

#[path = "requirement.rs"]
mod requirement;

use std::any::Any;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::thread;

use libtest_mimic::{Arguments, ColorSetting, Failed, Trial};
use rustix::thread::UnshareFlags;

/// Name and body of a test.
pub(crate) type Test = (&'static str, fn());

/// The named functions as [`Test`]s.
macro_rules! tests {
    ($($test:ident),* $(,)?) => { &[$((stringify!($test), $test as fn())),*] };
}
pub(crate) use tests;

/// Runs the tests, in the lab, each in a namespace of its own.
pub(crate) fn run(tests: &[Test]) -> ExitCode {
    run_unless(None, tests)
}

/// Runs the tests in the lab, unless something that they need is missing: see [`requirement`].
pub(crate) fn run_unless(missing: Option<&str>, tests: &[Test]) -> ExitCode {
    let trial = |&(name, test): &Test| requirement::trial(name, missing, move || in_namespace(test));
    run_in_lab(missing.is_none(), || tests.iter().map(trial).collect())
}

/// Runs trials in the lab, which create their own namespaces. Outside the lab, they can be listed.
#[allow(dead_code, reason = "each test program uses its own part of this")]
pub(crate) fn run_trials(trials: impl FnOnce() -> Vec<Trial>) -> ExitCode {
    run_in_lab(true, trials)
}

fn run_in_lab(needs_lab: bool, trials: impl FnOnce() -> Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    if !arguments.list && needs_lab && std::env::var_os("LAB").is_none() {
        return enter();
    }
    // The lab has one processor, and some tests measure time.
    arguments.test_threads = Some(1);
    // Its output looks like a terminal, but never is one.
    arguments.color.get_or_insert(ColorSetting::Never);
    libtest_mimic::run(&arguments, trials()).exit_code()
}

/// Replaces this process by the same program in the lab; returns only if that fails.
fn enter() -> ExitCode {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/run.sh");
    let error = match std::env::current_exe() {
        Ok(program) => Command::new(script).arg(program).args(std::env::args_os().skip(1)).exec(),
        Err(error) => error,
    };
    eprintln!("{script}: {error}");
    ExitCode::FAILURE
}

/// Runs a test, and whatever it starts, on a thread in a new network namespace, which goes with the thread.
fn in_namespace(test: fn()) -> Result<(), Failed> {
    let run = move || {
        new_namespace();
        test();
    };
    let thread = thread::Builder::new().spawn(run).map_err(|error| Failed::from(error.to_string()))?;
    thread.join().map_err(|panic| Failed::from(text_of(&*panic)))
}

/// Moves the calling thread into a new network namespace, and sets `lo` up: without the local routing table that comes
/// with `lo`, IPVS refuses real servers.
pub(crate) fn new_namespace() {
    // `UnshareFlags::NEWNET` affects only the calling thread, and no file descriptors.
    #[expect(unsafe_code, reason = "unsafe because of other flags than this one, see the line above")]
    let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
    unshared.expect("a new network namespace (root needed)");
    shell("ip link set lo up");
}

/// Runs shell lines in the caller's namespace and returns their output; they must succeed.
pub(crate) fn shell(line: &str) -> String {
    let (success, output) = try_shell(line);
    assert!(success, "{line}\n{output}");
    output
}

/// Runs shell lines in the caller's namespace; returns whether they succeeded, and their output with errors.
pub(crate) fn try_shell(line: &str) -> (bool, String) {
    let script = format!("exec 2>&1\n{line}");
    let output = Command::new("sh").arg("-c").arg(script).output().expect("sh can be started");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The message of a panic.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("panicked")
}

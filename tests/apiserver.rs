//! The API server as a source of events: against a fake one that fails on demand, and against the real API
//! machinery where `KUBEBUILDER_ASSETS` names a folder with `kube-apiserver` and `etcd`.

#![expect(unreachable_pub, reason = "modules of a test program have no face")]
#![expect(clippy::unwrap_used, reason = "this is all test code; clippy knows only #[test] functions as such")]

mod common;
#[path = "apiserver/connections.rs"]
mod connections;
#[path = "apiserver/faults.rs"]
mod faults;
#[path = "apiserver/real.rs"]
mod real;
#[path = "apiserver/session.rs"]
mod session;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    if let Some(code) = connections::as_child() {
        return code;
    }
    session::Log::install();
    let mut trials = Vec::new();
    for (name, test) in faults::TESTS {
        trials.push(Trial::test(format!("faults::{name}"), move || {
            session::paused(test());
            Ok(())
        }));
    }
    for (name, test) in connections::TESTS {
        trials.push(Trial::test(format!("connections::{name}"), move || {
            session::on_the_clock(test());
            Ok(())
        }));
    }
    let missing = real::missing();
    for (name, test) in real::TESTS {
        let (title, run) = match &missing {
            None => (format!("real::{name}"), true),
            Some(reason) => (format!("real::{name} ({reason})"), false),
        };
        // In CI what cannot run is a failure: nobody looks at what was ignored.
        let must = std::env::var_os("CI").is_some_and(|value| value == "true");
        let reason = missing.clone().unwrap_or_default();
        let trial = Trial::test(title, move || {
            if !run {
                return Err(reason.into());
            }
            session::on_the_clock(test());
            Ok(())
        });
        trials.push(trial.with_ignored_flag(!run && !must));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

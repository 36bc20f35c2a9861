//! The API server as a source of events: a fake one that fails on demand, and the real API machinery where
//! `KUBEBUILDER_ASSETS` names a folder with `kube-apiserver` and `etcd`.

#![expect(unreachable_pub, reason = "modules of a test program have no face")]
#![expect(clippy::unwrap_used, reason = "this is all test code; clippy knows only #[test] functions as such")]

mod common;
#[path = "apiserver/connections.rs"]
mod connections;
#[path = "apiserver/faults/mod.rs"]
mod faults;
#[path = "apiserver/real.rs"]
mod real;
#[path = "common/requirement.rs"]
mod requirement;
#[path = "apiserver/session.rs"]
mod session;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use self::common::fake_apiserver::{Form, all_know};

fn main() -> ExitCode {
    if let Some(code) = connections::as_child() {
        return code;
    }
    session::Log::install();
    let mut trials = Vec::new();
    for (form, group) in [(Form::Protobuf, "faults"), (Form::Json, "faults::in_json")] {
        for (name, test) in faults::tests() {
            trials.push(Trial::test(format!("{group}::{name}"), move || {
                all_know(form);
                session::paused(test());
                Ok(())
            }));
        }
    }
    for (name, test) in connections::TESTS {
        trials.push(Trial::test(format!("connections::{name}"), move || {
            session::on_the_clock(test());
            Ok(())
        }));
    }
    let missing = real::missing();
    for (name, test) in real::TESTS {
        trials.push(requirement::trial(&format!("real::{name}"), missing.as_deref(), move || {
            session::on_the_clock(test());
            Ok(())
        }));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

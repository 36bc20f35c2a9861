//! The program kube-ipvs: see the library's documentation for a map of the code.

use std::io::Write as _;
use std::process::ExitCode;

use kube_ipvs::options::{self, Command, UsageError};
use kube_ipvs::telemetry;
use kube_ipvs::{allocator, app, open_files};

fn main() -> ExitCode {
    allocator::set_up();
    open_files::allow_all();
    let error = match options::from_args(std::env::args_os().skip(1), std::env::vars_os()) {
        Ok(command) => {
            let done = match command {
                Command::Run(merged) => app::run(*merged),
                Command::DryRun(merged) => app::dry_run::run(*merged),
                Command::Cleanup(merged) => app::cleanup::all(&merged),
                Command::CleanupOwn(merged) => app::cleanup::own(*merged),
                Command::CleanupOwnStay(merged) => app::cleanup::own_stay(*merged),
                Command::WriteConfig(merged, path) => app::write_config(&merged, &path),
                Command::Print(text) => {
                    // A reader that has gone away is not our failure.
                    let _ = std::io::stdout().write_all(text.as_bytes());
                    Ok(())
                }
            };
            match done {
                Ok(()) => return ExitCode::SUCCESS,
                Err(error) => format!("{error:#}"),
            }
        }
        Err(UsageError::Flags(problem)) => {
            eprintln!("Error: {problem}\n\n{}", options::flags::USAGE);
            return ExitCode::FAILURE;
        }
        Err(error) => {
            telemetry::init(0, error.log_format());
            error.to_string()
        }
    };
    tracing::error!(err = error, "command failed");
    ExitCode::FAILURE
}

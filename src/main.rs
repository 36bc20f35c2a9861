//! kube-ipvs: see the library's map.

use std::process::ExitCode;

use kube_ipvs::app;
use kube_ipvs::options::args::{self, Command};

fn main() -> ExitCode {
    match args::from_args(std::env::args_os().skip(1)) {
        Ok(Command::Print(text)) => {
            // A reader that has gone away is no failure of ours.
            let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Command::Run(merged)) => match app::run(*merged) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(err = format!("{error:#}"), "command failed");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

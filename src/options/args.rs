//! From the words of the command line to what the program is to do.

use std::ffi::OsString;
use std::path::PathBuf;

use super::LogFormat;
use super::file::{self, FileError};
use super::flags::{self, VersionForm};
use super::merge::{self, Merged, Problems};

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Print this text and exit with 0: `--help`, `--version`.
    Print(String),
    /// Write the settings to this file and exit with 0: `--write-config-to`.
    WriteConfig(Box<Merged>, PathBuf),
    /// Remove everything of ours and of kube-proxy, and exit: `--cleanup`.
    Cleanup(Box<Merged>),
    /// Remove what is ours alone, and exit: `--cleanup-own`.
    CleanupOwn(Box<Merged>),
    /// Remove what is ours alone whenever something of it is left, until told to end: `--cleanup-own-stay`.
    CleanupOwnStay(Box<Merged>),
    /// Say what [`Command::Run`] would change, and exit: `--dry-run`.
    DryRun(Box<Merged>),
    /// Run.
    Run(Box<Merged>),
}

/// Why the program does not start: one line, exit 1.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// The command line cannot be read.
    #[error("{0}")]
    Flags(String),
    /// The configuration file cannot be read or decoded.
    #[error("failed complete: --config={path}: {error}", path = .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        error: FileError,
    },
    /// Values are wrong.
    #[error("failed validate: {0}")]
    Invalid(Problems),
}

impl UsageError {
    /// The format of the log that reports this error: text until all settings are known, as in kube-proxy.
    pub fn log_format(&self) -> LogFormat {
        match self {
            Self::Invalid(problems) => problems.log_format,
            Self::Flags(_) | Self::File { .. } => LogFormat::Text,
        }
    }
}

/// Reads the command line (without the program's name), the environment, and the configuration file where one is named.
///
/// # Errors
/// One line that names the flag or the field, what was found, and what is allowed.
pub fn from_args(
    arguments: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Command, UsageError> {
    let flags = flags::parse(arguments).map_err(UsageError::Flags)?;
    if flags.help {
        return Ok(Command::Print(flags::help()));
    }
    if let Some(form) = flags.version {
        return Ok(Command::Print(version(form)));
    }
    let file = match &flags.config {
        None => None,
        Some(path) => match file::load(path) {
            Ok(loaded) => Some(loaded),
            Err(error) => return Err(UsageError::File { path: path.clone(), error }),
        },
    };
    let host = rustix::system::uname();
    let (write_config_to, cleanup, dry_run) = (flags.write_config_to.clone(), flags.cleanup, flags.dry_run);
    let (cleanup_own, stay) = (flags.cleanup_own, flags.cleanup_own_stay);
    let merged = merge::merge(flags, file, environment, &host.nodename().to_string_lossy());
    let merged = Box::new(merged.map_err(UsageError::Invalid)?);
    Ok(match write_config_to {
        Some(path) => Command::WriteConfig(merged, path),
        None if cleanup => Command::Cleanup(merged),
        None if stay => Command::CleanupOwnStay(merged),
        None if cleanup_own => Command::CleanupOwn(merged),
        None if dry_run => Command::DryRun(merged),
        None => Command::Run(merged),
    })
}

fn version(form: VersionForm) -> String {
    match form {
        VersionForm::Plain => format!("kube-ipvs v{}\n", env!("CARGO_PKG_VERSION")),
        VersionForm::Raw => format!(
            "version.Info{{Major:\"{}\", Minor:\"{}\", GitVersion:\"v{}\", GitCommit:\"{}\", Compiler:\"rustc\", Platform:\"{}/{}\"}}\n",
            env!("CARGO_PKG_VERSION_MAJOR"),
            env!("CARGO_PKG_VERSION_MINOR"),
            env!("CARGO_PKG_VERSION"),
            crate::COMMIT,
            std::env::consts::OS,
            std::env::consts::ARCH,
        ),
    }
}

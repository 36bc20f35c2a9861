//! The command line: one table of flags, read as kube-proxy's flag library (pflag) reads them.
//!
//! To add a flag, add an entry to `FLAGS` in `table.rs`: its name, its help and what it sets stand side by side.
//! Values are checked for their type here; what they mean together is [`super::merge`]'s business.

mod table;

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, ArgAction};

use self::table::{FLAGS, Flag, Kind};
use super::settings::Settings;

/// What the command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Flags that have a field in the configuration file.
    pub settings: Settings,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--manifests`.
    pub manifests: Vec<PathBuf>,
    /// `--master`.
    pub master: Option<String>,
    /// `--cleanup`.
    pub cleanup: bool,
    /// `--cleanup-own`.
    pub cleanup_own: bool,
    /// `--version`.
    pub version: Option<VersionForm>,
    /// `--help`.
    pub help: bool,
    /// The names of all flags that were given, in the order of the table.
    pub given: Vec<&'static str>,
}

/// How much of the version is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionForm {
    /// One short line.
    Plain,
    /// With all that is known of the build.
    Raw,
}

/// Reads a command line, without the program's name.
///
/// # Errors
/// One line: which flag, what was found, what is allowed.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Flags, String> {
    let matches = command().try_get_matches_from(normalized(arguments)?).map_err(|error| explain(&error))?;
    let mut flags = Flags::default();
    for flag in FLAGS {
        let Some(values) = matches.get_many::<OsString>(flag.name) else { continue };
        flags.given.push(flag.name);
        // All values are looked at, and the last one wins.
        for value in values {
            (flag.set)(&mut flags, value).map_err(|problem| {
                format!("--{}: Invalid value: {:?}: {problem}", flag.name, value.to_string_lossy())
            })?;
        }
    }
    Ok(flags)
}

/// The text of `--help`.
pub fn help() -> String {
    command().render_help().to_string()
}

impl Flags {
    /// The flags that were given although the configuration file replaces them.
    pub fn replaced_by_file(&self) -> impl Iterator<Item = &'static str> {
        let replaced = |name: &&str| FLAGS.iter().any(|flag| flag.name == *name && flag.replaced_by_file);
        self.given.iter().copied().filter(replaced)
    }
}

fn command() -> clap::Command {
    let command = clap::Command::new("kube-ipvs")
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .override_usage("kube-ipvs [flags]")
        .about("The service proxy for Kubernetes clusters that run on IPVS")
        .help_template("{about}\n\nUsage: {usage}\n\nFlags:\n{options}\n");
    FLAGS.iter().fold(command, |command, flag| command.arg(argument(flag)))
}

fn argument(flag: &Flag) -> Arg {
    let help = match flag.default {
        "" => flag.help.to_owned(),
        default => format!("{} (default {default})", flag.help),
    };
    let argument = Arg::new(flag.name)
        .long(flag.name)
        .help(help)
        .action(ArgAction::Append)
        .value_parser(clap::value_parser!(OsString));
    let argument = match flag.short {
        Some(short) => argument.short(short),
        None => argument,
    };
    match flag.kind {
        // pflag: `--x`, `--x=false`; in `--x false` the second word is an argument of its own.
        Kind::Switch => argument
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("true|false")
            .hide_possible_values(true),
        // pflag takes the next word whatever it looks like.
        Kind::Value(name) => argument.num_args(1).allow_hyphen_values(true).value_name(name),
    }
}

/// The same words with `-` for `_` in the names of flags; values stay as they are. A word that is neither a flag nor
/// a value is an error, unless it is empty, as for kube-proxy.
fn normalized(arguments: impl Iterator<Item = OsString>) -> Result<Vec<OsString>, String> {
    let mut result = Vec::new();
    let mut names_end = false;
    let mut value_follows = false;
    for argument in arguments {
        let bytes = argument.as_bytes();
        if std::mem::take(&mut value_follows) {
            result.push(argument);
        } else if names_end || bytes == b"-" || !bytes.starts_with(b"-") {
            if !bytes.is_empty() {
                return Err(format!(
                    "unexpected argument {:?}: only flags are taken; the value of a switch follows a '='",
                    argument.to_string_lossy()
                ));
            }
        } else if bytes == b"--" {
            names_end = true;
        } else if let Some(long) = bytes.strip_prefix(b"--") {
            let name_length = long.iter().position(|byte| *byte == b'=').unwrap_or(long.len());
            let mut long = long.to_vec();
            for byte in &mut long[..name_length] {
                if *byte == b'_' {
                    *byte = b'-';
                }
            }
            let takes_value =
                |flag: &Flag| flag.name.as_bytes() == long && matches!(flag.kind, Kind::Value(_));
            value_follows = FLAGS.iter().any(takes_value);
            result.push(OsString::from_vec([b"--", long.as_slice()].concat()));
        } else {
            value_follows = bytes == b"-v";
            result.push(argument);
        }
    }
    Ok(result)
}

/// One line for what clap found wrong with the words; values are checked by the table.
fn explain(error: &clap::Error) -> String {
    let context = |kind| error.get(kind).map(ToString::to_string);
    let argument = context(ContextKind::InvalidArg).unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let hint = context(ContextKind::SuggestedArg).map(|name| format!(" (did you mean {name}?)"));
            format!("unknown flag: {argument}{}; --help lists all flags", hint.unwrap_or_default())
        }
        ErrorKind::InvalidValue => format!("flag needs a value: {argument}"),
        _ => error.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

#[cfg(test)]
mod tests;

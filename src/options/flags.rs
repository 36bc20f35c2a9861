//! The command line: one table of flags, read as kube-proxy's flag library (pflag) reads them.
//!
//! To add a flag, add an entry to `FLAGS` in `table.rs`: its name, its help and what it sets stand side by side. Values
//! are checked for their type here; what they mean together is the task of [`super::merge`].

mod table;
mod value;

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, ArgAction};

use self::table::{FLAGS, Flag};
use super::configuration::Configuration;

/// The usage line. The list of flags would push an error out of sight.
pub const USAGE: &str = "Usage: kube-ipvs [flags]";

/// What the command line says.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Flags {
    /// The settings of flags that have a field in the configuration file; defaults for flags that were not given.
    pub configuration: Configuration,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--write-config-to`.
    pub write_config_to: Option<PathBuf>,
    /// `--cleanup`.
    pub cleanup: bool,
    /// `--cleanup-own`.
    pub cleanup_own: bool,
    /// `--cleanup-own-stay`.
    pub cleanup_own_stay: bool,
    /// `--init-only`.
    pub init_only: bool,
    /// `--dry-run`.
    pub dry_run: bool,
    /// `--manifests`.
    pub manifests: Vec<PathBuf>,
    /// `--master`.
    pub master: Option<String>,
    /// `--healthz-port`.
    pub healthz_port: Option<i64>,
    /// `--metrics-port`.
    pub metrics_port: Option<i64>,
    /// `--version`.
    pub version: Option<VersionForm>,
    /// `--help`.
    pub help: bool,
    /// The flags that were given, in the order of the table, with their values as pflag prints them.
    pub given: Vec<(&'static str, String)>,
}

/// How much of the version to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionForm {
    /// One short line.
    Plain,
    /// All that is known of the build.
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
        // All values are checked. Some flags add their values up; of the others the last one wins.
        let mut shown: Vec<String> = Vec::new();
        for value in values {
            let one = flag.set.apply(&mut flags, value).map_err(|problem| {
                format!("--{}: Invalid value: {:?}: {problem}", flag.name, value.to_string_lossy())
            })?;
            if !flag.set.adds() {
                shown.clear();
            }
            shown.push(one);
        }
        flags.given.push((flag.name, shown.join(",")));
    }
    Ok(flags)
}

/// The text of `--help`.
pub fn help() -> String {
    command().render_help().to_string()
}

impl Default for Flags {
    /// No flag was given.
    fn default() -> Self {
        Self {
            configuration: Configuration::for_flags(),
            config: None,
            write_config_to: None,
            cleanup: false,
            cleanup_own: false,
            cleanup_own_stay: false,
            init_only: false,
            dry_run: false,
            manifests: Vec::new(),
            master: None,
            healthz_port: None,
            metrics_port: None,
            version: None,
            help: false,
            given: Vec::new(),
        }
    }
}

impl Flags {
    /// Whether a flag was given.
    pub fn has(&self, name: &str) -> bool {
        self.given.iter().any(|(given, _)| *given == name)
    }

    /// The flags that were given although the configuration file replaces them.
    pub fn replaced_by_file(&self) -> impl Iterator<Item = &'static str> {
        FLAGS.iter().filter(|flag| flag.replaced_by_file && self.has(flag.name)).map(|flag| flag.name)
    }

    /// The flags that were given although they do nothing here.
    pub fn without_effect(&self) -> impl Iterator<Item = &'static str> {
        FLAGS.iter().filter(|flag| !flag.has_effect && self.has(flag.name)).map(|flag| flag.name)
    }

    /// All flags with their values, sorted by name: the given values, else the defaults.
    pub fn values(&self) -> Vec<(&'static str, String)> {
        let mut values: Vec<_> = FLAGS
            .iter()
            .map(|flag| {
                let given = self.given.iter().find(|(name, _)| *name == flag.name);
                (flag.name, given.map_or(flag.default, |(_, value)| value).to_owned())
            })
            .collect();
        values.sort_unstable();
        values
    }
}

fn command() -> clap::Command {
    let command = clap::Command::new("kube-ipvs")
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .override_usage(USAGE.trim_start_matches("Usage: "))
        .about("The service proxy for Kubernetes clusters that run on IPVS")
        .help_template("{about}\n\nUsage: {usage}\n\nFlags:\n{options}\n");
    FLAGS.iter().fold(command, |command, flag| command.arg(argument(flag)))
}

fn argument(flag: &Flag) -> Arg {
    let help = match flag.default {
        "" | "false" => flag.help.to_owned(),
        default => format!("{} (default {default})", flag.help),
    };
    let argument = Arg::new(flag.name)
        .long(flag.name)
        .help(help)
        .action(ArgAction::Append)
        .value_parser(clap::value_parser!(OsString));
    let argument = match flag.name {
        "v" => argument.short('v'),
        "help" => argument.short('h'),
        _ => argument,
    };
    match flag.set.choice() {
        // As in pflag: `--x` or `--x=false`; in `--x false` the second word is an argument of its own.
        Some(words) => argument
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name(words)
            .hide_possible_values(true),
        // As in pflag, the next word is the value, whatever it looks like.
        None => argument.num_args(1).allow_hyphen_values(true).value_name(flag.value),
    }
}

/// Replaces `_` by `-` in the names of flags; values stay as they are. A word that is neither a flag nor a value is an
/// error unless it is empty, as in kube-proxy.
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
                    "unexpected argument {:?}: only flags are accepted; give a boolean flag its value as --flag=value",
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
            // After an unknown flag, the error should name the flag, not the word that follows it.
            let flag = FLAGS.iter().find(|flag| flag.name.as_bytes() == long);
            value_follows = name_length == long.len() && flag.is_none_or(|flag| flag.set.choice().is_none());
            result.push(OsString::from_vec([b"--", long.as_slice()].concat()));
        } else {
            value_follows = bytes == b"-v";
            result.push(argument);
        }
    }
    Ok(result)
}

/// One line for what clap found wrong; the table checks the values.
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

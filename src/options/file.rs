//! The configuration file: a `KubeProxyConfiguration` of `kubeproxy.config.k8s.io/v1alpha1`, YAML or JSON.
//!
//! Decoded as kube-proxy does it (contract 2.2): what is only unknown or said twice is a line in the log; a syntax
//! error, a wrong type, a missing or wrong `apiVersion` or `kind` is fatal. Mappings may merge others (`<<: *common`).
//! The fields are those of [`super::configuration`].

use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::Value;

use super::configuration::{Configuration, Header, Loose, MERGE};
use super::settings::Notice;

/// What a configuration file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The settings in it, with defaults for those that are not.
    pub configuration: Configuration,
    /// What should be logged about it.
    pub notices: Vec<Notice>,
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read it: {0}")]
    Read(std::io::Error),
    /// It is not what it should be; the text names the field and the line.
    #[error("failed to decode: {0}")]
    Decode(String),
    /// It says a field twice, and is wrong beside.
    #[error("failed lenient decoding: {lenient} (strict: {strict})")]
    Lenient {
        /// What is wrong when the last value of a field counts.
        lenient: String,
        /// What was wrong at first.
        strict: String,
    },
}

/// Reads and decodes a configuration file.
///
/// # Errors
/// Where it cannot be read or decoded.
pub fn load(path: &Path) -> Result<Loaded, FileError> {
    parse(&std::fs::read_to_string(path).map_err(FileError::Read)?)
}

/// Decodes the text of a configuration file.
///
/// # Errors
/// Where it has a syntax error, a field of a wrong type, or is another kind of object.
pub fn parse(text: &str) -> Result<Loaded, FileError> {
    // Some editors begin a file with this mark of UTF-8, and the parser stumbles over it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let decode_error = |error: serde_yaml::Error| FileError::Decode(error.to_string());
    // What kind of object it is comes first: complaints about the fields of another kind would help nobody.
    // Where it cannot be read even leniently, the other error knows the line.
    let header: Header =
        lenient(text, |_| ()).or_else(|_| first_document(text, |_| ()).map_err(decode_error))?;
    header.check().map_err(FileError::Decode)?;

    let mut deviations = Vec::new();
    let mut unknown = Vec::new();
    let strict = first_document(text, |path| unknown.push(path)).map_err(|error| error.to_string());
    let mut configuration: Configuration = match strict {
        Ok(configuration) if !unknown.iter().any(|path| path.ends_with(MERGE)) => configuration,
        strict => {
            unknown.clear();
            match (lenient(text, |path| unknown.push(path)), strict) {
                (Ok(configuration), strict) => {
                    deviations.extend(strict.err());
                    configuration
                }
                (Err(lenient), Ok(_)) => return Err(FileError::Decode(lenient)),
                // Where nothing was said twice, both errors are about the same thing, and the first knows the line.
                (Err(_), Err(strict)) if !strict.contains("duplicate") => {
                    return Err(FileError::Decode(strict));
                }
                (Err(lenient), Err(strict)) => return Err(FileError::Lenient { lenient, strict }),
            }
        }
    };
    deviations.extend(unknown.iter().map(|path| format!("unknown field {path:?}")));

    let mut notices = Vec::new();
    if !deviations.is_empty() {
        notices.push(Notice::info("Using lenient decoding as strict decoding failed", deviations.join(", ")));
    }
    configuration.set_defaults();
    Ok(Loaded { configuration, notices })
}

/// A configuration file with these settings.
pub fn text(configuration: &Configuration) -> String {
    serde_yaml::to_string(configuration).expect("texts, numbers, truth values, lists and mappings")
}

/// The same in JSON, on one line: what `/configz` shows, as kube-proxy does since 1.36 (before, it showed the names of its
/// own types: contract 8.3).
pub fn json(configuration: &Configuration) -> String {
    serde_json::to_string(configuration).expect("texts, numbers, truth values, lists and mappings")
}

/// The first document of the text, as Go's YAML library reads it; `unknown` is told the paths of unknown fields.
fn first_document<'de, T: Deserialize<'de>>(
    text: &'de str,
    mut unknown: impl FnMut(String),
) -> Result<T, serde_yaml::Error> {
    let document = serde_yaml::Deserializer::from_str(text).next();
    let document = document.unwrap_or_else(|| serde_yaml::Deserializer::from_str("null"));
    serde_ignored::deserialize(document, |path| unknown(readable(&path)))
}

/// `iptables.masqueradeBit`. `serde_ignored` writes `?` for each `Option` on the way.
fn readable(path: &serde_ignored::Path<'_>) -> String {
    path.to_string().replace("?.", "").replace(".?", "")
}

/// The same where the last value of a field that is said several times counts, and where mappings merge others.
fn lenient<T: DeserializeOwned>(text: &str, unknown: impl FnMut(String)) -> Result<T, String> {
    let value: Loose = first_document(text, |_| ()).map_err(|error| error.to_string())?;
    let text = serde_yaml::to_string::<Value>(&value.0).map_err(|error| error.to_string())?;
    first_document(&text, unknown).map_err(|error| without_place(&error))
}

/// An error without its line, which would be that of a text that the user never saw.
fn without_place(error: &serde_yaml::Error) -> String {
    let mut text = error.to_string();
    if let Some(location) = error.location() {
        let mut place = String::new();
        write!(place, " at line {} column {}", location.line(), location.column())
            .expect("writing to a String cannot fail");
        text = text.replace(&place, "");
    }
    text
}

#[cfg(test)]
mod tests;

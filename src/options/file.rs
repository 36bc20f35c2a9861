//! The configuration file: a `KubeProxyConfiguration` of `kubeproxy.config.k8s.io/v1alpha1`, YAML or JSON.
//!
//! Decoded as kube-proxy does it (contract 2.2): unknown and duplicate fields only cause a line in the log; a syntax
//! error, a wrong type, a missing or wrong `apiVersion` or `kind` is fatal. Mappings may merge others (`<<: *common`).
//! The fields are those of [`super::configuration`].

use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::Value;

use super::configuration::{Configuration, Header, Loose, MERGE};
use super::settings::Notice;

/// The content of a configuration file.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The settings in the file, and the defaults of the others.
    pub configuration: Configuration,
    /// What should be logged about the file.
    pub notices: Vec<Notice>,
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read it: {0}")]
    Read(std::io::Error),
    /// It is not a valid configuration; the text names the field and the line.
    #[error("failed to decode: {0}")]
    Decode(String),
    /// It has a duplicate field and another error.
    #[error("failed lenient decoding: {lenient} (strict: {strict})")]
    Lenient {
        /// The error that remains when the last value of a field counts.
        lenient: String,
        /// The first error, of strict decoding.
        strict: String,
    },
}

/// Reads and decodes a configuration file.
///
/// # Errors
/// It cannot be read or decoded.
pub fn load(path: &Path) -> Result<Loaded, FileError> {
    parse(&std::fs::read_to_string(path).map_err(FileError::Read)?)
}

/// Decodes the text of a configuration file.
///
/// # Errors
/// It has a syntax error or a field of a wrong type, or is another kind of object.
pub fn parse(text: &str) -> Result<Loaded, FileError> {
    // Some editors begin a file with a UTF-8 byte order mark, which the parser does not accept.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let decode_error = |error: serde_yaml::Error| FileError::Decode(error.to_string());
    // The kind of object is checked first: errors about the fields of another kind would help nobody. Where even the
    // lenient reading fails, the error of the strict one names the line.
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
                // Where no field is duplicate, both errors are about the same thing, and the strict one names the line.
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

/// The configuration as one line of JSON: what `/configz` shows, as in kube-proxy since 1.36 (before, kube-proxy showed
/// the names of its internal types: contract 8.3).
pub fn json(configuration: &Configuration) -> String {
    serde_json::to_string(configuration).expect("texts, numbers, truth values, lists and mappings")
}

/// Decodes the first document of the text, as Go's YAML library does; calls `unknown` with the paths of unknown fields.
fn first_document<'de, T: Deserialize<'de>>(
    text: &'de str,
    mut unknown: impl FnMut(String),
) -> Result<T, serde_yaml::Error> {
    let document = serde_yaml::Deserializer::from_str(text).next();
    let document = document.unwrap_or_else(|| serde_yaml::Deserializer::from_str("null"));
    serde_ignored::deserialize(document, |path| unknown(readable(&path)))
}

/// A path such as `iptables.masqueradeBit`. `serde_ignored` writes `?` for each `Option` on the way.
fn readable(path: &serde_ignored::Path<'_>) -> String {
    path.to_string().replace("?.", "").replace(".?", "")
}

/// Decodes leniently: of a duplicate field the last value counts, and mappings may merge others.
fn lenient<T: DeserializeOwned>(text: &str, unknown: impl FnMut(String)) -> Result<T, String> {
    let value: Loose = first_document(text, |_| ()).map_err(|error| error.to_string())?;
    let text = serde_yaml::to_string::<Value>(&value.0).map_err(|error| error.to_string())?;
    first_document(&text, unknown).map_err(|error| without_place(&error))
}

/// An error without its line, which would refer to a text that the user never saw.
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

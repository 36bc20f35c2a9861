//! The configuration file: a `KubeProxyConfiguration` of `kubeproxy.config.k8s.io/v1alpha1`, YAML or JSON.
//!
//! Decoded as kube-proxy does it (contract 2.2): what is only unknown or said twice is a line in the log; a syntax
//! error, a wrong type, a missing or wrong `apiVersion` or `kind` is fatal. All fields of the contract are known
//! (`document.rs`); to make use of one, give it its type there and hand it on in `settings_of`.

mod document;
mod scalar;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_yaml::Value;

use self::document::{Document, Header};
use super::duration::GoDuration;
use super::settings::{Notice, Settings};

/// What a configuration file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The settings in it. `null`, `0`, `""` and absence are one: not said.
    pub settings: Settings,
    /// What should be logged about it.
    pub notices: Vec<Notice>,
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read it: {0}")]
    Read(#[from] std::io::Error),
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
    parse(&std::fs::read_to_string(path)?)
}

/// Decodes the text of a configuration file.
///
/// # Errors
/// Where it has a syntax error, a field of a wrong type, or is another kind of object.
pub fn parse(text: &str) -> Result<Loaded, FileError> {
    let decode_error = |error: serde_yaml::Error| FileError::Decode(error.to_string());
    // What kind of object it is comes first: complaints about the fields of another kind would help nobody.
    let header: Header = first_document(text, |_| ()).map_err(decode_error)?;
    header.check().map_err(FileError::Decode)?;

    let mut deviations = Vec::new();
    let document: Document =
        match first_document(text, |path| deviations.push(format!("unknown field {path:?}"))) {
            Ok(document) => document,
            Err(strict) => {
                let strict = strict.to_string();
                let lenient = deduplicated(text).and_then(|text| {
                    deviations.clear();
                    first_document(&text, |path| deviations.push(format!("unknown field {path:?}")))
                });
                // Where nothing was said twice, both errors are about the same thing, and the first knows the line.
                match lenient {
                    Ok(document) => {
                        deviations.insert(0, strict);
                        document
                    }
                    Err(_) if !strict.contains("duplicate") => return Err(FileError::Decode(strict)),
                    Err(lenient) => {
                        let lenient = without_place(&lenient);
                        return Err(FileError::Lenient { lenient, strict });
                    }
                }
            }
        };

    let mut notices = Vec::new();
    if !deviations.is_empty() {
        notices.push(Notice {
            warning: false,
            message: "Using lenient decoding as strict decoding failed",
            detail: deviations.join(", "),
        });
    }
    let unused = document.said_but_unused();
    if !unused.is_empty() {
        notices.push(Notice {
            warning: true,
            message: "Fields of the configuration file have no effect yet",
            detail: unused.join(", "),
        });
    }
    Ok(Loaded { settings: settings_of(document), notices })
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

/// The same document, in which only the last value of a field that is said several times is left.
fn deduplicated(text: &str) -> Result<String, serde_yaml::Error> {
    let value: scalar::Loose = first_document(text, |_| ())?;
    serde_yaml::to_string::<Value>(&value.0)
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

/// What the rest of the program makes use of.
fn settings_of(document: Document) -> Settings {
    let ipvs = document.ipvs.unwrap_or_default();
    let iptables = document.iptables.unwrap_or_default();
    let client_connection = document.client_connection.unwrap_or_default();
    let logging = document.logging.unwrap_or_default();
    let text = |text: Option<scalar::Text>| text.map(|text| text.0).filter(|text| !text.is_empty());
    let time = |time: Option<scalar::Time>| time.map(|time| time.0).filter(|time| *time != GoDuration::ZERO);
    Settings {
        kubeconfig: text(client_connection.kubeconfig).map(PathBuf::from),
        hostname_override: text(document.hostname_override),
        mode: text(document.mode),
        scheduler: text(ipvs.scheduler),
        tcp_timeout: time(ipvs.tcp_timeout),
        tcp_fin_timeout: time(ipvs.tcp_fin_timeout),
        udp_timeout: time(ipvs.udp_timeout),
        min_sync_period: time(ipvs.min_sync_period),
        sync_period: time(ipvs.sync_period),
        exclude_cidrs: ipvs.exclude_cidrs.map(|list| list.into_iter().map(|text| text.0).collect()),
        cluster_cidr: text(document.cluster_cidr),
        masquerade_all: iptables.masquerade_all.map(|switch| switch.0),
        // A pointer in Go: 0 is bit 0, only null is the default.
        masquerade_bit: iptables.masquerade_bit.map(|number| number.0),
        bind_address: text(document.bind_address),
        healthz_bind_address: text(document.healthz_bind_address),
        metrics_bind_address: text(document.metrics_bind_address),
        verbosity: logging.verbosity.map(|number| number.0).filter(|level| *level != 0),
    }
}

#[cfg(test)]
mod tests;

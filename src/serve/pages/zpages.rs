//! `/statusz` and `/flagz`: for people as text, for programs in a structured form that is asked for by name
//! (KEP-4827, KEP-4828): `Accept: application/json;v=v1beta1;g=config.k8s.io;as=Statusz`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use super::super::Moment;
use super::super::http::{JSON, TEXT, typed};
use super::{paths, plain};
use crate::telemetry;

/// What the component calls itself: dashboards know it by this name.
const COMPONENT: &str = "kube-proxy";
const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                       guarantees and is for debugging purposes only.";
/// Both versions have the same fields.
const VERSIONS: [&str; 2] = ["v1alpha1", "v1beta1"];

/// A page in two forms.
pub(super) trait Page {
    /// The name of the structured form.
    const KIND: &'static str;

    /// Lines for people.
    fn text(&self, now: Instant) -> String;

    /// The fields of the structured form.
    fn fields(&self, now: Instant) -> Value;
}

/// The page in the form that is accepted; 406 for any that it does not have.
pub(super) fn answer<P: Page>(headers: &HeaderMap, page: &P, now: Instant) -> Response {
    match Form::accepted(headers, P::KIND) {
        Some(Form::Text) => typed(TEXT, page.text(now)),
        Some(Form::Structured(version)) => {
            let mut object = json!({
                "kind": P::KIND,
                "apiVersion": format!("config.k8s.io/{version}"),
                "metadata": {"name": COMPONENT},
            });
            if let (Value::Object(object), Value::Object(mut fields)) = (&mut object, page.fields(now)) {
                object.append(&mut fields);
            }
            typed(JSON, object.to_string())
        }
        None => plain(
            StatusCode::NOT_ACCEPTABLE,
            format!(
                "only text/plain and application/json;v={};g=config.k8s.io;as={} are offered\n",
                VERSIONS.join("|"),
                P::KIND
            ),
        ),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Form {
    Text,
    Structured(&'static str),
}

impl Form {
    /// The first form that is accepted and exists. Qualities are not looked at: there is little to choose from.
    fn accepted(headers: &HeaderMap, kind: &str) -> Option<Self> {
        let accepted: Vec<_> =
            headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        if accepted.is_empty() {
            return Some(Self::Text);
        }
        accepted.iter().flat_map(|value| value.split(',')).find_map(|range| Self::of(range, kind))
    }

    /// The form that a media range stands for.
    fn of(range: &str, kind: &str) -> Option<Self> {
        let mut parts = range.split(';').map(str::trim);
        match parts.next()? {
            "*/*" | "text/*" | "text/plain" => Some(Self::Text),
            "application/json" => {
                let parameters: BTreeMap<_, _> = parts.filter_map(|part| part.split_once('=')).collect();
                let is = |name, value| parameters.get(name) == Some(&value);
                let named = is("g", "config.k8s.io") && is("as", kind);
                let version = parameters.get("v").filter(|_| named)?;
                VERSIONS.into_iter().find(|known| known == version).map(Self::Structured)
            }
            _ => None,
        }
    }
}

/// What this program is, and since when.
pub(super) struct Statusz {
    started: Moment,
    profiling: bool,
}

impl Statusz {
    pub(super) fn new(started: Moment, profiling: bool) -> Self {
        Self { started, profiling }
    }

    fn up_seconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started.instant).as_secs()
    }
}

impl Page for Statusz {
    const KIND: &'static str = "Statusz";

    fn text(&self, now: Instant) -> String {
        let started = telemetry::utc(self.started.wall).strftime("%a %b %e %H:%M:%S UTC %Y");
        let up = self.up_seconds(now);
        let (hours, minutes, seconds) = (up / 3600, up / 60 % 60, up % 60);
        format!(
            "\n{COMPONENT} statusz\n{WARNING}\n\nStarted: {started}\nUp: {hours} hr {minutes:02} min {seconds:02} sec\n\
             Go version: {GO_VERSION}\nBinary version: {VERSION}\nEmulation version: {EMULATED}\nPaths: {}\n",
            paths(self.profiling).join(" ")
        )
    }

    fn fields(&self, now: Instant) -> Value {
        json!({
            "startTime": telemetry::utc(self.started.wall).strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "uptimeSeconds": self.up_seconds(now),
            "goVersion": GO_VERSION,
            "binaryVersion": VERSION,
            "emulationVersion": EMULATED,
            "paths": paths(self.profiling),
        })
    }
}

/// The field must be there; this is no Go program.
const GO_VERSION: &str = "none";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The kube-proxy that this program behaves like.
const EMULATED: &str = "1.36";

/// The flags of the command line.
pub(super) struct Flagz {
    flags: BTreeMap<String, String>,
}

impl Flagz {
    pub(super) fn new(flags: Vec<(String, String)>) -> Self {
        Self { flags: flags.into_iter().collect() }
    }
}

impl Page for Flagz {
    const KIND: &'static str = "Flagz";

    fn text(&self, _: Instant) -> String {
        let mut text = format!("\n{COMPONENT} flagz\n{WARNING}\n\n");
        for (name, value) in &self.flags {
            writeln!(text, "{name}={value}").expect("writing to a String cannot fail");
        }
        text
    }

    fn fields(&self, _: Instant) -> Value {
        json!({ "flags": self.flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_negotiated() {
        for (accept, form) in [
            (None, Some(Form::Text)),
            (Some("*/*"), Some(Form::Text)),
            (Some("text/plain"), Some(Form::Text)),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), Some(Form::Text)),
            (Some("application/json"), None),
            (Some("application/json;v=v1beta1"), None),
            (Some("application/json;v=v1beta1;g=config.k8s.io"), None),
            (Some("application/json;v=v1beta1;g=config.k8s.io;as=Flagz"), None),
            (Some("application/json;v=v9;g=config.k8s.io;as=Statusz"), None),
            (
                Some("application/json;v=v1beta1;g=config.k8s.io;as=Statusz"),
                Some(Form::Structured("v1beta1")),
            ),
            (
                Some("application/json; as=Statusz; g=config.k8s.io; v=v1alpha1"),
                Some(Form::Structured("v1alpha1")),
            ),
            (Some("application/json, text/plain"), Some(Form::Text)),
            (Some("image/png"), None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, accept.parse().unwrap());
            }
            assert_eq!(Form::accepted(&headers, "Statusz"), form, "{accept:?}");
        }
    }
}

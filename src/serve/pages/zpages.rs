//! `/statusz` and `/flagz`: as text for people, and for programs in a structured form that is asked for by name
//! (KEP-4827, KEP-4828): `Accept: application/json;v=v1beta1;g=config.k8s.io;as=Statusz`, or `application/yaml` with
//! the same parameters.

mod form;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use axum::http::header::{CONTENT_TYPE, WARNING};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use self::form::{Encoding, Form, GROUP, VERSIONS};
use super::super::Moment;
use super::super::http::{TEXT, typed};
use super::{paths, plain};
use crate::telemetry;

/// The component's name, by which dashboards know it.
const COMPONENT: &str = "kube-proxy";
const NOTICE: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                       guarantees and is for debugging purposes only.";
/// The version that clients should no longer ask for.
const DEPRECATED: &str = "v1alpha1";

/// A page in two forms.
pub(super) trait Page {
    /// The name of the structured form.
    const KIND: &'static str;

    /// Lines for people.
    fn text(&self, now: Instant) -> String;

    /// The fields of the structured form.
    fn fields(&self, now: Instant) -> Value;
}

/// The page in the form that is accepted; 406 if it does not have that form.
pub(super) fn answer<P: Page>(headers: &HeaderMap, page: &P, now: Instant) -> Response {
    match Form::accepted(headers, P::KIND) {
        Some(Form::Text) => typed(TEXT, page.text(now)),
        Some(Form::Structured(encoding, version)) => structured(page, now, encoding, version),
        None => plain(
            StatusCode::NOT_ACCEPTABLE,
            format!(
                "only text/plain and, with ;g={GROUP};v={};as={}, application/json and application/yaml are offered\n",
                VERSIONS.join("|"),
                P::KIND
            ),
        ),
    }
}

fn structured<P: Page>(page: &P, now: Instant, encoding: Encoding, version: &str) -> Response {
    let mut object = json!({
        "kind": P::KIND,
        "apiVersion": format!("{GROUP}/{version}"),
        "metadata": {"name": COMPONENT},
    });
    if let (Value::Object(object), Value::Object(mut fields)) = (&mut object, page.fields(now)) {
        object.append(&mut fields);
    }
    let text = match encoding {
        Encoding::Json => format!("{object}\n"),
        Encoding::Yaml => serde_yaml::to_string(&object).expect("texts, numbers and maps with text keys"),
    };
    let mut response = typed(encoding.media_type(), text);
    let headers = response.headers_mut();
    let header = |text: String| HeaderValue::try_from(text).expect("letters and punctuation");
    let content_type = format!("{};g={GROUP};v={version};as={}", encoding.media_type(), P::KIND);
    headers.insert(CONTENT_TYPE, header(content_type));
    if version == DEPRECATED {
        let name = P::KIND.to_lowercase();
        let text = format!(
            "299 - \"This version of the {name} endpoint is deprecated. Please use a newer version.\""
        );
        headers.insert(WARNING, header(text));
    }
    response
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
            "\n{COMPONENT} statusz\n{NOTICE}\n\nStarted: {started}\nUp: {hours} hr {minutes:02} min {seconds:02} sec\n\
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

/// The field is required, but this is no Go program.
const GO_VERSION: &str = "none";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The version of kube-proxy that this program behaves like: the one that `make compare` runs beside it.
const EMULATED: &str = "1.37";

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
        let mut text = format!("\n{COMPONENT} flagz\n{NOTICE}\n\n");
        for (name, value) in &self.flags {
            writeln!(text, "{name}={value}").expect("writing to a String cannot fail");
        }
        text
    }

    fn fields(&self, _: Instant) -> Value {
        json!({ "flags": self.flags })
    }
}

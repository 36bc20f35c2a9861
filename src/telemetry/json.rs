//! The log as JSON, one object per line, as Kubernetes' components write it with `--logging-format=json`:
//!
//! ```text
//! {"ts":1795359845000.043,"caller":"merge.rs:42","msg":"Using ipvs Proxier","v":0,"ipFamily":"IPv4"}
//! ```
//!
//! `ts` is in milliseconds since 1970. Warnings and errors have `"level"`, which klog's lines express by their first
//! letter; all others have `"v"`, the level of `-v` that they belong to.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};
use tracing_subscriber::fmt::format::Writer;

use super::{LEVEL, causes, level_of, source};

/// Writes an event as a line.
pub(super) fn write_line(now: SystemTime, writer: &mut Writer<'_>, event: &Event<'_>) -> fmt::Result {
    let metadata = event.metadata();
    let mut fields = Fields::default();
    event.record(&mut fields);
    let (level, verbosity) = match *metadata.level() {
        Level::ERROR => (",\"level\":\"error\"", String::new()),
        Level::WARN => (",\"level\":\"warning\"", String::new()),
        _ => ("", format!(",\"v\":{}", fields.level.unwrap_or_else(|| json(&level_of(metadata))))),
    };
    let milliseconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0;
    let caller = format!("{}:{}", source(metadata.file().unwrap_or("unknown")), metadata.line().unwrap_or(1));
    let (caller, message, values) = (json(&caller), json(&fields.message), fields.values);
    writeln!(
        writer,
        "{{\"ts\":{milliseconds:.3}{level},\"caller\":{caller},\"msg\":{message}{verbosity}{values}}}"
    )
}

fn json(value: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(value).expect("a text, a number or a truth value")
}

/// The message, the level that the event gives, and `,"key":value` for every other field.
#[derive(Default)]
struct Fields {
    message: String,
    level: Option<String>,
    values: String,
}

impl Fields {
    fn put(&mut self, field: &Field, value: &(impl Serialize + ?Sized)) {
        if field.name() == LEVEL {
            self.level = Some(json(value));
        } else {
            write!(self.values, ",{}:{}", json(field.name()), json(value))
                .expect("writing to a String cannot fail");
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            _ => self.put(field, value),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, &value);
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        self.put(field, &causes(error));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.put(field, &text);
        }
    }
}

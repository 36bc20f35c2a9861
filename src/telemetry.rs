//! The log: klog's text format on standard error, and its levels.
//!
//! ```text
//! I1122 15:04:05.000000   12345 merge.rs:42] "Using ipvs Proxier" ipFamily="IPv4"
//! ```
//!
//! People grep for these lines and feed them to parsers, so the format is kube-proxy's: severity (I, W, E), month and
//! day, time, process, source, the quoted message, and values. Times are UTC, as in every container that does not set a
//! time zone. A value that klog would spread over several lines stays on one line, escaped.
//!
//! | written as | shown from |
//! |---|---|
//! | `error!`, `warn!`, `info!` | `-v=0` |
//! | [`vlog!`](crate::vlog)`(n, ...)` | `-v=n`; for lines whose level kube-proxy's users know |
//! | `debug!`, `trace!` | `-v=4`, `-v=6` |
//! | other crates: `warn!` and above, `info!`, `debug!`, `trace!` | `-v=0`, `-v=4`, `-v=6`, `-v=8` |

mod json;
mod said;

use std::error::Error;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;

use crate::options::LogFormat;
pub(crate) use said::Said;

/// The value of `-v`.
static VERBOSITY: AtomicU8 = AtomicU8::new(0);

/// The target of lines without structure, whose text is written as it is: `FLAG: --v="1"`.
pub const PLAIN: &str = "kube_ipvs::plain";

/// The field that holds the level of `-v` of a line that [`vlog!`](crate::vlog) wrote.
const LEVEL: &str = "v";

/// Starts logging to standard error. Called again, it changes the level only.
pub fn init(verbosity: u8, format: LogFormat) {
    set_verbosity(verbosity);
    // An error means that a log has been set already.
    let lines = Lines { format, process: std::process::id(), now: SystemTime::now };
    let _ = tracing::subscriber::set_global_default(subscriber(lines, std::io::stderr));
}

/// Changes how much is logged.
pub fn set_verbosity(verbosity: u8) {
    VERBOSITY.store(verbosity, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

/// Whether lines of this level are wanted: klog's `V(level).Enabled()`.
pub fn v(level: u8) -> bool {
    level <= VERBOSITY.load(Ordering::Relaxed)
}

/// Logs at severity I from `-v=LEVEL` on: `vlog!(2, interface = "kube-ipvs0", "Removing addresses")`.
#[macro_export]
macro_rules! vlog {
    ($level:expr, $($event:tt)+) => {
        if $crate::telemetry::v($level) {
            ::tracing::info!(v = $level, $($event)+);
        }
    };
}

fn subscriber<W>(format: Lines, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().event_format(format).with_ansi(false).with_writer(writer);
    tracing_subscriber::registry().with(filter_fn(|metadata| v(level_of(metadata)))).with(lines)
}

/// From which `-v` on a line is shown.
fn level_of(metadata: &Metadata<'_>) -> u8 {
    let ours = metadata.target().starts_with("kube_ipvs");
    // The code that called the client logs its warnings as errors: once, and then when they change.
    let repeats_us = metadata.target().starts_with("kube_client");
    match *metadata.level() {
        Level::ERROR | Level::WARN if repeats_us => 4,
        Level::ERROR | Level::WARN => 0,
        Level::INFO if ours => 0,
        Level::INFO => 4,
        Level::DEBUG if ours => 4,
        Level::DEBUG => 6,
        Level::TRACE if ours => 6,
        Level::TRACE => 8,
    }
}

/// The format of the log's lines.
struct Lines {
    format: LogFormat,
    process: u32,
    now: fn() -> SystemTime,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self.format {
            LogFormat::Text => self.write_text(&mut writer, event),
            LogFormat::Json => json::write_line((self.now)(), &mut writer, event),
        }
    }
}

impl Lines {
    /// Writes a line as klog does.
    fn write_text(&self, writer: &mut Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let severity = match *metadata.level() {
            Level::ERROR => 'E',
            Level::WARN => 'W',
            Level::INFO | Level::DEBUG | Level::TRACE => 'I',
        };
        let time = utc((self.now)()).strftime("%m%d %H:%M:%S.%6f");
        let file = source(metadata.file().unwrap_or("unknown"));
        let line = metadata.line().unwrap_or(1);
        let mut fields = Fields::default();
        event.record(&mut fields);
        write!(writer, "{severity}{time} {:>7} {file}:{line}] ", self.process)?;
        if metadata.target() == PLAIN {
            writeln!(writer, "{}", fields.message)
        } else {
            writeln!(writer, "{:?}{}", fields.message, fields.values)
        }
    }
}

/// The moment in UTC, for printing.
pub(crate) fn utc(time: SystemTime) -> jiff::Timestamp {
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    // A clock beyond the year 9999 is shown as the last moment that can be represented.
    i64::try_from(since_1970.as_secs())
        .ok()
        .and_then(|seconds| jiff::Timestamp::new(seconds, since_1970.subsec_nanos().cast_signed()).ok())
        .unwrap_or(jiff::Timestamp::MAX)
}

/// An error with all its causes.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        write!(text, ": {error}").expect("writing to a String cannot fail");
        source = error.source();
    }
    text
}

/// The file's name; with its folder where the name alone says nothing.
fn source(path: &str) -> &str {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let start = match name {
        "mod.rs" => folder.rfind('/').map_or(0, |slash| slash + 1),
        _ => path.len() - name.len(),
    };
    &path[start..]
}

/// The message, and ` key=value` for every other field.
#[derive(Default)]
struct Fields {
    message: String,
    values: String,
}

impl Fields {
    fn put(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if field.name() != LEVEL {
            write!(self.values, " {}={value}", field.name()).expect("writing to a String cannot fail");
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            _ => self.put(field, format_args!("{value:?}")),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        self.put(field, format_args!("{:?}", causes(error)));
    }

    /// Both `%value` and `?value` come here. Lists are shown as they are, anything else in quotes.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else if text.starts_with('[') && text.ends_with(']') {
            self.put(field, format_args!("{}", text.replace('\n', "\\n")));
        } else {
            self.put(field, format_args!("{text:?}"));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

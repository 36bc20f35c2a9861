//! `/debug/*`, where profiling is on: how much is logged, and what can be seen of the process from inside.
//!
//! Go's profiles are made by Go's runtime. Here the kernel's tools make them (`perf record -p PID`), and the pages
//! under `/debug/pprof/` say so instead of pretending. Pages that mean the same for every program are answered.

use std::fmt::Write as _;
use std::fs;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path};
use axum::http::{Method, StatusCode};
use axum::response::{Redirect, Response};
use axum::routing::any;

use super::super::http::{TEXT, typed};
use super::plain;

/// The pages, for `/statusz`.
pub(super) const PATHS: &[&str] = &["/debug/flags/v", "/debug/pprof/"];

/// How long the text of a number may be, with room to spare.
const NUMBER_BYTES: usize = 64;

const INDEX: &str = "cmdline: the words of the command line, separated by NUL\n\
                     threads: the threads of the process, with the processor time of each\n";

pub(super) fn routes(router: Router, set_verbosity: fn(u8)) -> Router {
    let verbosity = async move |method: Method, body: Bytes| verbosity(&method, &body, set_verbosity);
    router
        .route("/debug/flags/v", any(verbosity).layer(DefaultBodyLimit::max(NUMBER_BYTES)))
        .route("/debug/pprof", any(async || Redirect::permanent("/debug/pprof/")))
        .route("/debug/pprof/", any(async || typed(TEXT, INDEX)))
        .route("/debug/pprof/{*profile}", any(profile))
}

async fn profile(Path(profile): Path<String>) -> Response {
    match &*profile {
        // The kernel's file has a NUL after the last word too.
        "cmdline" => {
            shown(fs::read_to_string("/proc/self/cmdline").map(|text| text.trim_end_matches('\0').to_owned()))
        }
        "threads" => shown(threads()),
        other => plain(
            StatusCode::NOT_IMPLEMENTED,
            format!(
                "{other}: this is no Go program, it has no such profile; `perf record -g -p {}` on the node makes one. \
                 There is:\n{INDEX}",
                std::process::id()
            ),
        ),
    }
}

fn shown(text: std::io::Result<String>) -> Response {
    text.map_or_else(
        |error| plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        |text| typed(TEXT, text),
    )
}

/// One line for each thread: its number, state, processor time in ticks of 10 ms (user, system), and name
/// (`proc_pid_stat(5)`).
fn threads() -> std::io::Result<String> {
    let mut text = "thread state user system name\n".to_owned();
    for entry in fs::read_dir("/proc/self/task")? {
        let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else { continue }; // It has just ended.
        let Some((head, rest)) = stat.rsplit_once(')') else { continue };
        let Some((number, name)) = head.split_once(" (") else { continue };
        let field: Vec<_> = rest.split_whitespace().collect();
        if let [state, _, _, _, _, _, _, _, _, _, _, user, system, ..] = field[..] {
            writeln!(text, "{number} {state} {user} {system} {name}")
                .expect("writing to a String cannot fail");
        }
    }
    Ok(text)
}

/// `PUT` sets `-v`.
fn verbosity(method: &Method, body: &[u8], set: fn(u8)) -> Response {
    if method != Method::PUT {
        return plain(StatusCode::NOT_ACCEPTABLE, "unsupported http method\n");
    }
    let text = String::from_utf8_lossy(body);
    match text.trim().parse::<i64>() {
        Ok(level @ 0..) => {
            set(u8::try_from(level).unwrap_or(u8::MAX));
            typed(TEXT, format!("successfully set klog.logging.verbosity to {level}\n"))
        }
        _ => plain(
            StatusCode::BAD_REQUEST,
            format!("failed set klog.logging.verbosity {text:?}: must be a whole number from 0\n"),
        ),
    }
}

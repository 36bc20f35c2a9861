//! The pages beside `/metrics` (contract 8.3): what this program is, its settings, and how to look into it.

mod debug;
mod slis;
mod zpages;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::RawQuery;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use axum::routing::any;
use tower_http::compression::CompressionLayer;

use self::slis::Slis;
use self::zpages::{Flagz, Statusz};
use super::Moment;
use super::http::{JSON, TEXT, not_found, typed};
use super::metrics::Metrics;

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the pages show.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The settings as a configuration file in JSON, for `/configz`.
    pub configuration: String,
    /// The command line's flags and their values, for `/flagz`.
    pub flags: Vec<(String, String)>,
    /// Whether `/debug/*` answers: with the function that sets the level of the log.
    pub profiling: Option<fn(u8)>,
}

/// Answers `/metrics` and the pages beside it. The `/healthz` here only says that the program runs.
pub fn router(metrics: Arc<Metrics>, shown: Shown) -> Router {
    let Shown { configuration, flags, profiling } = shown;
    let slis = Arc::new(Slis::new());
    let page = async move || typed(PROMETHEUS, metrics.text());
    let configz = format!("{{\"kubeproxy.config.k8s.io\":{configuration}}}");
    let (all_checks, one_check) = (Arc::clone(&slis), Arc::clone(&slis));
    let healthz = async move |RawQuery(query): RawQuery| {
        all_checks.pinged();
        let is_verbose = has_parameter(query.as_deref().unwrap_or_default(), "verbose");
        typed(TEXT, if is_verbose { "[+]ping ok\nhealthz check passed\n" } else { "ok" })
    };
    let ping = async move || {
        one_check.pinged();
        typed(TEXT, "ok")
    };
    let slis_page = async move |method: Method| match method {
        Method::DELETE => {
            slis.reset();
            typed(TEXT, "metrics reset\n")
        }
        _ => typed(PROMETHEUS, slis.text()),
    };
    let flagz = Arc::new(Flagz::new(flags));
    let statusz = Arc::new(Statusz::new(Moment::now(), profiling.is_some()));
    let router = Router::new()
        // Compressed for clients that accept it, as by Go's handler: a tenth of the bytes of each scrape, from each
        // node.
        .route("/metrics", any(page).layer(CompressionLayer::new()))
        .route("/metrics/slis", any(slis_page).layer(CompressionLayer::new()))
        .route("/healthz", any(healthz))
        .route("/healthz/ping", any(ping))
        .route("/proxyMode", any(async || typed(TEXT, "ipvs")))
        .route("/configz", any(async move || typed(JSON, configz)))
        .route(
            "/flagz",
            any(async move |headers: HeaderMap| zpages::answer(&headers, &*flagz, Instant::now())),
        )
        .route(
            "/statusz",
            any(async move |headers: HeaderMap| zpages::answer(&headers, &*statusz, Instant::now())),
        )
        .fallback(not_found);
    match profiling {
        Some(set_verbosity) => debug::routes(router, set_verbosity),
        None => router,
    }
}

/// Whether a query has this parameter, whatever its value.
fn has_parameter(query: &str, name: &str) -> bool {
    query.split('&').any(|parameter| parameter.split('=').next() == Some(name))
}

/// The paths of the pages, for `/statusz`.
fn paths(profiling: bool) -> Vec<&'static str> {
    let always = [
        "/addresses/",
        "/configz",
        "/flagz",
        "/healthz",
        "/healthz/ping",
        "/metrics",
        "/metrics/slis",
        "/proxyMode",
        "/services",
        "/services/",
        "/statusz",
    ];
    let debug = if profiling { debug::PATHS } else { &[] };
    debug.iter().copied().chain(always).collect()
}

/// A plain answer with this status.
pub(super) fn plain(status: axum::http::StatusCode, text: impl Into<String>) -> Response {
    let mut response = typed(TEXT, text);
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;

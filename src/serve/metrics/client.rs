//! The metrics of the API server's client, under the names that Go programs give them: `rest_client_*`.
//!
//! The metrics of retries and of waiting for the rate limiter are left out: the watches' own backoff is in
//! `kube_ipvs_watch_errors_total`, and nothing limits the rate. So are those of plugins, whose failures are the
//! requests', and those about the inside of client-go.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec};

use super::make::Maker;
use super::process::as_float;

/// The metrics of the API server's client.
pub struct Client {
    requests_total: IntCounterVec,
    request_duration_seconds: HistogramVec,
    request_size_bytes: HistogramVec,
    response_size_bytes: HistogramVec,
}

/// client-go's buckets, in seconds.
const BUCKETS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
/// client-go's buckets of sizes, in bytes.
const SIZE_BUCKETS: [f64; 11] = [
    64.0,
    256.0,
    512.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

impl Client {
    pub(super) fn new(make: &Maker) -> Self {
        Self {
            requests_total: make.counters(
                "rest_client_requests_total",
                "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.",
                &["code", "host", "method"],
            ),
            request_duration_seconds: make.histograms(
                "rest_client_request_duration_seconds",
                "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
                BUCKETS.to_vec(),
                &["host", "verb"],
            ),
            request_size_bytes: make.histograms(
                "rest_client_request_size_bytes",
                "[ALPHA] Request size in bytes. Broken down by verb and host.",
                SIZE_BUCKETS.to_vec(),
                &["host", "verb"],
            ),
            response_size_bytes: make.histograms(
                "rest_client_response_size_bytes",
                "[ALPHA] Response size in bytes. Broken down by verb and host.",
                SIZE_BUCKETS.to_vec(),
                &["host", "verb"],
            ),
        }
    }

    /// Counts a request: the status of its answer, if there was one, and how long it took to come.
    pub fn observe(&self, method: &str, host: &str, status: Option<u16>, took: Duration) {
        let code = status.map_or_else(|| "<error>".to_owned(), |status| status.to_string());
        self.requests_total.with_label_values(&[&code, host, method]).inc();
        self.request_duration_seconds.with_label_values(&[host, method]).observe(took.as_secs_f64());
    }

    /// Counts the bytes of a request and of its answer, where the answer comes as a whole. Watches are left out, as in
    /// client-go.
    pub fn observe_sizes(&self, method: &str, host: &str, request_bytes: u64, response_bytes: u64) {
        self.request_size_bytes.with_label_values(&[host, method]).observe(as_float(request_bytes));
        self.response_size_bytes.with_label_values(&[host, method]).observe(as_float(response_bytes));
    }
}

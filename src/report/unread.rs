//! What could not be read from the kernel, and why: counted, logged, and shown by health.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use crate::kernel::ReadError;
use crate::reconcile::note::Reading;
use crate::serve::metrics::Metrics;
use crate::serve::{Moment, Status, Unreadable};
use crate::telemetry::Said;

/// The kernel's name among the sources of facts.
const KERNEL: &str = "kernel";

/// The failures to read the kernel.
pub(super) struct Unread {
    metrics: Arc<Metrics>,
    status: watch::Sender<Status>,
    said: Said,
    /// The readings that failed when last tried: what could not be read, and why.
    readings: BTreeMap<Reading, (&'static str, String)>,
}

impl Unread {
    pub(super) fn new(metrics: Arc<Metrics>, status: watch::Sender<Status>) -> Self {
        Self { metrics, status, said: Said::default(), readings: BTreeMap::new() }
    }

    /// The kernel could not be read for this purpose.
    pub(super) fn failed(&mut self, reading: Reading, error: &ReadError, now: Instant) {
        let text = self.text(error, now);
        // Otherwise health already shows it, with how long it has lasted.
        if !self.status.borrow().unreadable.contains_key(error.what) {
            self.readings.insert(reading, (error.what, text));
        }
    }

    /// The kernel was read for this purpose.
    pub(super) fn read(&mut self, reading: Reading) {
        self.readings.remove(&reading);
    }

    /// The kernel was read for every purpose.
    pub(super) fn all_read(&mut self) {
        self.readings.clear();
    }

    /// These parts of the foundations could not be read, and all others could.
    pub(super) fn looked_for(&mut self, errors: &[ReadError], now: Moment) {
        let texts: BTreeMap<&'static str, String> =
            errors.iter().map(|error| (error.what, self.text(error, now.instant))).collect();
        self.readings.retain(|_, (what, _)| !texts.contains_key(what));
        self.status.send_if_modified(|status| {
            let before = status.unreadable.clone();
            status.unreadable.retain(|what, _| texts.contains_key(what));
            for (what, text) in texts {
                let unreadable = status
                    .unreadable
                    .entry(what)
                    .or_insert_with(|| Unreadable { since: now, text: String::new() });
                unreadable.text = text;
            }
            status.unreadable != before
        });
    }

    /// Publishes the first reason as that of an unreadable source, which alone makes nothing unhealthy.
    pub(super) fn publish(&self) {
        let text = self.readings.values().map(|(_, text)| text.clone()).next();
        self.status.send_if_modified(|status| match text {
            Some(text) => status.sources.insert(KERNEL.to_owned(), text.clone()) != Some(text),
            None => status.sources.remove(KERNEL).is_some(),
        });
    }

    /// Counts a failure, and logs it where it is new. Returns its text.
    fn text(&mut self, error: &ReadError, now: Instant) -> String {
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        let text = format!("{error}: {source}");
        self.metrics.own.read_failures_total.inc();
        if self.said.is_news(&text, now) {
            tracing::error!(err = text, "Cannot read the kernel's state, trying again");
        }
        text
    }
}

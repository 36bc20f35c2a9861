//! Brings what the watches of the API server report into health and metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::tasks::Tasks;
use crate::api::client::{Exchange, Observer};
use crate::api::watch::Monitor;
use crate::serve::Status;
use crate::serve::metrics::Metrics;
use crate::serve::metrics::watches::{Read, WatchNumbers, Watches};

/// An observer that counts requests.
pub(super) fn observer(metrics: &Arc<Metrics>) -> Observer {
    let metrics = Arc::clone(metrics);
    Arc::new(move |exchange| {
        let Exchange { method, host, status, took, request_bytes, response_bytes } = exchange;
        metrics.client.observe(method.as_str(), host, *status, *took);
        if let Some(response_bytes) = response_bytes {
            metrics.client.observe_sizes(method.as_str(), host, *request_bytes, *response_bytes);
        }
    })
}

/// Adds the watches' counters to the metrics, and their failures to the status.
pub(super) fn follow(
    monitors: Vec<Monitor>,
    metrics: &Metrics,
    status: &watch::Sender<Status>,
    tasks: &mut Tasks,
) {
    let numbers = monitors.iter().map(|monitor| (monitor.resource.to_string(), read(monitor.clone())));
    metrics.add(Watches::new(numbers.collect()));
    for monitor in monitors {
        let status = status.clone();
        tasks.accompany(async move { publish(monitor, &status).await });
    }
}

fn read(monitor: Monitor) -> Read {
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Box::new(move || WatchNumbers {
        events: of(&monitor.counters.events_received),
        ignored: of(&monitor.counters.objects_ignored),
        refused: of(&monitor.counters.objects_refused),
        refused_now: of(&monitor.counters.refused_now),
        relists: of(&monitor.counters.relists),
        errors: of(&monitor.counters.errors),
        healthy: monitor.status.borrow().last_error.is_none(),
    })
}

/// Publishes the failures of a watch until it ends.
async fn publish(mut monitor: Monitor, status: &watch::Sender<Status>) {
    let resource = monitor.resource.to_string();
    while monitor.status.changed().await.is_ok() {
        let error = monitor.status.borrow_and_update().last_error.clone();
        status.send_if_modified(|status| match error {
            Some(error) => {
                let error = error.to_string();
                status.sources.insert(resource.clone(), error.clone()) != Some(error)
            }
            None => status.sources.remove(&resource).is_some(),
        });
    }
}

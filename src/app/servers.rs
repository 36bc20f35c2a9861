//! The HTTP servers for health and metrics.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;

use super::tasks::Tasks;
use crate::api::events::Events;
use crate::options::file;
use crate::options::merge::Merged;
use crate::reconcile::explanation::Explanation;
use crate::report::kubernetes_events::{self, OwnServer};
use crate::serve::metrics::Metrics;
use crate::serve::questions::Asker;
use crate::{serve, telemetry};

/// Starts the HTTP servers; they end with the shutdown.
pub(super) fn start(
    merged: &Merged,
    metrics: &Arc<Metrics>,
    asker: Asker<Explanation>,
    status: &watch::Receiver<serve::Status>,
    events: &Events,
    tasks: &mut Tasks,
) {
    let options = &merged.options;
    let shown = serve::pages::Shown {
        configuration: file::json(&merged.configuration),
        flags: merged.flag_values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        profiling: options.profiling.then_some(telemetry::set_verbosity),
    };
    let servers = [
        (
            OwnServer::Healthz,
            options.healthz_address,
            serve::http::healthz_router(status.clone(), options.sync_period, Arc::clone(metrics)),
        ),
        (
            OwnServer::Metrics,
            options.metrics_address,
            serve::pages::router(Arc::clone(metrics), shown).merge(serve::questions::router(asker)),
        ),
    ];
    if options.healthz_address.is_some() {
        tasks.accompany(serve::healthz::changes::tell(status.clone(), options.sync_period, tasks.shutdown()));
    }
    for (own, address, router) in servers {
        if let Some(address) = address {
            let name = own.name();
            let server = serve::http::Server { name, address, hard_fail: options.bind_address_hard_fail };
            let (stop, events) = (tasks.shutdown(), events.clone());
            tasks.spawn(async move {
                let served = server.run(router, stop).await;
                let served = served.with_context(|| format!("cannot serve {name} on {address}"));
                if let Err(error) = &served {
                    events.tell(kubernetes_events::server_failed(own, format!("{error:#}")));
                }
                served
            });
        }
    }
}

//! Starts the takeover when its time has come.

use std::collections::BTreeSet;
use std::thread;

use tokio::sync::watch;

use crate::cluster::types::Family;
use crate::leftovers::takeover::Takeover;
use crate::options::ProxyOptions;
use crate::serve::Status;

/// Waits for the first complete sync, of one family at least, then takes over from kube-proxy on a thread of its own: programs are waited for
/// there, and no change of a Service waits for them. The thread holds nothing and ends with the process.
pub(super) fn after_first_sync(
    mut status: watch::Receiver<Status>,
    options: &ProxyOptions,
    families: BTreeSet<Family>,
) {
    let (mark, excluded) = (options.masquerade_mark, options.exclude_cidrs.clone());
    tokio::spawn(async move {
        // An error says that the program ends.
        let is_time = |status: &Status| {
            let works = status.families.values().any(|family| family.last_synced.is_some());
            status.synced_once && works
        };
        if status.wait_for(is_time).await.is_err() {
            return;
        }
        let run = move || Takeover::new(mark, families, excluded).run();
        if let Err(error) = thread::Builder::new().name("takeover".to_owned()).spawn(run) {
            tracing::error!(err = %error, "Cannot start the thread that removes what kube-proxy left");
        }
    });
}

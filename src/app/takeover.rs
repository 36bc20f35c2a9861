//! Starts the takeover when its time has come.

use std::collections::BTreeSet;
use std::time::Duration;
use std::{io, thread};

use tokio::sync::watch;

use crate::cluster::types::Family;
use crate::leftovers::takeover::Takeover;
use crate::options::ProxyOptions;
use crate::serve::Status;

/// How long to wait after the thread could not be started.
const RETRY: Duration = Duration::from_mins(1);

/// Waits for the first complete sync, of one family at least, then takes over from kube-proxy on a thread of its own: programs
/// are waited for there, and no change of a Service waits for them. The thread holds nothing and ends with the process.
pub(super) fn after_first_sync(
    mut status: watch::Receiver<Status>,
    options: &ProxyOptions,
    families: BTreeSet<Family>,
) {
    let (mark, excluded) = (options.masquerade_mark, options.exclude_cidrs.clone());
    tokio::spawn(async move {
        // An error says that the program ends.
        let is_time = |status: &Status| status.synced_once && !written(status).is_empty();
        if status.wait_for(is_time).await.is_err() {
            return;
        }
        until_it_starts(|| {
            let status = status.clone();
            let written = move || written(&status.borrow());
            let takeover = Takeover::new(mark, families.clone(), excluded.clone(), written);
            thread::Builder::new().name("takeover".to_owned()).spawn(move || takeover.run()).map(drop)
        })
        .await;
    });
}

/// The families in which everything has been written once.
fn written(status: &Status) -> BTreeSet<Family> {
    let synced = status.families.iter().filter(|(_, family)| family.last_synced.is_some());
    synced.map(|(family, _)| *family).collect()
}

/// Tries to start the thread until that succeeds: what stands against it is a limit that others have reached (of processes in
/// a cgroup). Said once, then by change.
async fn until_it_starts(mut start: impl FnMut() -> io::Result<()>) {
    let mut said = None;
    while let Err(error) = start() {
        let error = error.to_string();
        if said.as_ref() != Some(&error) {
            tracing::error!(
                err = error,
                "Cannot start the thread that removes what kube-proxy left, trying again each minute"
            );
        }
        said = Some(error);
        tokio::time::sleep(RETRY).await;
    }
    if said.is_some() {
        tracing::info!("The thread that removes what kube-proxy left has started");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_cannot_be_started_is_tried_again() {
        let (log, _listening) = crate::telemetry::tests::listen();
        let mut attempts = 0;
        until_it_starts(|| {
            attempts += 1;
            if attempts < 4 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        })
        .await;
        assert_eq!(attempts, 4);
        assert_eq!(log.lines_with("Cannot start the thread").len(), 1);
        assert_eq!(log.lines_with("has started").len(), 1);
    }
}

//! The program's tasks, and its end.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::vlog;

/// Goes on at SIGUSR1 and SIGUSR2, as kube-proxy does: nothing is meant by them here, and by default they kill.
pub(super) fn ignore_user_signals() -> anyhow::Result<()> {
    for kind in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
        // The handler stays when nobody waits for the signal any more.
        drop(signal(kind).context("cannot ignore SIGUSR1 and SIGUSR2")?);
    }
    Ok(())
}

/// Tasks of which the first that ends, ends all.
pub(super) struct Tasks {
    running: JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

impl Tasks {
    /// No tasks yet.
    pub(super) fn new() -> Self {
        Self { running: JoinSet::new(), shutdown: CancellationToken::new() }
    }

    /// What tells that all are to end.
    pub(super) fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Starts a task. When it ends, all do.
    pub(super) fn spawn(&mut self, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.running.spawn(task);
    }

    /// Starts a task that ends with the others, and cannot fail. It must end by itself at the shutdown.
    pub(super) fn accompany(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.running.spawn(async move {
            task.await;
            Ok(())
        });
    }

    /// Ends all when the process is asked to end.
    pub(super) fn end_on_signals(&self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            // Both arms are cancel-safe.
            tokio::select! {
                _ = terminate.recv() => vlog!(0, signal = "SIGTERM", "Stopping; the data plane stays as it is"),
                _ = interrupt.recv() => vlog!(0, signal = "SIGINT", "Stopping; the data plane stays as it is"),
            }
            shutdown.cancel();
        });
        Ok(())
    }

    /// Waits for a task to end, which ends all: by a signal, or because it failed.
    pub(super) async fn one_ends(&mut self) -> anyhow::Result<()> {
        self.running.join_next().await.map_or(Ok(()), |ended| ended.context("a task panicked").flatten())
    }

    /// Ends all tasks. The first error is the program's: of what led to this, or else of them.
    pub(super) async fn end(mut self, mut result: anyhow::Result<()>) -> anyhow::Result<()> {
        self.shutdown.cancel();
        while !self.running.is_empty() {
            let ended = self.one_ends().await;
            if result.is_ok() {
                result = ended;
            }
        }
        result
    }
}

//! The program's tasks, and its end.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::vlog;

/// Ignores SIGUSR1 and SIGUSR2, as kube-proxy does: they mean nothing here, and by default they kill the process.
pub(super) fn ignore_user_signals() -> anyhow::Result<()> {
    for kind in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
        // The handler stays installed when nobody waits for the signal any more.
        drop(signal(kind).context("cannot ignore SIGUSR1 and SIGUSR2")?);
    }
    Ok(())
}

/// Tasks that all end when the first of them ends.
pub(super) struct Tasks {
    running: JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

impl Tasks {
    /// No tasks yet.
    pub(super) fn new() -> Self {
        Self { running: JoinSet::new(), shutdown: CancellationToken::new() }
    }

    /// The token that tells all tasks to end.
    pub(super) fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Starts a task. When it ends, all tasks end.
    pub(super) fn spawn(&mut self, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.running.spawn(task);
    }

    /// Starts a task that cannot fail, and must end by itself at the shutdown.
    pub(super) fn accompany(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.running.spawn(async move {
            task.await;
            Ok(())
        });
    }

    /// Ends all tasks when the process is asked to end.
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

    /// Waits for a task to end, by a signal or because it failed; its end ends all.
    pub(super) async fn one_ends(&mut self) -> anyhow::Result<()> {
        self.running.join_next().await.map_or(Ok(()), |ended| ended.context("a task panicked").flatten())
    }

    /// Ends all tasks. Returns the first error: that of `result`, or else of the tasks.
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

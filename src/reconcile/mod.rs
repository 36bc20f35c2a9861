//! The loop that drives facts → wanted state → difference → kernel.
//!
//! [`core`] decides, [`run`] waits: for events, for the kernel's thread, for the time.

mod audit;
pub mod core;
pub mod drain;
mod first;
pub mod note;
pub(crate) mod ownership;
mod picture;
pub mod progress;
mod purge;
pub mod schedule;
mod worker;

#[cfg(test)]
mod tests;

use std::io;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::core::{Next, Reconciler, Work};
use crate::api::Event;
use crate::kernel::Kernel;
use note::Note;

/// How often to look up when nothing is due.
const LONG: Duration = Duration::from_hours(1);

/// Runs until the shutdown is asked for (the plan in hand is finished) or no source of events is left. `tell` hears all
/// that happens, in order; it must not block.
///
/// # Errors
/// If the kernel's thread cannot be started.
pub async fn run(
    mut reconciler: Reconciler,
    kernel: Box<dyn Kernel>,
    mut events: mpsc::Receiver<Event>,
    shutdown: CancellationToken,
    mut tell: impl FnMut(&Reconciler, Vec<Note>),
) -> io::Result<()> {
    let mut worker = worker::Worker::start(kernel)?;
    // Since when a change waits to be handed to the kernel.
    let mut heard: Option<Instant> = None;
    while !shutdown.is_cancelled() {
        // A burst becomes one run.
        while let Ok(event) = events.try_recv() {
            heard.get_or_insert_with(Instant::now);
            reconciler.observe(event);
        }
        let mut tell_news = |reconciler: &mut Reconciler, waited: Option<Duration>| {
            let mut notes = reconciler.take_notes();
            notes.extend(waited.map(|waited| Note::HandedOver { waited }));
            if !notes.is_empty() {
                tell(reconciler, notes);
            }
        };
        match reconciler.next(Instant::now()) {
            Next::Work(work) => {
                let writes = matches!(work, Work::Apply(_));
                worker.give(work).await;
                let waited = heard.take_if(|_| writes).map(|heard| heard.elapsed());
                // While the kernel works, not before.
                tell_news(&mut reconciler, waited);
                let answer = loop {
                    // Both arms are cancel-safe. Events are taken meanwhile so that sources do not wait for netlink.
                    tokio::select! {
                        biased;
                        answer = worker.answer() => break answer,
                        Some(event) = events.recv() => {
                            heard.get_or_insert_with(Instant::now);
                            reconciler.observe(event);
                        }
                    }
                };
                reconciler.complete(answer, Instant::now());
            }
            Next::Wait(due) => {
                tell_news(&mut reconciler, None);
                if reconciler.changes().is_all_written() {
                    heard = None;
                }
                let until = due.unwrap_or_else(|| Instant::now() + LONG);
                // All arms are cancel-safe.
                tokio::select! {
                    event = events.recv() => {
                        let Some(event) = event else { break };
                        heard.get_or_insert_with(Instant::now);
                        reconciler.observe(event);
                    }
                    () = tokio::time::sleep_until(until.into()) => {}
                    () = shutdown.cancelled() => {}
                }
            }
        }
    }
    let notes = reconciler.take_notes();
    tell(&reconciler, notes);
    // Joining a thread blocks, but nothing else is left to do here.
    tokio::task::block_in_place(|| worker.stop());
    Ok(())
}

//! The loop that drives facts → wanted state → difference → kernel.
//!
//! [`core`] decides, [`run`] waits for events and for the time, and asks the kernel.

mod audit;
pub mod core;
pub mod drain;
mod first;
pub mod note;
mod picture;
pub mod progress;
mod purge;
mod refusals;
pub mod schedule;
mod wait;

#[cfg(test)]
mod tests;

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::core::{Next, Reconciler};
use crate::api::Event;
use crate::kernel::Kernel;
use note::Note;
use wait::wait;

/// How often to look up when nothing is due.
const LONG: Duration = Duration::from_hours(1);

/// Runs until the shutdown is asked for (the plan in hand is finished) or no source of events is left. Events come in lists
/// of those that came together, since each list wakes the loop. `tell` hears all that happens, in order, and when; it must
/// not block.
///
/// Linux does what netlink messages ask for inside `send`, so this blocks, and has a thread of its own. Decisions and
/// sockets are on the same one: a change goes from the source to the kernel with one change of threads. Meanwhile
/// events wait in their channel, for no longer than one piece of work takes (`schedule`).
///
/// # Errors
/// If the thread cannot be started.
///
/// # Panics
/// If the thread does.
pub async fn run(
    reconciler: Reconciler,
    kernel: Box<dyn Kernel>,
    events: mpsc::Receiver<Vec<Event>>,
    shutdown: CancellationToken,
    tell: impl FnMut(&Reconciler, Vec<Note>, Instant) + Send + 'static,
) -> io::Result<()> {
    let (finish, finished) = oneshot::channel();
    let body = move || {
        work(reconciler, kernel, events, &shutdown, tell);
        // Nobody waits any more when the runtime goes down.
        let _ = finish.send(());
    };
    let thread = thread::Builder::new().name("reconcile".to_owned()).spawn(body)?;
    if finished.await.is_err()
        && let Err(panic) = thread.join()
    {
        std::panic::resume_unwind(panic);
    }
    Ok(())
}

fn work(
    mut reconciler: Reconciler,
    mut kernel: Box<dyn Kernel>,
    mut events: mpsc::Receiver<Vec<Event>>,
    shutdown: &CancellationToken,
    mut tell: impl FnMut(&Reconciler, Vec<Note>, Instant),
) {
    // Read as rarely as it goes: where the clock is a system call it costs as much as any.
    let mut now = Instant::now();
    while !shutdown.is_cancelled() {
        // A burst becomes one run.
        let mut heard = false;
        while let Ok(together) = events.try_recv() {
            observe(&mut reconciler, together);
            heard = true;
        }
        if heard {
            now = Instant::now();
        }
        let next = reconciler.next(now);
        // Before the kernel is asked: health must know that it has something to do, should it take for ever.
        let notes = reconciler.take_notes();
        if !notes.is_empty() {
            tell(&reconciler, notes, now);
        }
        match next {
            Next::Work(work) => {
                let answer = work.carry_out(&mut *kernel);
                now = Instant::now();
                reconciler.complete(answer, now);
            }
            Next::Wait(due) => {
                let until = due.unwrap_or_else(|| now + LONG);
                // All arms are cancel-safe.
                let news = async {
                    tokio::select! {
                        together = events.recv() => Some(together),
                        () = shutdown.cancelled() => None,
                    }
                };
                match wait(news, now, until).flatten() {
                    Some(Some(together)) => observe(&mut reconciler, together),
                    Some(None) => break,
                    None => {}
                }
                now = Instant::now();
            }
        }
    }
    let notes = reconciler.take_notes();
    tell(&reconciler, notes, now);
}

fn observe(reconciler: &mut Reconciler, together: Vec<Event>) {
    for event in together {
        reconciler.observe(event);
    }
}

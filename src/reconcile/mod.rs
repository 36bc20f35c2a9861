//! The loop that drives facts → wanted state → difference → kernel.
//!
//! [`core`] decides; [`run`] waits for events and for the time, and calls the kernel.

mod audit;
pub mod core;
pub mod drain;
pub mod explanation;
mod first;
mod foreign;
pub mod note;
mod pace;
mod picture;
mod processor;
pub mod progress;
mod purge;
mod refusals;
pub mod rehearse;
mod rest;
pub mod schedule;
mod searches;
mod wait;

#[cfg(test)]
mod tests;

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::core::{Answer, Next, Reconciler, Work};
use crate::api::Event;
use crate::diff::Plan;
use crate::diff::purge::Purge;
use crate::kernel::{Found, Kernel, Outcome};
use note::Note;
use searches::Searches;
use wait::wait;

/// How long to wait when nothing is due.
const LONG: Duration = Duration::from_hours(1);

/// Hears what the loop does. Called on the loop's thread: no method may block.
pub trait Listener: Send + 'static {
    /// What the loop can be asked.
    type Question: Send + 'static;

    /// Tells all that happened until `now`, in order.
    fn tell(&mut self, reconciler: &Reconciler, notes: Vec<Note>, now: Instant);

    /// A plan was carried out, with an outcome for each step. The reconciler has not taken the outcomes in yet.
    fn wrote(&mut self, reconciler: &Reconciler, plan: &Plan, outcomes: &[Outcome]);

    /// Answers a question. Changes wait meanwhile.
    fn answer(&mut self, reconciler: &Reconciler, question: Self::Question, now: Instant);
}

/// Runs until shutdown is asked for (the plan in hand is finished) or no source of events is left.
///
/// Events come in lists of those that arrived together, since each list wakes the loop. Questions are answered one by
/// one, between pieces of work.
///
/// Linux does what a netlink message asks for inside `send`, so the loop blocks, and has a thread of its own. Decisions
/// and sockets share that thread: a change goes from the source to the kernel with one thread switch. Meanwhile events
/// wait in their channel, for no longer than one piece of work takes (`pace`).
///
/// `find_stale` carries out [`Work::FindStale`], on a thread of its own: it walks the whole table of connection
/// tracking, which may take seconds, and no change waits for it.
///
/// # Errors
/// If a thread cannot be started.
///
/// # Panics
/// If the thread panics.
pub async fn run<L: Listener>(
    reconciler: Reconciler,
    kernel: Box<dyn Kernel>,
    find_stale: impl FnMut(&Purge) -> Found + Send + 'static,
    events: mpsc::Receiver<Vec<Event>>,
    questions: mpsc::Receiver<L::Question>,
    shutdown: CancellationToken,
    listener: L,
) -> io::Result<()> {
    let (finish, finished) = oneshot::channel();
    let searches = Searches::start(find_stale)?;
    let body = move || {
        work(reconciler, kernel, searches, events, questions, &shutdown, listener);
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

/// What the loop waits for.
enum Heard<Q> {
    /// A search for stale entries has ended.
    Found(Answer),
    /// Events; `None`: no source of them is left.
    Events(Option<Vec<Event>>),
    Question(Q),
}

fn work<L: Listener>(
    mut reconciler: Reconciler,
    mut kernel: Box<dyn Kernel>,
    mut searches: Searches,
    mut events: mpsc::Receiver<Vec<Event>>,
    mut questions: mpsc::Receiver<L::Question>,
    shutdown: &CancellationToken,
    mut listener: L,
) {
    // Read as rarely as possible: where reading the clock is a system call, it costs as much as any.
    let mut now = Instant::now();
    while !shutdown.is_cancelled() {
        // A burst becomes one run.
        let mut heard = false;
        while let Ok(together) = events.try_recv() {
            observe(&mut reconciler, together);
            heard = true;
        }
        if let Some(found) = searches.try_found() {
            reconciler.complete(found, now);
        }
        if heard {
            now = Instant::now();
        }
        let next = reconciler.next(now);
        // Before the kernel is called: health must know that there is work, even if the call never returns.
        let notes = reconciler.take_notes();
        if !notes.is_empty() {
            listener.tell(&reconciler, notes, now);
        }
        match next {
            Next::Work(Work::FindStale(purge)) => searches.begin(purge),
            Next::Work(work) => {
                // Not for plans, which every change needs: this clock is a system call on every machine.
                let begun = (!matches!(work, Work::Apply(_))).then(processor::time_used);
                let answer = work.carry_out(&mut *kernel);
                if let Some(begun) = begun {
                    reconciler.spent(processor::time_used().saturating_sub(begun));
                }
                now = Instant::now();
                if let (Work::Apply(plan), Answer::Outcomes(outcomes)) = (&work, &answer) {
                    listener.wrote(&reconciler, plan, outcomes);
                }
                reconciler.complete(answer, now);
                // One at a time: somebody who asks all the time delays a change by one answer only.
                if let Ok(question) = questions.try_recv() {
                    listener.answer(&reconciler, question, now);
                }
            }
            Next::Wait(due) => {
                let until = due.unwrap_or_else(|| now + LONG);
                // All arms are cancel-safe.
                let news = async {
                    tokio::select! {
                        together = events.recv() => Some(Heard::Events(together)),
                        Some(question) = questions.recv() => Some(Heard::Question(question)),
                        Some(found) = searches.found() => Some(Heard::Found(found)),
                        () = shutdown.cancelled() => None,
                    }
                };
                let (heard, looked) = wait(news, now, until);
                now = looked;
                match heard.flatten() {
                    Some(Heard::Events(Some(together))) => observe(&mut reconciler, together),
                    Some(Heard::Events(None)) => break,
                    Some(Heard::Found(found)) => reconciler.complete(found, now),
                    Some(Heard::Question(question)) => listener.answer(&reconciler, question, now),
                    None => {}
                }
            }
        }
    }
    let notes = reconciler.take_notes();
    listener.tell(&reconciler, notes, now);
}

fn observe(reconciler: &mut Reconciler, together: Vec<Event>) {
    for event in together {
        reconciler.observe(event);
    }
}

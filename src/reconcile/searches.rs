//! Searches for stale entries of connection tracking, one at a time, on a thread beside the loop.

use std::io;
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::thread;

use tokio::sync::mpsc;

use super::core::Answer;
use crate::diff::purge::Purge;
use crate::kernel::Found;

/// The thread that searches. It ends when this is dropped, after the search in hand, and goes with the process.
pub(super) struct Searches {
    purges: blocking::Sender<Arc<Purge>>,
    found: mpsc::Receiver<Answer>,
}

impl Searches {
    /// Starts the thread. `find_stale` does what [`Kernel::find_stale`](crate::kernel::Kernel::find_stale) does.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn start(mut find_stale: impl FnMut(&Purge) -> Found + Send + 'static) -> io::Result<Self> {
        let (purges, begun) = blocking::channel::<Arc<Purge>>();
        let (sender, found) = mpsc::channel(1);
        let body = move || {
            for purge in begun {
                if sender.blocking_send(Answer::Found(find_stale(&purge))).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("conntrack".to_owned()).spawn(body)?;
        Ok(Self { purges, found })
    }

    /// Begins a search.
    pub(super) fn begin(&self, purge: Arc<Purge>) {
        // Without the thread nothing would be found, ever, and nobody waits for it: a panic has said why.
        let _ = self.purges.send(purge);
    }

    /// What the search found; cancel-safe. `None`: there is no thread any more.
    pub(super) async fn found(&mut self) -> Option<Answer> {
        self.found.recv().await
    }

    /// What it found, if it has ended.
    pub(super) fn try_found(&mut self) -> Option<Answer> {
        self.found.try_recv().ok()
    }
}

#[cfg(test)]
mod tests;

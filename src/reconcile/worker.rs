//! The thread that owns the kernel: it takes one piece of work after the other and answers.
//!
//! Linux does what netlink messages ask for inside `send`, so this blocks; a thread of its own keeps that away from the
//! runtime.

use std::io;
use std::thread;

use tokio::sync::mpsc;

use super::core::{Answer, Work};
use crate::kernel::Kernel;

/// The other end of the kernel's thread.
pub(super) struct Worker {
    works: mpsc::Sender<Work>,
    answers: mpsc::Receiver<Answer>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread.
    pub(super) fn start(mut kernel: Box<dyn Kernel>) -> io::Result<Self> {
        // One piece of work is in flight at a time: see core.rs.
        let (works, mut next) = mpsc::channel::<Work>(1);
        let (answer, answers) = mpsc::channel(1);
        let thread = thread::Builder::new().name("kernel".to_owned()).spawn(move || {
            while let Some(work) = next.blocking_recv() {
                if answer.blocking_send(work.carry_out(&mut *kernel)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { works, answers, thread: Some(thread) })
    }

    /// Hands over a piece of work.
    pub(super) async fn give(&self, work: Work) {
        self.works.send(work).await.expect("the kernel's thread ends after this end of the channel");
    }

    /// The answer to the piece of work in flight. Cancel-safe.
    pub(super) async fn answer(&mut self) -> Answer {
        self.answers.recv().await.expect("the kernel's thread ends after this end of the channel")
    }

    /// Lets the thread end, and waits for it.
    pub(super) fn stop(mut self) {
        let (closed, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.works, closed));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the kernel's thread panicked");
        }
    }
}

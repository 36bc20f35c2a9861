//! Network namespaces, each with a thread in it that carries out jobs: what a thread can do needs no process, so that
//! thousands of requests take milliseconds.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::lab;

/// A network namespace. It goes when this is dropped and nothing else uses it.
pub(crate) struct Host {
    thread: i32,
    jobs: Sender<Box<dyn FnOnce() + Send>>,
}

impl Host {
    /// A new namespace, with nothing in it but `lo`.
    pub(crate) fn new() -> Self {
        Self::with(true)
    }

    /// The caller's namespace.
    pub(crate) fn here() -> Self {
        Self::with(false)
    }

    fn with(own_namespace: bool) -> Self {
        let (jobs, queue) = channel::<Box<dyn FnOnce() + Send>>();
        let (sender, receiver) = channel();
        thread::spawn(move || {
            if own_namespace {
                lab::new_namespace();
            }
            sender.send(rustix::thread::gettid().as_raw_nonzero().get()).expect("the caller waits");
            for job in queue {
                job();
            }
        });
        Self { thread: receiver.recv().expect("the thread did not panic"), jobs }
    }

    /// The id of the thread, by which `ip` finds the namespace.
    pub(crate) fn thread(&self) -> i32 {
        self.thread
    }

    /// Runs a job in the namespace and waits for it; threads that it starts stay in the namespace.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(job).recv().expect("the job did not panic")
    }

    /// Starts a job in the namespace.
    pub(crate) fn start<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let (sender, receiver) = channel();
        let job = move || {
            // The caller may have given up.
            let _ = sender.send(job());
        };
        self.jobs.send(Box::new(move || drop(thread::spawn(job)))).expect("the thread lives as long as this");
        receiver
    }

    /// Runs shell lines in the namespace; they must succeed.
    pub(crate) fn shell(&self, lines: impl Into<String>) -> String {
        let lines = lines.into();
        let (success, output) = self.run(move || {
            let (success, output) = lab::try_shell(&lines);
            (success, if success { output } else { format!("{lines}\n{output}") })
        });
        assert!(success, "{output}");
        output
    }
}

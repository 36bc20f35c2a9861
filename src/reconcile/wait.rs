//! Waiting on the loop's own thread, for a future or for the time.
//!
//! A timer of the runtime's would do, but whoever sets one wakes the thread that waits for the runtime's sockets, only
//! to have it wait again: two system calls and two changes of threads beside every change that is written.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What the future comes to; `None`: it did not from `now` until this moment. It is polled once at least, and dropped in the
/// end, so it must be cancel-safe. It must not need a runtime to be polled.
pub(super) fn wait<F: Future>(future: F, mut now: Instant, until: Instant) -> Option<F::Output> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        let left = until.saturating_duration_since(now);
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
        now = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn what_comes_from_another_thread_is_not_waited_for_any_longer() {
        let (sender, mut receiver) = mpsc::channel(1);
        let sending = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            sender.blocking_send(7).expect("somebody listens");
        });
        let far = Instant::now() + Duration::from_hours(1);
        assert_eq!(wait(receiver.recv(), Instant::now(), far), Some(Some(7)));
        sending.join().expect("the other thread");
        assert_eq!(wait(receiver.recv(), Instant::now(), far), Some(None), "all senders are gone");
    }

    #[test]
    fn the_time_ends_the_wait_and_loses_nothing() {
        let (sender, mut receiver) = mpsc::channel(1);
        let start = Instant::now();
        let until = start + Duration::from_millis(20);
        assert_eq!(wait(receiver.recv(), start, until), None);
        assert!(Instant::now() >= until);
        sender.try_send(7).expect("there is room");
        assert_eq!(
            wait(receiver.recv(), until, start),
            Some(Some(7)),
            "what is there is taken even when it is late"
        );
    }
}

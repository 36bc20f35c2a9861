//! Waiting on the loop's own thread, for a future or for the time.
//!
//! A timer of the runtime would do, but setting one wakes the thread that waits for the runtime's sockets, only to have
//! it wait again: two system calls and two thread switches more for every change that is written.

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

/// Waits for a future, from `now` until a moment; `None`: it did not complete in time.
///
/// Also returns what time it was at the last look, so that the caller need not read the clock again. The future is
/// polled at least once, and dropped in the end, so it must be cancel-safe. It must not need a runtime to be polled.
pub(super) fn wait<F: Future>(future: F, mut now: Instant, until: Instant) -> (Option<F::Output>, Instant) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return (Some(output), now);
        }
        let left = until.saturating_duration_since(now);
        if left.is_zero() {
            return (None, now);
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
        let start = Instant::now();
        let (received, now) = wait(receiver.recv(), start, far);
        assert_eq!(received, Some(Some(7)));
        assert!(now > start && now <= Instant::now(), "the time when it came");
        sending.join().expect("the other thread");
        assert_eq!(wait(receiver.recv(), now, far), (Some(None), now), "all senders are gone");
    }

    #[test]
    fn the_time_ends_the_wait_and_loses_nothing() {
        let (sender, mut receiver) = mpsc::channel(1);
        let start = Instant::now();
        let until = start + Duration::from_millis(20);
        let (received, now) = wait(receiver.recv(), start, until);
        assert_eq!(received, None);
        assert!(now >= until && now <= Instant::now());
        sender.try_send(7).expect("there is room");
        assert_eq!(
            wait(receiver.recv(), until, start).0,
            Some(Some(7)),
            "what is there is taken even when it is late"
        );
    }
}

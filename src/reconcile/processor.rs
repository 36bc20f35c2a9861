//! How much processor time the loop uses.

#[cfg(test)]
mod tests;

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The processor time that this thread has used so far, in the kernel too, but not the time it waited for an answer or
/// for the processor. Reading it is a system call on every machine.
pub(super) fn time_used() -> Duration {
    // Only a negative time is no duration.
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

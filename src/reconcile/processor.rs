//! What the loop costs of the processor.

#[cfg(test)]
mod tests;

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The processor time that this thread has used so far, in the kernel too: not the time that it waited, for an answer
/// or for the processor. A system call on every machine.
pub(super) fn time_used() -> Duration {
    // Only what is negative is no duration.
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

//! How much is worked on at once: as much as fits into a time, which is measured as it is done. Pure.

use std::time::Duration;

/// How long the work on one piece may take: changes that arrive meanwhile wait for it.
const PIECE_TIME: Duration = Duration::from_millis(5);
/// How many keys are in the first piece, and the fewest and most in any. A virtual server takes the kernel some 30 µs;
/// an address takes up to a millisecond, longer the more there are. How many fit into the time shows as they are
/// written.
const FIRST_PIECE: usize = 128;
const LEAST_PIECE: usize = 32;
const MOST_PIECE: usize = 2048;

/// How many keys are worked on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace(usize);

impl Default for Pace {
    fn default() -> Self {
        Self(FIRST_PIECE)
    }
}

impl From<usize> for Pace {
    /// Starts with a first piece of this many keys.
    fn from(piece: usize) -> Self {
        Self(piece)
    }
}

impl Pace {
    /// How many keys are in the next piece.
    pub(super) fn piece(self) -> usize {
        self.0
    }

    /// Takes in how long this many keys took: the next piece is made to fit.
    ///
    /// The size changes in steps, since one piece says little about the next: addresses follow virtual servers.
    pub(super) fn took(&mut self, count: usize, took: Duration) {
        if count < LEAST_PIECE {
            return;
        }
        let fits = count as u128 * PIECE_TIME.as_nanos() / took.as_nanos().max(1);
        let (least, most) = [self.0 / 4, 2 * self.0].map(|piece| piece.clamp(LEAST_PIECE, MOST_PIECE)).into();
        self.0 = usize::try_from(fits).unwrap_or(most).clamp(least, most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_grow_and_shrink_with_the_time_that_they_take() {
        let mut pace = Pace::default();
        assert_eq!(pace.piece(), 128);
        for (count, milliseconds, expected) in [
            (128, 1, 256),
            (256, 5, 256),
            (256, 4, 320),
            // So few keys say nothing.
            (31, 1000, 320),
            (320, 1000, 80),
            (80, 1000, 32),
            (32, 1000, 32),
        ] {
            pace.took(count, Duration::from_millis(milliseconds));
            assert_eq!(pace.piece(), expected, "{count} took {milliseconds} ms");
        }
        for _ in 0..10 {
            pace.took(pace.piece(), Duration::ZERO);
        }
        assert_eq!(pace.piece(), 2048);

        // Starting with a single key.
        let mut pace = Pace::from(1);
        pace.took(1000, Duration::from_millis(1));
        assert_eq!(pace.piece(), 32);
    }
}

//! What came before in a list.

use std::collections::BTreeSet;

use smallvec::SmallVec;

/// So many are looked through one by one.
const FEW: usize = 16;

/// Items that were seen. Nearly all lists of an object have one to ten: those are walked through, which costs neither an
/// allocation nor a hash. To walk through all for each takes time that grows with the square of their number, to which the
/// API sets no limit: many are a tree.
pub(super) struct Seen<T> {
    few: SmallVec<[T; FEW]>,
    /// All of them, once there are more than a few.
    many: BTreeSet<T>,
}

impl<T: Copy + Ord> Seen<T> {
    /// Nothing was seen yet.
    pub(super) fn nothing() -> Self {
        Self { few: SmallVec::new(), many: BTreeSet::new() }
    }

    /// Sees an item; whether it is a new one.
    pub(super) fn is_new(&mut self, item: T) -> bool {
        if self.many.is_empty() {
            if self.few.contains(&item) {
                return false;
            }
            if self.few.len() < FEW {
                self.few.push(item);
                return true;
            }
            self.many.extend(self.few.drain(..));
        }
        self.many.insert(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_new_once_however_many_there_are() {
        for count in [1, FEW - 1, FEW, FEW + 1, 10 * FEW] {
            let mut seen = Seen::nothing();
            for item in 0..count {
                assert!(seen.is_new(item), "{item} of {count}");
                assert!((0..=item).all(|known| !seen.is_new(known)), "{item} of {count}");
            }
        }
    }
}

//! Which items of a list came before.

use std::collections::BTreeSet;

use smallvec::SmallVec;

/// Up to this many items are searched one by one.
const FEW: usize = 16;

/// The items that were seen so far.
///
/// Nearly all lists of an object have one to ten items: those are searched one by one, which costs neither an
/// allocation nor a hash. The API sets no limit to their number, and searching for each item among all the others takes
/// time that grows with its square: many items are kept in a tree.
pub(super) struct Seen<T> {
    few: SmallVec<[T; FEW]>,
    /// All of them, once there are more than a few.
    many: BTreeSet<T>,
}

impl<T: Copy + Ord> Seen<T> {
    /// No item was seen yet.
    pub(super) fn nothing() -> Self {
        Self { few: SmallVec::new(), many: BTreeSet::new() }
    }

    /// Takes in an item and returns whether it is new.
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

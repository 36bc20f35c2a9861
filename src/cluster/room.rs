//! Room in tables that is not needed any more.

use std::hash::Hash;

use foldhash::HashMap;

/// Tables for so few entries stay as they are: they are small.
const FEW: usize = 1024;

/// Shrinks a table to room for a third more entries than it has, so that it need not grow again at once. By itself a
/// table grows, but never shrinks.
///
/// Costs nothing where the table has no more room than that; otherwise all entries move. (Whether it has is not seen
/// from its capacity, which counts no places of removed entries.)
pub(crate) fn give_up<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    let entries = table.len().max(FEW);
    table.shrink_to(entries + entries / 3);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shrinks_only_if_most_of_it_is_empty() {
        let mut table: HashMap<usize, usize> = (0..20_000).map(|number| (number, number)).collect();
        let full = table.capacity();
        table.retain(|number, _| *number < 15_000);
        give_up(&mut table);
        assert!(table.capacity() > full / 2, "{} of {full}", table.capacity());

        for number in 3_000..15_000 {
            table.remove(&number);
        }
        give_up(&mut table);
        let shrunk = table.capacity();
        assert!((4_000..full / 2).contains(&shrunk), "{shrunk} of {full}");
        assert!((0..3_000).all(|number| table.contains_key(&number)));

        table.clear();
        give_up(&mut table);
        let small = table.capacity();
        assert!((FEW..2 * FEW).contains(&small), "{small}");
    }
}

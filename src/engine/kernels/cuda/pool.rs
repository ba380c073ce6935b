//! Memory of a card that was taken at once, and what is cut from it: so that what was planned is what there is.

use std::collections::BTreeMap;

/// Pieces begin at multiples of this, as the driver's do.
const ALIGNMENT: usize = 512;

/// Which parts of some memory are free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pool {
    /// The bytes of each free stretch, by where it begins. No two touch.
    free: BTreeMap<usize, usize>,
}

impl Pool {
    /// Of so many bytes, all free.
    pub fn new(bytes: usize) -> Pool {
        let bytes = bytes / ALIGNMENT * ALIGNMENT;
        Pool { free: (bytes > 0).then_some((0, bytes)).into_iter().collect() }
    }

    /// What a piece takes.
    pub fn taken(bytes: usize) -> usize {
        bytes.max(1).next_multiple_of(ALIGNMENT)
    }

    /// Where a piece of so many bytes begins: in the smallest stretch that has room. None where there is none.
    pub fn take(&mut self, bytes: usize) -> Option<usize> {
        let bytes = Pool::taken(bytes);
        let fitting = self.free.iter().filter(|&(_, &len)| len >= bytes);
        let (&at, &len) = fitting.min_by_key(|&(_, &len)| len)?;
        self.free.remove(&at);
        if len > bytes {
            self.free.insert(at + bytes, len - bytes);
        }
        Some(at)
    }

    /// Gives back a piece.
    pub fn give_back(&mut self, at: usize, bytes: usize) {
        let (mut at, mut len) = (at, Pool::taken(bytes));
        if let Some((&before, &bytes)) = self.free.range(..at).next_back()
            && before + bytes == at
        {
            self.free.remove(&before);
            (at, len) = (before, bytes + len);
        }
        if let Some(after) = self.free.remove(&(at + len)) {
            len += after;
        }
        self.free.insert(at, len);
    }

    /// Bytes that are free.
    pub fn left(&self) -> usize {
        self.free.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_do_not_overlap(bytes in 0_usize..100_000, steps in prop::collection::vec((any::<bool>(), 0_usize..20_000), 1..60)) {
            let mut pool = Pool::new(bytes);
            let whole = pool.clone();
            let mut held: Vec<(usize, usize)> = Vec::new();
            for (gives_back, n) in steps {
                if gives_back && !held.is_empty() {
                    let (at, bytes) = held.swap_remove(n % held.len());
                    pool.give_back(at, bytes);
                } else if let Some(at) = pool.take(n) {
                    prop_assert!(at.is_multiple_of(ALIGNMENT) && at + Pool::taken(n) <= bytes);
                    prop_assert!(held.iter().all(|&(other, len)| at + Pool::taken(n) <= other || other + Pool::taken(len) <= at));
                    held.push((at, n));
                }
                let taken: usize = held.iter().map(|&(_, len)| Pool::taken(len)).sum();
                prop_assert_eq!(pool.left() + taken, whole.left());
            }
            held.into_iter().for_each(|(at, bytes)| pool.give_back(at, bytes));
            prop_assert_eq!(pool, whole);
        }
    }
}

//! Which parts of a stretch of memory are free, so that what was planned is what there is.

use std::collections::BTreeMap;

/// Pieces begin at multiples of this, as the driver's do.
pub(super) const ALIGNMENT: usize = 512;

/// Which parts of a stretch of memory are free. It grows at its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pool {
    /// The bytes of each free part, by where it begins. No two touch.
    free: BTreeMap<usize, usize>,
    /// Where the stretch ends.
    end: usize,
}

impl Pool {
    /// What a piece takes.
    pub fn taken(bytes: usize) -> usize {
        bytes.max(1).next_multiple_of(ALIGNMENT)
    }

    /// Where it ends.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Where a piece of so many bytes begins: in the smallest part that has room. None where there is none.
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

    /// By how much it must grow for a piece of so many bytes.
    pub fn missing(&self, bytes: usize) -> usize {
        let last = self.free.last_key_value().filter(|&(at, len)| at + len == self.end);
        Pool::taken(bytes).saturating_sub(last.map_or(0, |(_, &len)| len))
    }

    /// Grows by as many bytes, a multiple of [`ALIGNMENT`].
    pub fn grow(&mut self, bytes: usize) {
        let end = self.end;
        self.end += bytes;
        if bytes > 0 {
            self.give_back(end, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that are in use.
    fn used(pool: &Pool) -> usize {
        pool.end - pool.free.values().sum::<usize>()
    }

    proptest! {
        #[test]
        fn pieces_do_not_overlap(steps in prop::collection::vec((0_u8..3, 0_usize..20_000), 1..60)) {
            let mut pool = Pool::default();
            let mut held: Vec<(usize, usize)> = Vec::new();
            for (step, n) in steps {
                match step {
                    0 if !held.is_empty() => {
                        let (at, bytes) = held.swap_remove(n % held.len());
                        pool.give_back(at, bytes);
                    }
                    1 => pool.grow(pool.missing(n)),
                    _ => {}
                }
                if step > 0 {
                    let at = pool.take(n);
                    prop_assert!(step != 1 || at.is_some(), "it grew for {n} bytes: {pool:?}");
                    if let Some(at) = at {
                        prop_assert!(at.is_multiple_of(ALIGNMENT) && at + Pool::taken(n) <= pool.end());
                        prop_assert!(held.iter().all(|&(other, len)| at + Pool::taken(n) <= other || other + Pool::taken(len) <= at));
                        held.push((at, n));
                    }
                }
                prop_assert_eq!(used(&pool), held.iter().map(|&(_, len)| Pool::taken(len)).sum::<usize>());
            }
            held.into_iter().for_each(|(at, bytes)| pool.give_back(at, bytes));
            prop_assert_eq!((used(&pool), pool.free.len()), (0, usize::from(pool.end() > 0)));
        }
    }
}

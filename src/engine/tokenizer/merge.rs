use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// No neighbour.
const NONE: u32 = u32::MAX;

/// A stretch of the text that was merged into one; neighbours in the text are linked.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: u32,
    /// In bytes; zero for one that went into its left neighbour.
    len: u32,
    id: u32,
    prev: u32,
    next: u32,
}

/// Merges neighbouring symbols, the best pair first, until no pair can be. Kept between words for its buffers.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    /// (rank, index of the left one, length of both, id of the result): the least first, of equals the leftmost.
    candidates: BinaryHeap<Reverse<(u32, u32, u32, u32)>>,
}

/// What a pair of neighbours becomes.
pub(super) struct Merged {
    /// Pairs of lower rank go first.
    pub(super) rank: u32,
    /// The result's id.
    pub(super) id: u32,
}

impl Merger {
    /// Merges symbols that are given with their lengths in bytes, then tells each that remains: its place in the text and
    /// its id. `pair` is asked for the ids of two neighbours and their place.
    ///
    /// Every merge removes a symbol and adds two candidates at most, so that n symbols take O(n log n).
    pub(super) fn run(
        &mut self,
        symbols: impl Iterator<Item = (usize, u32)>,
        pair: impl Fn(u32, u32, Range<usize>) -> Option<Merged>,
        mut each: impl FnMut(Range<usize>, u32),
    ) {
        self.symbols.clear();
        self.candidates.clear();
        let mut start = 0;
        for (at, (len, id)) in (0u32..).zip(symbols) {
            self.symbols.push(Symbol { start, len: len as u32, id, prev: at.wrapping_sub(1), next: at + 1 });
            start += len as u32;
        }
        let Some(last) = self.symbols.last_mut() else { return };
        last.next = NONE;
        for left in 0..self.symbols.len() as u32 {
            self.propose(left, &pair);
        }
        while let Some(Reverse((_, left, len, id))) = self.candidates.pop() {
            let symbol = self.symbols[left as usize];
            let right = symbol.next;
            // Out of date: one of the two was merged since. Lengths only grow, so equal ones mean the same two.
            if symbol.len == 0 || right == NONE || symbol.len + self.symbols[right as usize].len != len {
                continue;
            }
            let next = self.symbols[right as usize].next;
            self.symbols[right as usize].len = 0;
            self.symbols[left as usize] = Symbol { len, id, next, ..symbol };
            if next != NONE {
                self.symbols[next as usize].prev = left;
            }
            self.propose(symbol.prev, &pair);
            self.propose(left, &pair);
        }
        let mut at = 0;
        while at != NONE {
            let symbol = self.symbols[at as usize];
            each(symbol.start as usize..(symbol.start + symbol.len) as usize, symbol.id);
            at = symbol.next;
        }
    }

    fn propose(&mut self, left: u32, pair: &impl Fn(u32, u32, Range<usize>) -> Option<Merged>) {
        let Some(&symbol) = self.symbols.get(left as usize) else { return };
        let Some(&right) = self.symbols.get(symbol.next as usize) else { return };
        let len = symbol.len + right.len;
        let place = symbol.start as usize..(symbol.start + len) as usize;
        if let Some(Merged { rank, id }) = pair(symbol.id, right.id, place) {
            self.candidates.push(Reverse((rank, left, len, id)));
        }
    }
}

use std::collections::VecDeque;
use std::time::Duration;

/// What is known of one card.
#[derive(Debug, Clone, Default)]
pub struct Card {
    /// Bytes that may be planned with when nobody else uses it.
    pub whole: u64,
    /// What others use, by when it was seen: of the last while, oldest first.
    foreign: VecDeque<(Duration, u64)>,
    /// When it was last seen.
    taken: Duration,
    /// When memory was last given back on it.
    pub changed: Option<Duration>,
    /// Since when it is missing, if it is.
    pub missing: Option<Duration>,
}

impl Card {
    /// Takes in that `foreign` bytes were in use by others at `taken`; what was seen longer than `settles` before is
    /// forgotten.
    pub fn see(&mut self, whole: u64, foreign: u64, taken: Duration, settles: Duration) {
        (self.whole, self.taken, self.missing) = (whole, taken, None);
        while self.foreign.front().is_some_and(|(at, _)| *at + settles <= taken) {
            self.foreign.pop_front();
        }
        self.foreign.push_back((taken, foreign));
    }

    /// Takes in that it was not there at `taken`.
    pub fn miss(&mut self, taken: Duration) {
        self.taken = taken;
        self.missing.get_or_insert(taken);
        self.foreign.clear();
    }

    /// Bytes that others use now.
    pub fn foreign(&self) -> u64 {
        self.foreign.back().map_or(0, |(_, bytes)| *bytes)
    }

    /// Bytes that may be held now.
    pub fn budget(&self) -> u64 {
        self.within(self.foreign())
    }

    /// Bytes that may be held as far as that is lasting.
    pub fn steady(&self) -> u64 {
        self.within(self.foreign.iter().map(|(_, bytes)| *bytes).min().unwrap_or_default())
    }

    fn within(&self, foreign: u64) -> u64 {
        if self.missing.is_some() { 0 } else { self.whole.saturating_sub(foreign) }
    }

    /// Whether it was seen after memory was last given back on it.
    pub fn is_settled(&self) -> bool {
        self.missing.is_none() && self.changed.is_none_or(|changed| self.taken > changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_back_does_not_count_as_lasting() {
        let at = Duration::from_secs;
        let mut card = Card::default();
        card.see(10, 1, at(1), at(5));
        assert_eq!((card.budget(), card.steady()), (9, 9));
        // A process has ended, and its memory is nobody's yet.
        card.changed = Some(at(1));
        assert!(!card.is_settled());
        card.see(10, 6, at(2), at(5));
        assert!(card.is_settled());
        assert_eq!((card.budget(), card.steady()), (4, 9));
        // It stays: somebody else has it.
        card.see(10, 6, at(8), at(5));
        assert_eq!((card.budget(), card.steady()), (4, 4));
        card.miss(at(9));
        assert_eq!((card.budget(), card.steady(), card.missing), (0, 0, Some(at(9))));
        card.see(10, 0, at(10), at(5));
        assert_eq!((card.budget(), card.steady(), card.missing), (10, 10, None));
    }
}

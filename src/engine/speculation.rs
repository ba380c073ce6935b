//! Guesses at what an answer says next, from what was said before: code that is edited, text that is quoted; or from a
//! smaller model, [`super::draft`]. Guesses run in the same pass as the token before them, and each position's token is then
//! chosen as if it came alone: a guess that is not what is chosen is dropped with all after it. So the answer is the same,
//! only sooner where guesses are good.

use std::collections::HashMap;

/// Tokens that must have come before in the same order.
const GRAM: usize = 3;
/// Places where they came before that are looked at.
const PLACES: usize = 16;
/// Guesses of a pass at most: with the token before them as many as a pass has rows of logits for.
pub const MOST: usize = 7;
/// How soon older trials are forgotten.
const DECAY: f64 = 0.9;
/// Passes without a guess after which one is tried again.
const PATIENCE: usize = 24;

/// What was guessed for a conversation from what was said in it.
#[derive(Debug, Clone)]
pub struct Speculation {
    /// Where the tokens before each place came last, one after its end.
    latest: HashMap<[u32; GRAM], usize>,
    /// For each end, the end before it of the same tokens.
    earlier: Vec<Option<usize>>,
    odds: Odds,
}

impl Speculation {
    /// For a conversation of at most so many tokens.
    pub fn new(longest: usize) -> Speculation {
        let (latest, earlier) = (HashMap::with_capacity(longest), Vec::with_capacity(longest + 1));
        Speculation { latest, earlier, odds: Odds::default() }
    }

    /// What may follow `tokens`, the conversation so far, into `guesses`: at most `most` tokens, and no more than pay. `cost`
    /// is that of one more token in the pass, in parts of what the pass would give otherwise.
    pub fn guess(&mut self, tokens: &[u32], most: usize, cost: f64, guesses: &mut Vec<u32>) {
        guesses.clear();
        let Some(at) = self.find(tokens) else { return };
        let most = most.min(self.odds.worth(cost));
        // What follows may run into what is guessed itself, as in a list that goes on.
        while guesses.len() < most {
            let next = at + guesses.len();
            guesses.push(tokens.get(next).copied().unwrap_or_else(|| guesses[next - tokens.len()]));
        }
    }

    /// Notes how many of the guesses were right.
    pub fn note(&mut self, guessed: usize, right: usize) {
        self.odds.note(guessed, right);
    }

    /// Where the longest end of `tokens` that came before went on.
    fn find(&mut self, tokens: &[u32]) -> Option<usize> {
        for end in self.earlier.len()..tokens.len() + 1 {
            let gram = end.checked_sub(GRAM).and_then(|from| tokens[from..end].try_into().ok());
            let before = gram.and_then(|gram| self.latest.insert(gram, end));
            self.earlier.push(before);
        }
        let alike =
            |end: usize| (0..end).take_while(|back| tokens[end - 1 - back] == tokens[tokens.len() - 1 - back]).count();
        let places = std::iter::successors(self.earlier[tokens.len()], |&end| self.earlier[end]).take(PLACES);
        places.max_by_key(|&end| (alike(end), end))
    }
}

/// How guesses of one kind went, and so how many of them pay.
#[derive(Debug, Clone)]
pub struct Odds {
    hits: f64,
    misses: f64,
    /// Passes in which none was made, as it would not have paid.
    idle: usize,
}

impl Default for Odds {
    fn default() -> Self {
        // As if one of three guesses had failed.
        Self { hits: 2.0, misses: 1.0, idle: 0 }
    }
}

impl Odds {
    /// How many guesses pay in the next pass; one now and then where none does. `cost` as in [`Speculation::guess`].
    pub fn worth(&mut self, cost: f64) -> usize {
        let worth = worthwhile(self.hits / (self.hits + self.misses), cost);
        if worth > 0 {
            return worth;
        }
        self.idle += 1;
        // What seemed too dear to pay ever may have been a hiccup.
        let tries = self.idle >= if cost < 1.0 { PATIENCE } else { 8 * PATIENCE };
        if tries {
            self.idle = 0;
        }
        usize::from(tries)
    }

    /// Notes how many guesses were right.
    pub fn note(&mut self, guessed: usize, right: usize) {
        if guessed > 0 {
            self.hits = self.hits * DECAY + right as f64;
            self.misses = self.misses * DECAY + f64::from(u8::from(right < guessed));
        }
    }
}

/// How many guesses pay of which each is right with this probability: as long as the chance that all up to one are right is
/// greater than what it costs.
fn worthwhile(right: f64, cost: f64) -> usize {
    if cost <= 0.0 {
        return MOST;
    }
    let most = cost.ln() / right.clamp(0.01, 0.99).ln();
    if most >= 1.0 { (most as usize).min(MOST) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guess(speculation: &mut Speculation, tokens: &[u32], most: usize, cost: f64) -> Vec<u32> {
        let mut guesses = vec![99];
        speculation.guess(tokens, most, cost, &mut guesses);
        guesses
    }

    #[test]
    fn what_came_before_is_guessed_again() {
        let check = |text: &[u8], expected: &[u8]| {
            let tokens: Vec<u32> = text.iter().copied().map(u32::from).collect();
            let guessed = guess(&mut Speculation::new(60), &tokens, 4, 0.0);
            assert_eq!(guessed, expected.iter().copied().map(u32::from).collect::<Vec<_>>(), "{text:?}");
        };
        check(b"", b"");
        check(b"abcdef", b"");
        check(b"abcdefg.abc", b"defg");
        // Of two places the one that was alike for longer, and of equals the last.
        check(b"xabcd yabce xabc", b"d ya");
        check(b"abcd abce abc", b"e ab");
        // It runs on into itself.
        check(b"ababab", b"abab");
    }

    #[test]
    fn it_stops_where_it_does_not_pay_and_tries_again() {
        let tokens: Vec<u32> = b"abcdefgh abc".iter().copied().map(u32::from).collect();
        let mut speculation = Speculation::new(60);
        assert!(!guess(&mut speculation, &tokens, 7, 0.2).is_empty());
        for _ in 0..30 {
            speculation.note(4, 0);
        }
        let tried = (0..100).filter(|_| !guess(&mut speculation, &tokens, 7, 0.2).is_empty()).count();
        assert_eq!(tried, 4);
        for _ in 0..30 {
            speculation.note(7, 7);
        }
        assert_eq!(guess(&mut speculation, &tokens, 7, 0.2).len(), 7);
        // Where a token in a pass costs as much as a pass, nothing pays.
        assert_eq!((0..100).filter(|_| !guess(&mut speculation, &tokens, 7, 1.0).is_empty()).count(), 0);
    }

    proptest! {
        #[test]
        fn guesses_do_not_depend_on_when_it_looked(tokens in prop::collection::vec(0_u32..3, 1..60), cut in 0_usize..60) {
            let mut looking = Speculation::new(0);
            guess(&mut looking, &tokens[..cut.min(tokens.len())], 4, 0.0);
            prop_assert_eq!(guess(&mut looking, &tokens, 4, 0.0), guess(&mut Speculation::new(60), &tokens, 4, 0.0));
        }
    }
}

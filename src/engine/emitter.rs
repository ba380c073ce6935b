//! From the bytes of tokens to text that can be shown.

use super::tokenizer::Utf8Stream;
use std::collections::VecDeque;
use std::mem;

/// Turns the bytes of tokens into text that can be shown: a character that is split over tokens comes out whole, and
/// nothing that may become a stop string comes out before that is decided. What belongs to a token (`T`, its
/// log-probabilities say), if anything, comes out together with the first of its text.
#[derive(Debug)]
pub struct Emitter<T> {
    stops: Vec<String>,
    characters: Utf8Stream,
    /// Text that may become a stop string.
    held: String,
    /// How many bytes of text came out.
    emitted: usize,
    /// By where their text begins.
    tokens: VecDeque<(usize, T)>,
}

/// What can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted<T> {
    /// More of the text.
    pub text: String,
    /// The tokens that begin in it, and those before them that it shows nothing of.
    pub tokens: Vec<T>,
}

impl<T> Emitter<T> {
    /// Text that ends before the first of `stops`, empty ones of which are ignored.
    pub fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        let (characters, held, tokens) = (Utf8Stream::default(), String::new(), VecDeque::new());
        Self { stops, characters, held, emitted: 0, tokens }
    }

    /// Takes the bytes of one token. Returns what they let out, and whether they completed a stop string; what follows
    /// it is dropped, as is the stop string.
    pub fn push(&mut self, bytes: &[u8], token: Option<T>) -> (Emitted<T>, bool) {
        self.tokens.extend(token.map(|token| (self.emitted + self.held.len(), token)));
        self.characters.push(bytes, &mut self.held);
        match self.stops.iter().filter_map(|stop| self.held.find(stop)).min() {
            Some(end) => (self.emit(end), true),
            None => (self.emit(self.held.len() - self.may_become_stop()), false),
        }
    }

    /// Lets out the rest at the end of an answer. A character that never became whole is dropped.
    pub fn finish(&mut self) -> Emitted<T> {
        let mut emitted = self.emit(self.held.len());
        emitted.tokens.extend(mem::take(&mut self.tokens).into_iter().map(|(_, token)| token));
        emitted
    }

    fn emit(&mut self, length: usize) -> Emitted<T> {
        let text = self.held[..length].to_string();
        self.held.drain(..length);
        self.emitted += length;
        let ready = self.tokens.iter().take_while(|(start, _)| *start < self.emitted).count();
        Emitted { text, tokens: self.tokens.drain(..ready).map(|(_, token)| token).collect() }
    }

    /// The length of the longest end of what is held that begins a stop string.
    fn may_become_stop(&self) -> usize {
        let held = self.held.as_bytes();
        let begins = |stop: &String| {
            let longest = held.len().min(stop.len() - 1);
            (1..=longest).rev().find(|length| held.ends_with(&stop.as_bytes()[..*length])).unwrap_or(0)
        };
        // A stop string begins with a whole character, so that what is left ends with one.
        self.stops.iter().map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pushes pieces, with their positions for tokens, and joins what comes out with bars.
    fn check(stops: &[&str], pieces: &[&[u8]], shown: &str, tokens: &[usize]) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_string()).collect();
        let mut emitter = Emitter::new(stops.clone());
        let (mut texts, mut seen, mut stopped) = (Vec::new(), Vec::new(), false);
        for (at, piece) in pieces.iter().enumerate() {
            let (emitted, stop) = emitter.push(piece, Some(at));
            texts.push(emitted.text);
            seen.extend(emitted.tokens);
            stopped = stop;
            if stop {
                break;
            }
        }
        if !stopped {
            let rest = emitter.finish();
            texts.push(rest.text);
            seen.extend(rest.tokens);
        }
        assert_eq!((texts.join("|"), seen.as_slice()), (shown.to_string(), tokens), "{pieces:?} until {stops:?}");
    }

    #[test]
    fn characters_come_out_whole() {
        check(&[], &[b"a", b"b"], "a|b|", &[0, 1]);
        check(&[], &["é".as_bytes(), b"\xF0\x9F", b"\x98", b"\x80!"], "é|||😀!|", &[0, 1, 2, 3]);
        check(&[], &[b"a\xFFb", b"\x80"], "a\u{FFFD}b|\u{FFFD}|", &[0, 1]);
        check(&[], &[b"\xF0\x9F", b"a"], "|\u{FFFD}a|", &[0, 1]);
        check(&[], &[b"end \xF0\x9F\x98"], "end |", &[0]);
        check(&[], &[b"", b"a"], "|a|", &[0, 1]);
    }

    #[test]
    fn stop_strings_are_found_across_tokens() {
        check(&["stop"], &[b"go s", b"to", b"p it"], "go ||", &[0]);
        check(&["stop"], &[b"go s", b"top"], "go |", &[0]);
        check(&["stop"], &[b"s", b"to", b"ne"], "||stone|", &[0, 1, 2]);
        check(&["stop"], &[b"sto", b"stop"], "|sto", &[0]);
        check(&["\n\n", "ab"], &[b"xa", b"\n", b"\ny"], "x|a|", &[0]);
        check(&["b", "abc"], &[b"abc"], "", &[]);
        check(&["aab"], &[b"a", b"a", b"a", b"b"], "||a|", &[0]);
        check(&["😀"], &[b"x\xF0\x9F", b"\x98\x80y"], "x|", &[0]);
        check(&["😀"], &[b"x\xF0\x9F", b"\x98\x81y"], "x|😁y|", &[0, 1]);
        check(&["é!"], &["é".as_bytes(), b"?"], "|é?|", &[0, 1]);
        check(&[""], &[b"x"], "x|", &[0]);
        check(&["never"], &[b"an n"], "an |n", &[0]);
    }

    proptest! {
        /// However a text is cut into tokens, the same comes out: the text up to the first stop string.
        #[test]
        fn cuts_do_not_matter(text in "[ab😀é]{0,24}", stops in prop::collection::vec("[ab😀]{1,3}", 0..3), cut in 1usize..4) {
            let mut emitter = Emitter::new(stops.clone());
            let mut shown = String::new();
            let mut stopped = false;
            for piece in text.as_bytes().chunks(cut) {
                let (emitted, stop) = emitter.push(piece, Some(()));
                shown.push_str(&emitted.text);
                stopped = stop;
                if stop { break }
            }
            if !stopped {
                shown.push_str(&emitter.finish().text);
            }
            // The stop string that is complete first wins, as tokens come one after the other.
            let ends = |stop: &String| text.find(stop.as_str()).map(|at| (at + stop.len(), at));
            let expected = stops.iter().filter_map(ends).collect::<Vec<_>>();
            if cut == 1 {
                let first = expected.iter().map(|(end, _)| *end).min();
                let end = first.and_then(|end| expected.iter().filter(|stop| stop.0 == end).map(|stop| stop.1).min());
                prop_assert_eq!(&shown, &text[..end.unwrap_or(text.len())]);
            }
            prop_assert_eq!(stopped, !expected.is_empty());
            prop_assert!(text.starts_with(&shown));
        }
    }
}

use super::charsmap::CharsMap;
use super::spm::{self, SPACE};
use super::vocabulary::{Role, Vocabulary};
use super::{Error, Token};
use crate::engine::gguf::Gguf;
use std::collections::BTreeSet;

/// How much less likely a character without a token is than the least likely token: SentencePiece's penalty.
const PENALTY: f64 = 10.0;

/// SentencePiece's unigram model, of T5 and XLM-RoBERTa: of all ways to cut a text the one whose tokens' scores, logarithms of
/// probabilities, have the greatest sum.
#[derive(Debug)]
pub(super) struct Unigram {
    /// By token.
    scores: Vec<f32>,
    /// Of a character that has no token.
    unknown_score: f64,
    unknown: Token,
    /// The lengths in bytes that tokens have.
    lengths: Vec<usize>,
    map: CharsMap,
    add_space: bool,
    /// Whether spaces at both ends go, and several become one.
    merge_spaces: bool,
}

/// The best way to cut a text up to a place.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    /// Its last token, and where that begins.
    token: Token,
    from: usize,
}

impl Unigram {
    pub(super) fn new(vocabulary: &Vocabulary, gguf: &Gguf) -> Result<Unigram, Error> {
        let metadata = gguf.metadata();
        let scores = spm::scores(vocabulary, metadata)?;
        let normal = vocabulary.tokens().filter(|&token| vocabulary.role(token) == Role::Normal);
        let least = normal.map(|token| scores[token as usize]).fold(f32::INFINITY, f32::min);
        if let Some(score) = scores.iter().find(|score| !score.is_finite()) {
            return Err(Error::Inconsistent(format!("{:?} has the score {score}", spm::SCORES)));
        }
        let unknown = metadata.find("tokenizer.ggml.unknown_token_id")?.unwrap_or(2);
        if unknown as usize >= vocabulary.len() {
            let problem = format!("the unknown token is {unknown}, of {} tokens", vocabulary.len());
            return Err(Error::Inconsistent(problem));
        }
        let lengths: BTreeSet<usize> = vocabulary.tokens().map(|token| vocabulary.spelling(token).len()).collect();
        Ok(Unigram {
            unknown_score: f64::from(if least.is_finite() { least } else { 0.0 }) - PENALTY,
            scores,
            unknown,
            lengths: lengths.into_iter().filter(|&length| length > 0).collect(),
            map: CharsMap::new(metadata)?,
            add_space: metadata.find("tokenizer.ggml.add_space_prefix")?.unwrap_or(false),
            merge_spaces: metadata.find("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false),
        })
    }

    /// Whether texts get a space before them.
    pub(super) fn adds_space(&self) -> bool {
        self.add_space
    }

    /// Appends the tokens of `text`.
    pub(super) fn encode(&self, vocabulary: &Vocabulary, text: &str, tokens: &mut Vec<Token>) {
        let text = self.normal(text);
        // By the place in the text at which it ends.
        let mut best: Vec<Option<Best>> = vec![None; text.len() + 1];
        for (at, char) in text.char_indices() {
            let before = match at {
                0 => 0.0,
                // All characters before it were taken, if only as unknown ones.
                _ => best[at].map_or(f64::NEG_INFINITY, |best| best.score),
            };
            let mut challenge = |end: usize, token: Token, score: f64| {
                let score = before + score;
                if best[end].is_none_or(|best| score > best.score) {
                    best[end] = Some(Best { score, token, from: at });
                }
            };
            let mut known = false;
            for &length in &self.lengths {
                let end = at + length;
                if end > text.len() {
                    break;
                }
                let Some(token) = text.get(at..end).and_then(|piece| spm::text_token(vocabulary, piece.as_bytes()))
                else {
                    continue;
                };
                known |= length == char.len_utf8();
                let given = vocabulary.role(token) == Role::UserDefined;
                challenge(end, token, if given { 0.0 } else { self.scores[token as usize].into() });
            }
            if !known {
                challenge(at + char.len_utf8(), self.unknown, self.unknown_score);
            }
        }
        let first = tokens.len();
        let mut at = text.len();
        while at > 0 {
            let Some(Best { token, from, .. }) = best[at] else { break };
            // Unknown characters that follow each other are one token.
            if token != self.unknown || tokens.len() == first || tokens.last() != Some(&self.unknown) {
                tokens.push(token);
            }
            at = from;
        }
        tokens[first..].reverse();
    }

    /// The text as it was learnt, with SentencePiece's spaces.
    fn normal(&self, text: &str) -> String {
        let text = self.map.apply(text);
        let mut normal = String::with_capacity(text.len() + SPACE.len());
        let mut words = text.split(' ').filter(|word| !self.merge_spaces || !word.is_empty());
        let Some(first) = words.next() else { return normal };
        if self.merge_spaces || self.add_space && text.chars().any(|char| char != ' ') {
            normal.push_str(SPACE);
        }
        normal.push_str(first);
        for word in words {
            normal.push_str(SPACE);
            normal.push_str(word);
        }
        normal
    }
}

use super::merge::{Merged, Merger};
use super::vocabulary::{Role, Vocabulary};
use super::{Error, Token};
use crate::engine::gguf::{Error as GgufError, Gguf, Metadata};

/// How SentencePiece spells a space.
pub(super) const SPACE: &str = "\u{2581}";

pub(super) const SCORES: &str = "tokenizer.ggml.scores";

/// A character that has no token: it becomes bytes.
const NO_TOKEN: u32 = u32::MAX;

/// SentencePiece's BPE: of all neighbours whose union is a token, the one of the highest score is merged first.
#[derive(Debug)]
pub(super) struct Spm {
    /// By token; the highest score is rank 0.
    ranks: Vec<u32>,
    bytes: [Option<Token>; 256],
    unknown: Option<Token>,
    add_space: bool,
}

impl Spm {
    pub(super) fn new(vocabulary: &Vocabulary, gguf: &Gguf, add_space: bool) -> Result<Spm, Error> {
        let metadata = gguf.metadata();
        let ranks: Vec<u32> = scores(vocabulary, metadata)?.into_iter().map(rank).collect();
        let unknown = metadata.find("tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
        let unknown = Some(unknown).filter(|&token| (token as usize) < vocabulary.len());
        Ok(Spm { ranks, bytes: vocabulary.byte_tokens(), unknown, add_space })
    }

    /// Whether texts get a space before them.
    pub(super) fn adds_space(&self) -> bool {
        self.add_space
    }

    /// Appends the tokens of `text`, which is `fresh` where a text begins.
    pub(super) fn encode(&self, vocabulary: &Vocabulary, text: &str, fresh: bool, tokens: &mut Vec<Token>) {
        let prefix = if self.add_space && fresh { SPACE } else { "" };
        let text = [prefix, &text.replace(' ', SPACE)].concat();
        let bytes = text.as_bytes();
        let symbols = text.char_indices().map(|(at, char)| {
            let len = char.len_utf8();
            (len, text_token(vocabulary, &bytes[at..at + len]).unwrap_or(NO_TOKEN))
        });
        let pair = |_, _, place: std::ops::Range<usize>| {
            let token = text_token(vocabulary, &bytes[place])?;
            Some(Merged { rank: self.ranks[token as usize], id: token })
        };
        Merger::default().run(symbols, pair, |place, token| match token {
            NO_TOKEN => {
                tokens.extend(bytes[place].iter().filter_map(|&byte| self.bytes[byte as usize].or(self.unknown)))
            }
            token => tokens.push(token),
        });
    }
}

/// The score of each token.
pub(super) fn scores(vocabulary: &Vocabulary, metadata: &Metadata) -> Result<Vec<f32>, Error> {
    let scores: Vec<f32> = match metadata.floats(SCORES) {
        Ok(scores) => scores.collect(),
        Err(GgufError::Type { .. }) => metadata.integers(SCORES)?.map(|score| score as f32).collect(),
        Err(error) => return Err(error.into()),
    };
    if scores.len() != vocabulary.len() {
        let message = format!("{} tokens, but {} in {SCORES:?}", vocabulary.len(), scores.len());
        return Err(Error::Inconsistent(message));
    }
    Ok(scores)
}

/// The token that is spelled so, if text can become it.
pub(super) fn text_token(vocabulary: &Vocabulary, spelling: &[u8]) -> Option<Token> {
    if spelling.len() > vocabulary.longest() {
        return None;
    }
    let token = vocabulary.find(spelling)?;
    matches!(vocabulary.role(token), Role::Normal | Role::UserDefined | Role::Unused).then_some(token)
}

/// Turns scores, of which the highest goes first, into ranks, of which the lowest does.
fn rank(score: f32) -> u32 {
    // The order of floats is that of their bits where they are positive, and the reverse where negative. Adding zero
    // makes both zeros one.
    let bits = (score + 0.0).to_bits();
    !(if bits >> 31 == 0 { bits | 1 << 31 } else { !bits })
}

/// The bytes that a token stands for.
pub(super) fn piece(vocabulary: &Vocabulary, token: Token) -> Vec<u8> {
    let spelling = vocabulary.spelling(token);
    match vocabulary.role(token) {
        Role::Byte => vocabulary.byte(token).map_or_else(|| spelling.to_vec(), |byte| vec![byte]),
        Role::Normal => unescape(spelling),
        _ => spelling.to_vec(),
    }
}

/// Turns SentencePiece's spaces into spaces.
pub(super) fn unescape(mut spelling: &[u8]) -> Vec<u8> {
    let mut piece = Vec::with_capacity(spelling.len());
    while let Some((&first, rest)) = spelling.split_first() {
        if let Some(rest) = spelling.strip_prefix(SPACE.as_bytes()) {
            piece.push(b' ');
            spelling = rest;
        } else {
            piece.push(first);
            spelling = rest;
        }
    }
    piece
}

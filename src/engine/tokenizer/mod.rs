//! Text to tokens and back, by the vocabulary in the model's file.
//!
//! Four kinds are served: SentencePiece's merges by score with bytes for what has no token ([`spm`]: Llama 2, Gemma);
//! byte-level BPE with ranked merges ([`bpe`]: Llama 3, Qwen and most others), whose text is first cut into words by the
//! expressions that the model was trained with ([`pretokenizer`]); BERT's longest pieces of words ([`wordpiece`]); and
//! SentencePiece's likeliest tokens ([`unigram`]: XLM-RoBERTa, and so BGE-M3 and E5), whose text is first written otherwise by a
//! table ([`charsmap`]). The first two merge with one algorithm ([`merge`]), which takes O(n log n) in the length of a word. Tokens that stand for
//! themselves, such as `<|im_end|>`, are found before any ([`special`]).
//!
//! The results agree with llama.cpp's; where the two references differ, they are HF's and SentencePiece's: of several
//! special tokens that overlap the leftmost longest is taken, and plain text never becomes a control token.

mod bpe;
mod charsmap;
mod end;
mod infill;
mod merge;
mod pretokenizer;
mod special;
mod spm;
mod stream;
mod unigram;
mod vocabulary;
mod wordpiece;

#[cfg(test)]
mod tests;

pub use stream::Utf8Stream;

use super::Error;
use super::gguf::Gguf;
use bpe::Bpe;
use infill::Infill;
use special::{Fragment, Specials};
use spm::Spm;
use std::collections::BTreeSet;
use unigram::Unigram;
use vocabulary::{Role, Vocabulary};
use wordpiece::WordPiece;

/// A token's number, below [`Tokenizer::len`].
pub type Token = u32;

/// What control tokens in a text are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// Themselves: the text comes from a template, or from somebody who may write such tokens.
    Parse,
    /// Text like any other.
    Plain,
}

/// A model's vocabulary, and how text is cut into it.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    algorithm: Algorithm,
    specials: Specials,
    bos: Option<Token>,
    eos: Option<Token>,
    ends: BTreeSet<Token>,
    infill: Option<Infill>,
    add_bos: bool,
    add_eos: bool,
}

#[derive(Debug)]
enum Algorithm {
    Spm(Spm),
    Bpe(Bpe),
    WordPiece(WordPiece),
    Unigram(Unigram),
}

impl Tokenizer {
    /// The tokenizer of this file.
    ///
    /// # Errors
    /// When it has none, or one that contradicts itself, or of a kind that is not served.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer, Error> {
        let metadata = gguf.metadata();
        let mut vocabulary = Vocabulary::from_gguf(gguf)?;
        let pre: Option<&str> = metadata.find("tokenizer.ggml.pre")?;
        let (algorithm, adds_bos, default_bos, default_eos) = match metadata.get("tokenizer.ggml.model")? {
            "llama" => {
                let prefix = metadata.find("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
                (Algorithm::Spm(Spm::new(&vocabulary, gguf, prefix)?), true, Some(1), Some(2))
            }
            "gpt2" => {
                let bpe = Bpe::new(&vocabulary, gguf, pre.unwrap_or("default"))?;
                let adds_bos = bpe.adds_bos();
                (Algorithm::Bpe(bpe), adds_bos, None, None)
            }
            "gemma4" => (Algorithm::Bpe(Bpe::new(&vocabulary, gguf, "gemma4")?), true, None, None),
            "bert" => (Algorithm::WordPiece(WordPiece::new(&vocabulary, metadata)?), true, Some(101), None),
            "t5" => (Algorithm::Unigram(Unigram::new(&vocabulary, gguf)?), false, None, Some(1)),
            other => {
                let message = format!(
                    "tokenizers of the kind {other:?} are not served, only \"llama\", \"gpt2\", \"bert\" and \"t5\" are"
                );
                return Err(Error::Unsupported(message));
            }
        };
        let len = vocabulary.len();
        let id = |key: &str, default: Option<Token>| -> Result<Option<Token>, Error> {
            let id = metadata.find(key)?.or(default);
            // A number beyond the vocabulary says that there is no such token.
            Ok(id.filter(|&id| (id as usize) < len))
        };
        let bos = id("tokenizer.ggml.bos_token_id", default_bos)?;
        // BERT's texts end with what separates two of them; its key is spelled so.
        let separates = matches!(algorithm, Algorithm::WordPiece(_));
        let (eos, add_eos) = match separates {
            true => (id("tokenizer.ggml.seperator_token_id", Some(102))?, "tokenizer.ggml.add_sep_token"),
            false => (id("tokenizer.ggml.eos_token_id", default_eos)?, "tokenizer.ggml.add_eos_token"),
        };
        let ends = end::tokens(&mut vocabulary, metadata, eos)?;
        let infill = Infill::of(&vocabulary, metadata)?;
        vocabulary.set_pieces(|vocabulary, token| match &algorithm {
            Algorithm::Spm(_) | Algorithm::WordPiece(_) | Algorithm::Unigram(_) => spm::piece(vocabulary, token),
            Algorithm::Bpe(bpe) => bpe.piece(vocabulary, token),
        });
        Ok(Tokenizer {
            specials: Specials::new(&vocabulary),
            vocabulary,
            bos,
            eos,
            ends,
            infill,
            add_bos: metadata.find("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos),
            add_eos: metadata.find(add_eos)?.unwrap_or(separates || matches!(algorithm, Algorithm::Unigram(_))),
            algorithm,
        })
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.vocabulary.len()
    }

    /// Whether there are none, which no file's tokenizer has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The token that texts begin with.
    pub fn bos(&self) -> Option<Token> {
        self.bos
    }

    /// The token that [`Self::encode`] lets texts begin with; none where the model was not trained so.
    pub fn begins_with(&self) -> Option<Token> {
        self.bos.filter(|_| self.add_bos)
    }

    /// The token that texts end with.
    pub fn eos(&self) -> Option<Token> {
        self.eos
    }

    /// Whether the model ends its answer with this token.
    pub fn is_end(&self, token: Token) -> bool {
        self.ends.contains(&token)
    }

    /// All tokens that end an answer.
    pub fn ends(&self) -> impl Iterator<Item = Token> {
        self.ends.iter().copied()
    }

    /// The tokens of `text`. With `add_bos` they begin, and end, with what the model expects there; a beginning that
    /// stands in the text already, as templates write it, is not doubled.
    pub fn encode(&self, text: &str, special: Special, add_bos: bool) -> Vec<Token> {
        let mut tokens = Vec::with_capacity(text.len() / 3 + 2);
        // Where SentencePiece puts a space before the text: at the beginning, and after a special token.
        let mut fresh = true;
        for fragment in self.specials.split(text, special) {
            match fragment {
                Fragment::Token(token) => tokens.push(token),
                Fragment::Text(text) => match &self.algorithm {
                    Algorithm::Spm(spm) => spm.encode(&self.vocabulary, text, fresh, &mut tokens),
                    Algorithm::Bpe(bpe) => bpe.encode(&self.vocabulary, text, &mut tokens),
                    Algorithm::WordPiece(pieces) => pieces.encode(&self.vocabulary, text, &mut tokens),
                    Algorithm::Unigram(unigram) => unigram.encode(&self.vocabulary, text, &mut tokens),
                },
            }
            fresh = matches!(fragment, Fragment::Token(_));
        }
        // Encoders have no templates that would write either, and double what a text has.
        let doubles = matches!(self.algorithm, Algorithm::WordPiece(_) | Algorithm::Unigram(_));
        let bos = self.begins_with();
        if add_bos && bos.is_some() && (doubles || tokens.first() != bos.as_ref()) {
            tokens.splice(0..0, bos);
        }
        if add_bos && self.add_eos && self.eos.is_some() && (doubles || tokens.last() != self.eos.as_ref()) {
            tokens.extend(self.eos);
        }
        tokens
    }

    /// Cuts the tokens of a text that [`Self::encode`] gave a beginning and an end to `len`; the end is kept. Returns
    /// whether there was anything to cut.
    pub fn shorten(&self, tokens: &mut Vec<Token>, len: usize) -> bool {
        let Some(end) = tokens.len().checked_sub(1).filter(|_| tokens.len() > len) else { return false };
        if self.add_eos && tokens.get(end) == self.eos.as_ref() && len > 0 {
            tokens.swap(len - 1, end);
        }
        tokens.truncate(len);
        true
    }

    /// The bytes that a reader sees of this token: nothing for control tokens and for numbers beyond the vocabulary.
    /// One character may take several tokens: see [`Utf8Stream`].
    pub fn piece(&self, token: Token) -> &[u8] {
        match self.vocabulary.role(token) {
            Role::Control | Role::Unknown => b"",
            _ => self.name(token),
        }
    }

    /// The bytes of this token, of control tokens their names; nothing beyond the vocabulary.
    pub fn name(&self, token: Token) -> &[u8] {
        self.vocabulary.piece(token)
    }

    /// The token whose name is `text`.
    pub fn token(&self, text: &str) -> Option<Token> {
        self.vocabulary.find(text.as_bytes())
    }

    /// The text of `tokens`, as [`Self::encode`] got it.
    pub fn decode(&self, tokens: &[Token]) -> String {
        let mut stream = Utf8Stream::default();
        let mut text = String::new();
        tokens.iter().for_each(|&token| stream.push(self.piece(token), &mut text));
        text.push_str(&stream.finish());
        match &self.algorithm {
            // The space that `encode` put before the text.
            Algorithm::Spm(spm) if spm.adds_space() && text.starts_with(' ') => text.split_off(1),
            Algorithm::Unigram(unigram) if unigram.adds_space() && text.starts_with(' ') => text.split_off(1),
            Algorithm::WordPiece(_) if text.starts_with(' ') => text.split_off(1),
            _ => text,
        }
    }
}

//! The predictions of a model in a file, as llama-perplexity's `--kl-divergence-base` has them, little-endian:
//!
//! ```text
//! "_logits_"  context: u32  vocabulary: u32  chunks: u32  tokens: [chunks][context] u32
//! then for each prediction that counts: step: f32  least: f32  [vocabulary, made even] u16
//! ```
//!
//! A token's log-probability is `least + step * u16`; nothing is less probable than `exp(-16)` of the best.

use super::text::{Text, counted};
use crate::engine::Error;
use crate::engine::tokenizer::Tokenizer;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"_logits_";
/// How far below the best logit the least that is told apart lies.
const RANGE: f32 = 16.0;

fn failed(path: &Path, doing: &str, error: impl std::fmt::Display) -> Error {
    Error::Request(format!("cannot {doing} {}: {error}", path.display()))
}

/// Words of 16 bits in the row of a prediction.
fn row_words(vocabulary: usize) -> usize {
    4 + vocabulary.next_multiple_of(2)
}

/// Writes predictions.
pub struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    row: Vec<u8>,
}

impl Writer {
    /// A new file for the predictions of `text` by a model of `vocabulary` tokens.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path, text: &Text, vocabulary: usize) -> Result<Writer, Error> {
        let words = [text.context(), vocabulary, text.len()];
        let mut head = MAGIC.to_vec();
        head.extend(words.iter().flat_map(|&word| (word as u32).to_le_bytes()));
        head.extend(text.tokens().iter().flat_map(|token| token.to_le_bytes()));
        let create = || {
            let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
            file.write_all(&head)?;
            Ok(file)
        };
        let file = create().map_err(|error: std::io::Error| failed(path, "write", error))?;
        Ok(Writer { path: path.into(), file, row: Vec::with_capacity(2 * row_words(vocabulary)) })
    }

    /// Adds a prediction.
    pub(super) fn push(&mut self, logits: &[f32]) -> Result<(), Error> {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let least = logits.iter().copied().fold(f32::INFINITY, f32::min).max(most - RANGE);
        let sum: f64 = logits.iter().map(|logit| f64::from((logit - most).exp())).sum();
        let step = (most - least) / f32::from(u16::MAX);
        self.row.clear();
        self.row.extend(step.to_le_bytes());
        self.row.extend((least - most - sum.ln() as f32).to_le_bytes());
        let word = |logit: f32| if step > 0.0 { ((logit - least) / step).round_ties_even().max(0.0) as u16 } else { 0 };
        self.row.extend(logits.iter().flat_map(|&logit| word(logit).to_le_bytes()));
        self.row.resize(2 * row_words(logits.len()), 0);
        self.file.write_all(&self.row).map_err(|error| failed(&self.path, "write", error))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Result<(), Error> {
        self.file.flush().map_err(|error| failed(&self.path, "write", error))
    }
}

/// Reads predictions.
pub struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    context: usize,
    vocabulary: usize,
    tokens: Vec<u32>,
    row: Vec<u8>,
}

impl Reader {
    /// The predictions in a file.
    ///
    /// # Errors
    /// When it cannot be read, or its length is not what its head says.
    pub fn open(path: &Path) -> Result<Reader, Error> {
        let unreadable = |error| failed(path, "read", error);
        let file = File::open(path).map_err(unreadable)?;
        let len = file.metadata().map_err(unreadable)?.len();
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut head = [0; 20];
        file.read_exact(&mut head).map_err(unreadable)?;
        let wrong = |problem: String| Error::Request(format!("{}: {problem}", path.display()));
        if &head[..8] != MAGIC {
            return Err(wrong("this is no file of predictions".into()));
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (context, vocabulary, chunks) = (word(8), word(12), word(16));
        if context < 4 {
            return Err(wrong(format!("a context of {context} tokens, at least 4 are needed")));
        }
        let (tokens, rows) =
            (u128::from(chunks) * u128::from(context), u128::from(chunks) * counted(context as usize).len() as u128);
        let expected = 20 + 4 * tokens + rows * 2 * row_words(vocabulary as usize) as u128;
        if expected != u128::from(len) {
            let problem = format!(
                "{chunks} chunks of {context} tokens with a vocabulary of {vocabulary} take {expected} bytes, not {len}"
            );
            return Err(wrong(problem));
        }
        // The file's length was compared, so that this is no more than the file has.
        let mut bytes = vec![0; 4 * tokens as usize];
        file.read_exact(&mut bytes).map_err(unreadable)?;
        let tokens: Vec<u32> =
            bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect();
        if let Some(token) = tokens.iter().find(|token| **token >= vocabulary) {
            return Err(wrong(format!("token {token} is beyond the vocabulary of {vocabulary}")));
        }
        let (context, vocabulary) = (context as usize, vocabulary as usize);
        Ok(Reader { path: path.into(), file, context, vocabulary, tokens, row: vec![0; 2 * row_words(vocabulary)] })
    }

    /// The text that was predicted.
    pub fn text(&self, tokenizer: &Tokenizer) -> Text {
        Text::from_tokens(self.tokens.clone(), tokenizer, self.context)
    }

    /// Tokens that its model knew.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The log-probabilities of the next prediction.
    pub(super) fn next(&mut self, out: &mut Vec<f32>) -> Result<(), Error> {
        self.file.read_exact(&mut self.row).map_err(|error| failed(&self.path, "read", error))?;
        let float =
            |at: usize| f32::from_le_bytes([self.row[at], self.row[at + 1], self.row[at + 2], self.row[at + 3]]);
        let (step, least) = (float(0), float(4));
        if !step.is_finite() || !least.is_finite() {
            return Err(Error::Request(format!("{}: a prediction is no number", self.path.display())));
        }
        let words = self.row[8..].chunks_exact(2).map(|word| f32::from(u16::from_le_bytes([word[0], word[1]])));
        out.clear();
        out.extend(words.take(self.vocabulary).map(|word| step * word + least));
        Ok(())
    }
}

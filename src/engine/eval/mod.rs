//! How well a model predicts a text: perplexity, and the divergence of its predictions from those of another model, such
//! as the same one before its weights were quantised. Counted as llama-perplexity counts them, in the files that it
//! writes, so that figures can be compared.
//!
//! The text is cut into chunks of a context. Each begins with the token that begins texts, where the model knows one, in
//! place of its first; only the predictions in its second half count, which all have some context.

mod divergence;
mod logits;
mod text;

#[cfg(test)]
mod tests;

pub use divergence::{Comparison, divergence};
pub use logits::{Reader, Writer};
pub use text::Text;

use super::Error;
use super::model::{Batch, Model};

/// Tokens that go through the model at once: the logits of so many are held, and no more.
const STRIDE: usize = 32;

/// A mean of many figures, with the standard error of that mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

/// Sums by which a mean is known.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    count: usize,
    values: f64,
    squares: f64,
}

impl Sum {
    fn add(&mut self, value: f64) {
        self.count += 1;
        self.values += value;
        self.squares += value * value;
    }

    fn mean(&self) -> Mean {
        let count = self.count as f64;
        let value = self.values / count;
        let variance = (self.squares / count - value * value).max(0.0);
        Mean { value, error: (variance / (count - 1.0).max(1.0)).sqrt() }
    }
}

/// How much a text surprises a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// Predictions that counted.
    pub tokens: usize,
    /// Of the negated natural logarithms of the probabilities that the tokens had.
    pub nll: Mean,
}

impl Perplexity {
    /// The perplexity: among how many tokens, equally probable, the model is undecided.
    pub fn value(&self) -> f64 {
        self.nll.value.exp()
    }

    /// Its standard error.
    pub fn error(&self) -> f64 {
        self.nll.error * self.value()
    }
}

/// The perplexity of `text`. Calls `done` after each chunk with how many are done and the figure so far, and writes all
/// predictions to `record` if there is one.
///
/// # Errors
/// When the model cannot take the text, or `record` cannot be written.
pub fn perplexity(
    model: &Model,
    text: &Text,
    mut record: Option<&mut Writer>,
    mut done: impl FnMut(usize, Perplexity),
) -> Result<Perplexity, Error> {
    let mut sum = Sum::default();
    let so_far = |sum: &Sum| Perplexity { tokens: sum.count, nll: sum.mean() };
    let mut forward = Forward::new(model, text)?;
    for (at, chunk) in text.chunks().enumerate() {
        forward.predictions(chunk, |logits, next| {
            sum.add(-log_softmax(logits).of(next));
            record.as_mut().map_or(Ok(()), |record| record.push(logits))
        })?;
        done(at + 1, so_far(&sum));
    }
    Ok(so_far(&sum))
}

/// A model and the cache through which chunk after chunk goes.
struct Forward<'a> {
    model: &'a Model,
    text: &'a Text,
    cache: super::kv_cache::KvCache,
}

impl<'a> Forward<'a> {
    fn new(model: &'a Model, text: &'a Text) -> Result<Self, Error> {
        // One slot is used; for each there is room for a row of logits, and the head reads its weights once for all rows.
        Ok(Forward { model, text, cache: model.cache(8, text.context())? })
    }

    /// Calls `each` with the logits of every prediction that counts, and the token that comes next.
    fn predictions(
        &mut self,
        chunk: &[u32],
        mut each: impl FnMut(&[f32], u32) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let counts = self.text.counted();
        self.cache.truncate(0, 0);
        for from in (0..chunk.len()).step_by(STRIDE) {
            let positions = from..chunk.len().min(from + STRIDE);
            let mut batch = Batch::new();
            for at in positions.clone() {
                let token = if at == 0 { self.text.bos().unwrap_or(chunk[0]) } else { chunk[at] };
                batch.push(token, 0, at, counts.contains(&at));
            }
            let logits = self.model.forward(&mut self.cache, &batch)?;
            for (row, at) in positions.filter(|at| counts.contains(at)).enumerate() {
                each(logits.row(row), chunk[at + 1])?;
            }
        }
        Ok(())
    }
}

/// Log-probabilities by logits.
struct LogSoftmax<'a> {
    logits: &'a [f32],
    most: f32,
    /// The logarithm of the sum of `exp(logit - most)`.
    log_sum: f64,
}

fn log_softmax(logits: &[f32]) -> LogSoftmax<'_> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - most).exp())).sum();
    LogSoftmax { logits, most, log_sum: sum.ln() }
}

impl LogSoftmax<'_> {
    fn of(&self, token: u32) -> f64 {
        f64::from(self.logits[token as usize] - self.most) - self.log_sum
    }
}

use super::{Forward, Mean, Perplexity, Reader, Sum, log_softmax};
use crate::engine::Error;
use crate::engine::model::Model;
use crate::engine::tokenizer::Tokenizer;

/// What is less probable than this counts for nothing: files of predictions do not tell it apart.
const LEAST: f32 = -16.0;

/// How a model's predictions differ from those of the reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The model's perplexity.
    pub perplexity: Perplexity,
    /// That of the reference.
    pub reference: Perplexity,
    /// The Kullback-Leibler divergence of the model from the reference, in nats.
    pub divergence: Mean,
    /// Of each prediction, sorted.
    pub divergences: Vec<f32>,
    /// How often both think the same token the most probable, from 0 to 1.
    pub same_top: f64,
    /// The root of the mean square of the differences of the probabilities of the tokens that came.
    pub rms_probability: f64,
}

impl Comparison {
    /// The divergence that so many of all predictions (from 0 to 1) do not exceed.
    pub fn quantile(&self, share: f64) -> f32 {
        let last = self.divergences.len().saturating_sub(1);
        self.divergences.get((share * last as f64).round() as usize).copied().unwrap_or_default()
    }
}

#[derive(Default)]
struct Sums {
    nll: Sum,
    reference: Sum,
    divergence: Sum,
    divergences: Vec<f32>,
    same_top: usize,
    squares: f64,
}

impl Sums {
    fn add(&mut self, logits: &[f32], reference: &[f32], next: u32) {
        let ours = log_softmax(logits);
        let mut divergence = 0.0;
        for (&logit, &logprob) in logits.iter().zip(reference) {
            if logprob > LEAST {
                let ours = f64::from(logit - ours.most) - ours.log_sum;
                divergence += f64::from(logprob.exp()) * (f64::from(logprob) - ours);
            }
        }
        let (own, theirs) = (ours.of(next), f64::from(reference[next as usize]));
        self.nll.add(-own);
        self.reference.add(-theirs);
        self.divergence.add(divergence);
        self.divergences.push(divergence as f32);
        self.same_top += usize::from(top(logits) == top(reference));
        self.squares += (own.exp() - theirs.exp()).powi(2);
    }

    fn comparison(mut self) -> Comparison {
        let tokens = self.divergences.len();
        self.divergences.sort_by(f32::total_cmp);
        Comparison {
            perplexity: Perplexity { tokens, nll: self.nll.mean() },
            reference: Perplexity { tokens, nll: self.reference.mean() },
            divergence: self.divergence.mean(),
            same_top: self.same_top as f64 / tokens as f64,
            rms_probability: (self.squares / tokens as f64).sqrt(),
            divergences: self.divergences,
        }
    }
}

/// The most probable token; of several the first.
fn top(row: &[f32]) -> usize {
    (0..row.len()).reduce(|best, at| if row[at] > row[best] { at } else { best }).unwrap_or(0)
}

/// Compares a model's predictions with those in a file. Calls `done` after each chunk with how many are done and the mean
/// divergence so far.
///
/// # Errors
/// When the file is of a model with another vocabulary or is cut off, or the model cannot take its text.
pub fn divergence(
    model: &Model,
    tokenizer: &Tokenizer,
    reference: &mut Reader,
    mut done: impl FnMut(usize, Mean),
) -> Result<Comparison, Error> {
    let vocabulary = model.hyper().vocabulary;
    if reference.vocabulary() != vocabulary {
        let problem = format!(
            "the predictions are of a model with {} tokens, this one has {vocabulary}; both must be of one family",
            reference.vocabulary()
        );
        return Err(Error::Request(problem));
    }
    let text = reference.text(tokenizer);
    if text.is_empty() {
        return Err(Error::Request("the file of predictions has none".into()));
    }
    let mut forward = Forward::new(model, &text)?;
    let mut sums = Sums::default();
    let mut row = Vec::new();
    for (at, chunk) in text.chunks().enumerate() {
        forward.predictions(chunk, |logits, next| {
            reference.next(&mut row)?;
            sums.add(logits, &row, next);
            Ok(())
        })?;
        done(at + 1, sums.divergence.mean());
    }
    Ok(sums.comparison())
}

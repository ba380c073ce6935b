//! A smaller model that guesses what a larger one will say. It is given the same tokens and follows their conversations in
//! a cache of its own; what it takes for likeliest is a guess. How a guess is judged is told in [`super::speculation`]: what
//! is answered does not depend on it.

use super::Error;
use super::blocks::Chain;
use super::kv_cache::{Capacity, KvCache};
use super::model::{Batch, Model};
use super::tokenizer::Tokenizer;

/// Tokens of a conversation that are read beside a pass at most.
const CHUNK: usize = 256;
/// Rows that models of one vocabulary may have more or less, to be a multiple of something.
const PADDING: usize = 1024;

/// Guesses that are wanted for a slot.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Whose conversation.
    pub slot: usize,
    /// All of it that is said or read by now.
    pub tokens: &'a [u32],
    /// Guesses at most. With none it is only read, so that there can be some later.
    pub most: usize,
    /// What a guess costs, in parts of the gain if it is right: none is made that is less likely.
    pub cost: f64,
    /// What is guessed.
    pub guesses: Vec<u32>,
}

/// A model that guesses.
pub struct Drafter {
    model: Model,
    cache: KvCache,
    /// By slot, the tokens that the cache holds.
    held: Vec<Vec<u32>>,
}

impl Drafter {
    /// See [`Model::sleep`].
    ///
    /// # Errors
    /// As there.
    pub fn sleep(&mut self) -> Result<u64, Error> {
        self.model.sleep(&mut self.cache)
    }

    /// See [`Model::wake`].
    ///
    /// # Errors
    /// As there.
    pub fn wake(&self) -> Result<(), Error> {
        self.model.wake()
    }

    /// For a model whose cache is as large.
    ///
    /// # Errors
    /// The memory is not to be had, or the model does not answer.
    pub fn new(model: Model, capacity: Capacity) -> Result<Drafter, Error> {
        let context = capacity.context.min(model.hyper().context);
        let cache = model.cache_of(Capacity { context, ..capacity })?;
        Ok(Drafter { held: vec![Vec::new(); cache.slots()], cache, model })
    }

    /// A conversation begins with these tokens. What others began with is known already.
    pub fn begin(&mut self, slot: usize, tokens: &[u32]) {
        let tokens = &tokens[..tokens.len().min(self.cache.context().saturating_sub(1))];
        // Where there is no room now there may be some when it is read.
        let found = self.cache.blocks().begin(slot, Chain::root(&[]), tokens).unwrap_or(0);
        self.held[slot] = tokens[..found].to_vec();
    }

    /// Guesses for these conversations, all in the same passes. Those that it must read more of first get none.
    ///
    /// # Errors
    /// A pass fails.
    pub fn guess(&mut self, wanted: &mut [Wanted<'_>]) -> Result<(), Error> {
        let mut batch = Batch::new();
        // Who gets a guess by the next pass, and how likely all before it are.
        let mut asking: Vec<(usize, f64)> = Vec::new();
        for (index, wanted) in wanted.iter_mut().enumerate() {
            wanted.guesses.clear();
            if self.read(wanted, &mut batch) {
                asking.push((index, 1.0));
            }
        }
        while !batch.is_empty() {
            let logits = self.model.forward(&mut self.cache, &batch)?;
            batch.entries().iter().for_each(|entry| self.held[entry.slot].push(entry.token));
            batch.clear();
            for (row, (index, likely)) in std::mem::take(&mut asking).into_iter().enumerate() {
                let Wanted { slot, most, cost, guesses, .. } = &mut wanted[index];
                let (token, probability) = likeliest(logits.row(row));
                let likely = likely * probability;
                if likely < *cost {
                    continue;
                }
                guesses.push(token);
                let at = self.held[*slot].len();
                if guesses.len() < *most && self.has_room(*slot, at + 1) {
                    batch.push(token, *slot, at, true);
                    asking.push((index, likely));
                }
            }
        }
        Ok(())
    }

    /// Adds to `batch` what a conversation goes on with; says whether a guess may follow.
    fn read(&mut self, wanted: &Wanted<'_>, batch: &mut Batch) -> bool {
        let &Wanted { slot, tokens, most, .. } = wanted;
        let held = &mut self.held[slot];
        // The last one runs again for what follows it.
        let usable = tokens.len() - usize::from(most > 0).min(tokens.len());
        let same = held.iter().zip(&tokens[..usable]).take_while(|(held, token)| held == token).count();
        held.truncate(same);
        self.cache.truncate(slot, same);
        let next = &tokens[same..tokens.len().min(same + CHUNK)];
        let vocabulary = self.model.hyper().vocabulary;
        if next.iter().any(|&token| token as usize >= vocabulary) || !self.has_room(slot, same + next.len()) {
            return false;
        }
        let guesses = most > 0 && same + next.len() == tokens.len();
        for (at, &token) in (same..).zip(next) {
            batch.push(token, slot, at, guesses && at + 1 == tokens.len());
        }
        guesses
    }

    fn has_room(&mut self, slot: usize, len: usize) -> bool {
        len <= self.cache.context() && self.cache.blocks().reserve(slot, len).is_ok()
    }
}

/// That a model which guesses has the vocabulary of the one that it guesses for.
///
/// # Errors
/// It has another: the first token that differs is named.
pub fn check_vocabulary(drafts: &Tokenizer, answers: &Tokenizer) -> Result<(), Error> {
    let (one, other) = (drafts.len(), answers.len());
    if one.abs_diff(other) > PADDING {
        let problem = format!("the draft model has another vocabulary: {one} tokens, where the model has {other}");
        return Err(Error::Unsupported(problem));
    }
    let token = (0..one.min(other) as u32).find(|&token| drafts.name(token) != answers.name(token));
    token.map_or(Ok(()), |token| {
        let [there, here] = [drafts, answers].map(|tokens| String::from_utf8_lossy(tokens.name(token)).into_owned());
        let problem =
            format!("the draft model has another vocabulary: token {token} is {there:?} there and {here:?} here");
        Err(Error::Unsupported(problem))
    })
}

/// The likeliest token and its probability.
fn likeliest(logits: &[f32]) -> (u32, f64) {
    let better = |best: (f32, u32), (token, &logit): (u32, &f32)| if logit > best.0 { (logit, token) } else { best };
    let (most, token) = (0..).zip(logits).fold((f32::NEG_INFINITY, 0), better);
    let sum: f32 = logits.iter().map(|logit| (logit - most).exp()).sum();
    (token, 1.0 / f64::from(sum))
}

#[cfg(test)]
mod tests;

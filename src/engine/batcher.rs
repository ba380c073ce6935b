//! Which tokens run next. All sequences that are being answered share each forward pass: those that generate take one
//! token each, and what is left of the pass goes in equal shares to those whose prompt is still being read, so that a
//! long prompt stops nobody's stream.
//!
//! The batcher knows neither threads nor clocks: its owner calls [`Batcher::step`] and brings the forward pass.

use super::model::{Batch, Entry, Logits};
use super::sequence::{Sequence, Sink, Vocabulary};
use std::collections::VecDeque;
use std::fmt::Display;

/// Sequences that wait, and slots of the cache in which they run.
#[derive(Debug)]
pub struct Batcher<S> {
    waiting: VecDeque<Sequence<S>>,
    slots: Vec<Slot<S>>,
    /// Counts starts, to know which slot was used last.
    starts: u64,
}

/// One conversation's place in the cache.
#[derive(Debug)]
struct Slot<S> {
    /// The tokens whose keys and values are in the cache; they stay when their sequence ends.
    cached: Vec<u32>,
    running: Option<Sequence<S>>,
    used: u64,
}

/// How much is going on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequences that wait for a slot.
    pub waiting: usize,
    /// Sequences that run.
    pub running: usize,
    /// Tokens in the cache that running sequences use.
    pub cached: usize,
}

/// What one step did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Tokens that passed through the model.
    pub computed: usize,
    /// Of these, tokens of prompts.
    pub prompt: usize,
    /// Tokens that were generated.
    pub generated: usize,
}

impl<S: Sink> Batcher<S> {
    /// Nothing to do yet, over a cache of this many slots.
    pub fn new(slots: usize) -> Self {
        let slot = || Slot { cached: Vec::new(), running: None, used: 0 };
        Self { waiting: VecDeque::new(), slots: std::iter::repeat_with(slot).take(slots).collect(), starts: 0 }
    }

    /// Queues a sequence.
    pub fn submit(&mut self, mut sequence: Sequence<S>) {
        if !sequence.finish_if_full() {
            self.waiting.push_back(sequence);
        }
    }

    /// How much is going on.
    pub fn load(&self) -> Load {
        let running = self.slots.iter().filter(|slot| slot.running.is_some());
        Load {
            waiting: self.waiting.len(),
            running: running.clone().count(),
            cached: running.map(|slot| slot.cached.len()).sum(),
        }
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.slots.iter().all(|slot| slot.running.is_none())
    }

    /// Lets go of what nobody waits for, starts what waits, and runs one forward pass of about `budget` tokens.
    ///
    /// Where a slot's first entry in the batch lies before the end of what the slot holds, `forward` must forget what it
    /// holds from there on. If it fails, it must hold what it held before, and every sequence that runs fails.
    pub fn step<E: Display>(
        &mut self,
        budget: usize,
        vocabulary: &impl Vocabulary,
        forward: impl FnOnce(&Batch) -> Result<Logits, E>,
    ) -> Step {
        self.let_go();
        self.start_waiting();
        let batch = self.plan(budget);
        if batch.is_empty() {
            return Step::default();
        }
        let of_prompt = |entry: &&Entry| {
            self.slots[entry.slot].running.as_ref().is_some_and(|sequence| entry.position < sequence.prompt_tokens())
        };
        let prompt = batch.entries().iter().filter(of_prompt).count();
        let mut step = Step { computed: batch.len(), prompt, generated: 0 };
        match forward(&batch) {
            Ok(logits) => step.generated = self.advance(&batch, &logits, vocabulary),
            Err(error) => self.fail(&error.to_string()),
        }
        step
    }

    fn let_go(&mut self) {
        self.waiting.retain(|sequence| !sequence.is_cancelled());
        for slot in &mut self.slots {
            slot.running.take_if(|sequence| sequence.is_cancelled());
        }
    }

    fn start_waiting(&mut self) {
        while let Some(sequence) = self.waiting.front() {
            let Some(at) = self.best_slot(sequence.tokens()) else { return };
            let Some(mut sequence) = self.waiting.pop_front() else { return };
            let slot = &mut self.slots[at];
            // The last token runs again, as its logits choose the next.
            let reused = common(&slot.cached, sequence.tokens()).min(sequence.tokens().len().saturating_sub(1));
            slot.cached.truncate(reused);
            sequence.found_in_cache(reused);
            slot.running = Some(sequence);
            self.starts += 1;
            slot.used = self.starts;
        }
    }

    /// The free slot whose tokens begin as `prompt` does, for at least half of either: the conversation goes on there.
    /// Else the one that was not used for longest.
    fn best_slot(&self, prompt: &[u32]) -> Option<usize> {
        let free = || self.slots.iter().enumerate().filter(|(_, slot)| slot.running.is_none());
        let goes_on = free()
            .map(|(at, slot)| (common(&slot.cached, prompt), slot.cached.len(), at))
            .filter(|(common, cached, _)| *common > 0 && (common * 2 >= *cached || common * 2 >= prompt.len()))
            .max();
        goes_on.map(|(.., at)| at).or_else(|| free().min_by_key(|(_, slot)| slot.used).map(|(at, _)| at))
    }

    fn plan(&self, budget: usize) -> Batch {
        let running = || {
            self.slots.iter().enumerate().filter_map(|(at, slot)| Some((at, slot.cached.len(), slot.running.as_ref()?)))
        };
        let pending: Vec<usize> = running().map(|(_, cached, sequence)| sequence.tokens().len() - cached).collect();
        let mut batch = Batch::default();
        for ((slot, cached, sequence), share) in running().zip(shares(&pending, budget)) {
            let tokens = sequence.tokens();
            for position in cached..cached + share {
                let wants_logits = position + 1 == tokens.len();
                batch.push(tokens[position], slot, position, wants_logits);
            }
        }
        batch
    }

    fn advance(&mut self, batch: &Batch, logits: &Logits, vocabulary: &impl Vocabulary) -> usize {
        for entry in batch.entries() {
            self.slots[entry.slot].cached.push(entry.token);
        }
        let mut row = 0;
        for entry in batch.entries().iter().filter(|entry| entry.wants_logits) {
            let logits = logits.row(row);
            self.slots[entry.slot].running.take_if(|sequence| sequence.advance(logits, vocabulary));
            row += 1;
        }
        row
    }

    fn fail(&mut self, message: &str) {
        for slot in &mut self.slots {
            if let Some(sequence) = slot.running.take() {
                sequence.fail(message);
            }
        }
    }
}

/// How many tokens both begin with.
fn common(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// Deals `budget` tokens to sequences that have this many to run: one to each in any case, so that all streams flow,
/// and the rest evenly.
fn shares(pending: &[usize], budget: usize) -> Vec<usize> {
    let mut shares: Vec<usize> = pending.iter().map(|pending| (*pending).min(1)).collect();
    let mut left = budget.saturating_sub(shares.iter().sum());
    loop {
        let hungry = shares.iter().zip(pending).filter(|(share, pending)| share < pending).count();
        if hungry == 0 || left == 0 {
            return shares;
        }
        // What does not divide goes to the first.
        let each = (left / hungry).max(1);
        for (share, pending) in shares.iter_mut().zip(pending) {
            let more = each.min(pending - *share).min(left);
            *share += more;
            left -= more;
        }
    }
}

#[cfg(test)]
mod tests;

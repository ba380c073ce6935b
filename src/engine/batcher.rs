//! Which tokens run next. All sequences that are being answered share each forward pass: those that generate take one
//! token each, and what is left of the pass goes in equal shares to those whose prompt is still being read, so that a
//! long prompt stops nobody's stream.
//!
//! The batcher knows neither threads nor clocks: its owner calls [`Batcher::step`] and brings the model. Where the cache has
//! no room for all, who came last makes it, and goes on later.

use super::blocks::{BLOCK, Blocks, Chain};
use super::model::{Batch, Logits};
use super::sequence::{Sequence, Sink, Vocabulary};
use std::collections::VecDeque;
use std::fmt::Display;

/// What the batcher's passes run on: a model with its cache.
pub trait Runner {
    /// Why a pass failed.
    type Error: Display;

    /// Where in the cache conversations lie.
    fn blocks(&mut self) -> &mut Blocks;

    /// Takes a batch through the model; its tokens are in the cache then.
    ///
    /// # Errors
    /// The cache holds what it held before.
    fn forward(&mut self, batch: &Batch) -> Result<Logits, Self::Error>;
}

/// Sequences that wait, and those that run in slots of the cache.
#[derive(Debug)]
pub struct Batcher<S> {
    waiting: VecDeque<Sequence<S>>,
    /// By slot.
    running: Vec<Option<Running<S>>>,
    /// Counts starts, to know who came first.
    starts: u64,
}

#[derive(Debug)]
struct Running<S> {
    sequence: Sequence<S>,
    started: u64,
}

/// How much is going on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequences that wait for a slot, or for room in the cache.
    pub waiting: usize,
    /// Sequences that run.
    pub running: usize,
    /// Tokens in the cache that running sequences use; those that several share count for each.
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
    /// Sequences that had to make room for older ones, and wait again.
    pub preempted: usize,
}

impl<S: Sink> Batcher<S> {
    /// Nothing to do yet, over a cache of this many slots.
    pub fn new(slots: usize) -> Self {
        Self { waiting: VecDeque::new(), running: std::iter::repeat_with(|| None).take(slots).collect(), starts: 0 }
    }

    /// Queues a sequence.
    pub fn submit(&mut self, mut sequence: Sequence<S>) {
        if !sequence.finish_if_full() {
            self.waiting.push_back(sequence);
        }
    }

    /// How much is going on.
    pub fn load(&self, blocks: &Blocks) -> Load {
        let running = (0..self.running.len()).filter(|&slot| self.running[slot].is_some());
        Load {
            waiting: self.waiting.len(),
            running: running.clone().count(),
            cached: running.map(|slot| blocks.len(slot)).sum(),
        }
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.iter().all(Option::is_none)
    }

    /// Lets go of what nobody waits for, starts what waits, and runs one forward pass of about `budget` tokens. If it
    /// fails, every sequence that runs fails.
    pub fn step(&mut self, budget: usize, vocabulary: &impl Vocabulary, runner: &mut impl Runner) -> Step {
        self.let_go(runner.blocks());
        self.start_waiting(runner.blocks());
        let (batch, preempted) = self.plan(budget, runner.blocks());
        let mut step = Step { computed: batch.len(), preempted, ..Step::default() };
        if batch.is_empty() {
            return step;
        }
        let of_prompt = |slot: usize, position: usize| {
            self.running[slot].as_ref().is_some_and(|running| position < running.sequence.prompt_tokens())
        };
        step.prompt = batch.entries().iter().filter(|entry| of_prompt(entry.slot, entry.position)).count();
        match runner.forward(&batch) {
            Ok(logits) => step.generated = self.advance(&batch, &logits, vocabulary),
            Err(error) => self.fail(&error.to_string()),
        }
        self.release_ended(runner.blocks());
        step
    }

    fn let_go(&mut self, blocks: &mut Blocks) {
        self.waiting.retain(|sequence| !sequence.is_cancelled());
        for running in &mut self.running {
            running.take_if(|running| running.sequence.is_cancelled());
        }
        self.release_ended(blocks);
    }

    /// The conversations of slots where nothing runs are over; what they held can be found for as long as it lies there.
    fn release_ended(&self, blocks: &mut Blocks) {
        (0..self.running.len()).filter(|&slot| self.running[slot].is_none()).for_each(|slot| blocks.release(slot));
    }

    /// Starts sequences in the order of their coming: nobody is overtaken because he needs more room.
    fn start_waiting(&mut self, blocks: &mut Blocks) {
        while let Some(sequence) = self.waiting.front() {
            let Some(slot) = self.running.iter().position(Option::is_none) else { return };
            let Ok(reused) = blocks.begin(slot, Chain::root(&[]), sequence.tokens()) else { return };
            let Some(sequence) = self.waiting.pop_front() else { return };
            self.starts += 1;
            self.running[slot] = Some(Running { sequence, started: self.starts });
            self.found(slot, reused);
        }
    }

    /// The next pass, and how many had to make room for it.
    fn plan(&mut self, budget: usize, blocks: &mut Blocks) -> (Batch, usize) {
        let slots = self.by_age();
        let mut pending = Vec::new();
        for (at, &slot) in slots.iter().enumerate() {
            let mut found = blocks.adopt(slot, self.tokens(slot));
            let waits = self.waits(slot, &slots[..at], blocks);
            if !waits {
                found += blocks.adopt_part(slot, self.tokens(slot));
            }
            self.found(slot, found);
            pending.push(if waits { 0 } else { self.tokens(slot).len() - blocks.len(slot) });
        }
        let mut batch = Batch::default();
        let mut preempted = 0;
        for (&slot, share) in slots.iter().zip(shares(&pending, budget)) {
            let cached = blocks.len(slot);
            // Older ones have their room already, so that in the end there is somebody who makes it.
            while self.running[slot].is_some() && blocks.reserve(slot, cached + share).is_err() {
                self.preempt(blocks);
                preempted += 1;
            }
            let tokens = self.tokens(slot);
            for position in (cached..tokens.len()).take(share) {
                batch.push(tokens[position], slot, position, position + 1 == tokens.len());
            }
        }
        (batch, preempted)
    }

    /// Slots where something runs, who came first first.
    fn by_age(&self) -> Vec<usize> {
        let started = |slot: usize| self.running[slot].as_ref().map(|running| running.started);
        let mut slots: Vec<usize> = (0..self.running.len()).filter(|&slot| started(slot).is_some()).collect();
        slots.sort_by_key(|&slot| started(slot));
        slots
    }

    fn tokens(&self, slot: usize) -> &[u32] {
        self.running[slot].as_ref().map_or(&[], |running| running.sequence.tokens())
    }

    fn found(&mut self, slot: usize, tokens: usize) {
        if let Some(running) = &mut self.running[slot] {
            running.sequence.found_in_cache(tokens);
        }
    }

    /// Whether one of the `older` is about to compute the very block that a slot needs next, which it can share then.
    fn waits(&self, slot: usize, older: &[usize], blocks: &Blocks) -> bool {
        let (tokens, from) = (self.tokens(slot), blocks.len(slot));
        let to = from + BLOCK;
        let computes = |&other: &usize| {
            let theirs = self.tokens(other);
            (from..to).contains(&blocks.len(other)) && theirs.len() >= to && theirs[..to] == tokens[..to]
        };
        from.is_multiple_of(BLOCK) && to < tokens.len() && older.iter().any(computes)
    }

    /// Sends who came last back to the queue. What it had computed stays for as long as nobody needs the room.
    fn preempt(&mut self, blocks: &mut Blocks) {
        let last = self.by_age().pop();
        if let Some((slot, mut running)) = last.and_then(|slot| Some((slot, self.running[slot].take()?))) {
            blocks.release(slot);
            running.sequence.begins_again();
            self.waiting.push_front(running.sequence);
        }
    }

    fn advance(&mut self, batch: &Batch, logits: &Logits, vocabulary: &impl Vocabulary) -> usize {
        let mut row = 0;
        for entry in batch.entries().iter().filter(|entry| entry.wants_logits) {
            let logits = logits.row(row);
            self.running[entry.slot].take_if(|running| running.sequence.advance(logits, vocabulary));
            row += 1;
        }
        row
    }

    fn fail(&mut self, message: &str) {
        for running in &mut self.running {
            if let Some(running) = running.take() {
                running.sequence.fail(message);
            }
        }
    }
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

//! Which tokens run next. All sequences that are being answered share each forward pass: those that generate take one
//! token each, with guesses at what follows it where those pay, and what is left of the pass goes in equal shares to those
//! whose prompt is still being read, so that a long prompt stops nobody's stream.
//!
//! The batcher knows neither threads nor clocks: its owner calls [`Batcher::step`] and brings the model. Where the cache has
//! no room for all, who came last makes it, and goes on later.

mod plan;

use super::blocks::{BLOCK, Blocks};
use super::draft::Wanted;
use super::model::{Batch, Logits};
use super::prefix_cache::Restored;
use super::sequence::{Sequence, Sink, Vocabulary};
use super::speculation::{MOST, Odds, Speculation};
use plan::Part;
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

    /// Begins to look elsewhere for what a slot's conversation of `tokens` goes on with. Says whether there is anything.
    fn seek(&mut self, _slot: usize, _tokens: &[u32]) -> bool {
        false
    }

    /// Takes what has come of it into the cache; with `patience` it waits for the next.
    fn restore(&mut self, _slot: usize, _tokens: &[u32], _patience: bool) -> Restored {
        Restored::default()
    }

    /// Whether there is a model that guesses.
    fn drafts(&self) -> bool {
        false
    }

    /// Lets it guess.
    fn draft(&mut self, _wanted: &mut [Wanted<'_>]) {}
}

/// Sequences that wait, and those that run in slots of the cache.
#[derive(Debug)]
pub struct Batcher<S> {
    waiting: VecDeque<Sequence<S>>,
    /// By slot.
    running: Vec<Option<Running<S>>>,
    /// Counts starts, to know who came first.
    starts: u64,
    /// Whether what was said before is looked through for guesses.
    looks_back: bool,
    /// The next pass, and who takes part in it; kept for their memory.
    batch: Batch,
    parts: Vec<Part>,
}

/// What a pass may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    /// Tokens. Answers go on in any case; what they leave is for prompts.
    pub tokens: usize,
    /// What a guessed token costs, in parts of what the pass would give without it. Without that nothing is guessed.
    pub guess_cost: Option<f64>,
}

#[derive(Debug)]
struct Running<S> {
    sequence: Sequence<S>,
    speculation: Speculation,
    /// How the guesses of a smaller model went.
    drafts: Odds,
    /// What is guessed in the next pass.
    guesses: Vec<u32>,
    /// Whether a smaller model guessed it.
    drafted: bool,
    started: u64,
    /// Whether more of its prompt is on its way from elsewhere.
    restoring: bool,
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
    /// Answers that went on in it.
    pub answers: usize,
    /// Tokens of answers that were guessed.
    pub guessed: usize,
    /// Of these, tokens that were right.
    pub right: usize,
    /// Sequences that had to make room for older ones, and wait again.
    pub preempted: usize,
    /// Tokens of prompts that came from elsewhere.
    pub restored: usize,
    /// Whether a smaller model computed too.
    pub drafted: bool,
    /// Sequences that were given up as nobody waited for them any more.
    pub abandoned: usize,
    /// Tokens that were computed for those who left meanwhile.
    pub unheard: usize,
}

impl<S: Sink> Batcher<S> {
    /// Nothing to do yet, over a cache of this many slots.
    pub fn new(slots: usize) -> Self {
        let running = std::iter::repeat_with(|| None).take(slots).collect();
        let (batch, parts) = (Batch::new(), Vec::new());
        Self { waiting: VecDeque::new(), running, starts: 0, looks_back: true, batch, parts }
    }

    /// The same, whose guesses come from a smaller model alone.
    pub fn without_looking_back(self) -> Self {
        Self { looks_back: false, ..self }
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

    /// Lets go of what nobody waits for, starts what waits, and runs one forward pass, which may take what `allow` says
    /// where so many answers go on. If it fails, every sequence that runs fails.
    pub fn step(
        &mut self,
        allow: impl FnOnce(usize) -> Allowance,
        vocabulary: &impl Vocabulary,
        runner: &mut impl Runner,
    ) -> Step {
        let abandoned = self.let_go(runner.blocks());
        self.start_waiting(runner);
        let mut batch = std::mem::take(&mut self.batch);
        let mut step = Step { abandoned, ..self.plan(allow, runner, &mut batch) };
        if batch.is_empty() {
            let restoring = self.parts.iter().map(|part| part.slot).find(|&slot| self.is_restoring(slot));
            step.restored += restoring.map_or(0, |slot| self.restore(slot, runner, true));
        } else {
            self.pass(&batch, vocabulary, runner, &mut step);
        }
        self.batch = batch;
        step
    }

    /// Runs the pass that was planned.
    fn pass(&mut self, batch: &Batch, vocabulary: &impl Vocabulary, runner: &mut impl Runner, step: &mut Step) {
        let of_prompt = |slot: usize, position: usize| {
            self.running[slot].as_ref().is_some_and(|running| position < running.sequence.prompt_tokens())
        };
        step.prompt = batch.entries().iter().filter(|entry| of_prompt(entry.slot, entry.position)).count();
        let passed = runner.forward(batch);
        let left = |slot: usize| self.running[slot].as_ref().is_some_and(|running| running.sequence.is_cancelled());
        step.unheard = batch.entries().iter().filter(|entry| left(entry.slot)).count();
        match passed {
            Ok(logits) => self.advance(batch, &logits, vocabulary, runner.blocks(), step),
            Err(error) => self.fail(&error.to_string()),
        }
        self.release_ended(runner.blocks());
    }

    /// Gives up what nobody waits for; how many sequences that is.
    fn let_go(&mut self, blocks: &mut Blocks) -> usize {
        let waited = self.waiting.len();
        self.waiting.retain(|sequence| !sequence.is_cancelled());
        let cancelled = |running: &mut Option<Running<S>>| running.take_if(|it| it.sequence.is_cancelled()).is_some();
        let ran = self.running.iter_mut().map(cancelled).filter(|gone| *gone).count();
        self.release_ended(blocks);
        waited - self.waiting.len() + ran
    }

    /// The conversations of slots where nothing runs are over; what they held can be found for as long as it lies there.
    fn release_ended(&self, blocks: &mut Blocks) {
        (0..self.running.len()).filter(|&slot| self.running[slot].is_none()).for_each(|slot| blocks.release(slot));
    }

    /// Starts sequences in the order of their coming: nobody is overtaken because he needs more room.
    fn start_waiting(&mut self, runner: &mut impl Runner) {
        while let Some(sequence) = self.waiting.front() {
            let Some(slot) = self.running.iter().position(Option::is_none) else { return };
            let Ok(reused) = runner.blocks().begin(slot, sequence.root(), sequence.tokens()) else { return };
            let Some(sequence) = self.waiting.pop_front() else { return };
            let restoring = runner.seek(slot, sequence.tokens());
            let longest = if self.looks_back { sequence.tokens().len() + sequence.tokens_left() } else { 0 };
            self.starts += 1;
            self.running[slot] = Some(Running {
                sequence,
                speculation: Speculation::new(longest),
                drafts: Odds::default(),
                guesses: Vec::with_capacity(MOST),
                drafted: false,
                started: self.starts,
                restoring,
            });
            self.found(slot, reused);
        }
    }

    /// Whether a slot's answer has begun.
    fn has_begun(&self, slot: usize) -> bool {
        self.running[slot].as_ref().is_some_and(|running| running.sequence.has_begun())
    }

    fn is_restoring(&self, slot: usize) -> bool {
        self.running[slot].as_ref().is_some_and(|running| running.restoring)
    }

    /// Takes over what has come of a slot's prompt from elsewhere; how many tokens that is.
    fn restore(&mut self, slot: usize, runner: &mut impl Runner, patience: bool) -> usize {
        let Some(running) = self.running[slot].as_mut().filter(|running| running.restoring) else { return 0 };
        let Restored { tokens, more } = runner.restore(slot, running.sequence.tokens(), patience);
        running.restoring = more;
        running.sequence.found_in_cache(tokens);
        tokens
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
    fn waits(&self, slot: usize, older: &[Part], blocks: &Blocks) -> bool {
        let (tokens, from) = (self.tokens(slot), blocks.len(slot));
        let to = from + BLOCK;
        let computes = |other: &Part| {
            let theirs = self.tokens(other.slot);
            let same =
                theirs.len() >= to && theirs[..to] == tokens[..to] && blocks.root(other.slot) == blocks.root(slot);
            same && (from..to).contains(&blocks.len(other.slot))
        };
        from.is_multiple_of(BLOCK) && to < tokens.len() && older.iter().any(computes)
    }

    /// Sends who came last back to the queue. What it had computed stays for as long as nobody needs the room.
    fn preempt(&mut self, blocks: &mut Blocks) {
        let started = |(slot, running): (usize, &Option<Running<S>>)| Some((running.as_ref()?.started, slot));
        let last = self.running.iter().enumerate().filter_map(started).max();
        if let Some((slot, mut running)) = last.and_then(|(_, slot)| Some((slot, self.running[slot].take()?))) {
            blocks.release(slot);
            running.sequence.begins_again();
            self.waiting.push_front(running.sequence);
        }
    }

    /// Chooses the tokens that come next. Guesses count up to the first that is not what is chosen; what the cache holds of
    /// the others is forgotten.
    fn advance(
        &mut self,
        batch: &Batch,
        logits: &Logits,
        vocabulary: &impl Vocabulary,
        blocks: &mut Blocks,
        step: &mut Step,
    ) {
        let mut rows = (0..logits.rows()).zip(batch.entries().iter().filter(|entry| entry.wants_logits)).peekable();
        while let Some((first, entry)) = rows.next() {
            let slot = entry.slot;
            let Some(running) = &mut self.running[slot] else { continue };
            let (guesses, mut right) = (&running.guesses, 0);
            let over = loop {
                let over = running.sequence.advance(logits.row(first + right), vocabulary);
                step.generated += 1;
                if over || guesses.get(right).is_none_or(|guess| running.sequence.tokens().last() != Some(guess)) {
                    break over;
                }
                right += 1;
            };
            // The rows of those that were wrong are passed over.
            for _ in 0..guesses.len() {
                rows.next();
            }
            match running.drafted {
                // Where it did not dare to guess it was as good as wrong.
                true => running.drafts.note(guesses.len().max(1), right),
                false => running.speculation.note(guesses.len(), right),
            }
            step.right += right;
            if over {
                self.running[slot] = None;
            } else {
                blocks.truncate(slot, running.sequence.tokens().len() - 1);
            }
        }
    }

    fn fail(&mut self, message: &str) {
        for running in &mut self.running {
            if let Some(running) = running.take() {
                running.sequence.fail(message);
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! What the next pass is about.

use super::{Allowance, Batcher, Runner, Running, Step};
use crate::engine::draft::Wanted;
use crate::engine::model::Batch;
use crate::engine::sequence::Sink;

/// A sequence's part of a pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    pub slot: usize,
    /// Tokens that are there to be computed.
    pub pending: usize,
    /// Whether it is an answer that goes on by one token; else it is a prompt.
    pub goes_on: bool,
    /// Of a prompt, the tokens that are computed.
    pub share: usize,
}

impl Part {
    /// Tokens of a prompt that are there to be computed.
    fn of_prompt(&self) -> usize {
        if self.goes_on { 0 } else { self.pending }
    }
}

impl<S: Sink> Batcher<S> {
    /// Fills `batch` with the next pass, and tells what it is about. Who takes part is in `self.parts`, who came first first.
    pub(super) fn plan(
        &mut self,
        allow: impl FnOnce(usize) -> Allowance,
        runner: &mut impl Runner,
        batch: &mut Batch,
    ) -> Step {
        batch.clear();
        let mut parts = std::mem::take(&mut self.parts);
        parts.clear();
        parts.extend((0..self.running.len()).map(|slot| Part { slot, ..Part::default() }));
        let started = |part: &Part| self.running[part.slot].as_ref().map(|running| running.started);
        parts.retain(|part| started(part).is_some());
        parts.sort_unstable_by_key(started);

        let mut step = Step::default();
        for at in 0..parts.len() {
            let slot = parts[at].slot;
            let mut found = runner.blocks().adopt(slot, self.tokens(slot));
            let mut waits = self.waits(slot, &parts[..at], runner.blocks());
            if !waits {
                step.restored += self.restore(slot, runner, false);
                waits = self.is_restoring(slot);
            }
            let blocks = runner.blocks();
            if !waits {
                found += blocks.adopt_part(slot, self.tokens(slot));
            }
            self.found(slot, found);
            let pending = if waits { 0 } else { self.tokens(slot).len() - blocks.len(slot) };
            parts[at].pending = pending;
            parts[at].goes_on = pending == 1 && self.has_begun(slot);
        }
        step.answers = parts.iter().filter(|part| part.goes_on).count();
        let Allowance { tokens, guess_cost } = allow(step.answers);
        // Where nothing goes on something must: else nothing ever would.
        share(&mut parts, tokens.saturating_sub(step.answers).max(usize::from(step.answers == 0)));
        // Beside prompts nothing is guessed: there is no time to spare.
        let guess_cost = guess_cost.filter(|_| parts.iter().all(|part| part.of_prompt() == 0));
        step.drafted = self.guess(&parts, guess_cost, runner);

        let blocks = runner.blocks();
        for &Part { slot, goes_on, share, .. } in &parts {
            let (cached, share) = (blocks.len(slot), if goes_on { 1 } else { share });
            // Older ones have their room already, so that in the end there is somebody who makes it.
            while self.running[slot].is_some() && blocks.reserve(slot, cached + share).is_err() {
                self.preempt(blocks);
                step.preempted += 1;
            }
            let Some(Running { sequence, guesses, .. }) = &mut self.running[slot] else { continue };
            let tokens = sequence.tokens();
            for position in (cached..tokens.len()).take(share) {
                batch.push(tokens[position], slot, position, position + 1 == tokens.len());
            }
            // Nobody makes room for a guess.
            if blocks.reserve(slot, tokens.len() + guesses.len()).is_err() {
                guesses.clear();
            }
            let guessed = (tokens.len()..).zip(&*guesses);
            guessed.for_each(|(position, &guess)| batch.push(guess, slot, position, true));
            step.guessed += guesses.len();
        }
        step.computed = batch.len();
        self.parts = parts;
        step
    }

    /// Guesses for answers that go on. A model that guesses reads what is read of prompts. Whether it was asked.
    fn guess(&mut self, parts: &[Part], cost: Option<f64>, runner: &mut impl Runner) -> bool {
        let (drafts, mut wanted) = (runner.drafts(), Vec::new());
        for (slot, running) in self.running.iter_mut().enumerate() {
            let (Some(running), Some(part)) = (running, parts.iter().find(|part| part.slot == slot)) else { continue };
            let Running { sequence, speculation, drafts: odds, guesses, drafted, .. } = running;
            *drafted = false;
            guesses.clear();
            let tokens = sequence.tokens();
            match cost.filter(|_| part.goes_on) {
                Some(cost) => {
                    let most = sequence.tokens_left().saturating_sub(1);
                    if self.looks_back {
                        speculation.guess(tokens, most, cost, guesses);
                    }
                    let most = if drafts && guesses.is_empty() { most.min(odds.worth(cost)) } else { 0 };
                    if most > 0 {
                        *drafted = true;
                        wanted.push(Wanted { slot, tokens, most, cost, guesses: std::mem::take(guesses) });
                    }
                }
                None if drafts && part.share > 0 => {
                    let tokens = &tokens[..tokens.len().min(runner.blocks().len(slot) + part.share)];
                    wanted.push(Wanted { slot, tokens, most: 0, cost: 1.0, guesses: std::mem::take(guesses) });
                }
                None => {}
            }
        }
        if wanted.is_empty() {
            return false;
        }
        runner.draft(&mut wanted);
        let guessed: Vec<(usize, Vec<u32>)> = wanted.into_iter().map(|wanted| (wanted.slot, wanted.guesses)).collect();
        for (slot, guesses) in guessed {
            if let Some(running) = &mut self.running[slot] {
                running.guesses = guesses;
            }
        }
        true
    }
}

/// Deals `budget` tokens evenly to the prompts among `parts`.
pub(super) fn share(parts: &mut [Part], budget: usize) {
    let mut left = budget;
    parts.iter_mut().for_each(|part| part.share = 0);
    loop {
        let hungry = parts.iter().filter(|part| part.share < part.of_prompt()).count();
        if hungry == 0 || left == 0 {
            return;
        }
        // What does not divide goes to the first.
        let each = (left / hungry).max(1);
        for part in &mut *parts {
            let more = each.min(part.of_prompt() - part.share).min(left);
            part.share += more;
            left -= more;
        }
    }
}

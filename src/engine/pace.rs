//! How much a pass may take, from how long passes took: so that streams flow beside a prompt that is being read, cancelled
//! work stops soon on slow machines too, and guesses are made only where they pay.

use super::batcher::{Allowance, Step};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a pass over prompts alone should take.
const PASS: f64 = 0.25;
/// Below this many tokens reading the weights costs more than computing.
const LEAST: usize = 32;
const MOST: usize = 256;
/// Beside answers prompts may take so much of the time that those take alone: with all of it the time between two tokens
/// is doubled, and measured times are never exact.
const BESIDE: f64 = 0.8;
/// Passes beside prompts after which one without them tells anew how long answers take alone.
const STALE: usize = 32;
/// How much of an average the last measurement is.
const NEWEST: f64 = 0.25;

/// How long passes took.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    /// Seconds of a pass by the answers that went on in it, nothing else being in it.
    alone: BTreeMap<usize, f64>,
    /// Seconds that a token took of a pass over prompts alone.
    prompt: Option<f64>,
    /// Seconds that each token took which was more than the answers' next.
    more: Option<f64>,
    /// Passes since one told how long answers take alone.
    beside: usize,
}

impl Pace {
    /// What the next pass may take in which so many answers go on. Guesses are made if wanted.
    pub fn allowance(&self, answers: usize, speculates: bool) -> Allowance {
        let tokens = self.prompt.map_or(LEAST, |each| ((PASS / each) as usize).clamp(LEAST, MOST));
        if answers == 0 {
            return Allowance { tokens, guess_cost: None };
        }
        let each = self.more.or(self.prompt);
        let (Some(alone), true) = (self.alone(answers), self.beside < STALE) else {
            return Allowance { tokens: answers, guess_cost: None };
        };
        let beside = each.map_or(1, |each| ((BESIDE * alone / each) as usize).clamp(1, MOST));
        // A guess delays all, and serves one.
        let cost = each.map_or(0.5, |each| answers as f64 * each / alone);
        Allowance { tokens: answers + beside, guess_cost: speculates.then_some(cost) }
    }

    /// Notes a pass.
    pub fn note(&mut self, step: &Step, took: Duration) {
        let took = took.as_secs_f64().max(1e-6);
        let more = step.computed - step.answers.min(step.computed);
        let average = |old: Option<f64>, new: f64| old.map_or(new, |old| old + NEWEST * (new - old));
        match (step.answers, more) {
            (0, LEAST..) => self.prompt = Some(took / more as f64),
            (0, _) => {}
            (_, 0) if step.drafted => {}
            (answers, 0) => {
                let old = self.alone.get(&answers).copied();
                self.alone.insert(answers, average(old, took));
                self.beside = 0;
            }
            (answers, more) => {
                if let Some(alone) = self.alone(answers) {
                    self.more = Some(average(self.more, (took - alone).max(0.01 * took) / more as f64));
                }
                self.beside += 1;
            }
        }
    }

    /// How long a pass of so many answers takes; at least that, where only fewer were seen.
    fn alone(&self, answers: usize) -> Option<f64> {
        let fewer = self.alone.range(..=answers).next_back();
        fewer.or_else(|| self.alone.range(answers..).next()).map(|(_, seconds)| *seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A machine that takes so long for the weights, and for each token.
    struct Machine {
        weights: f64,
        token: f64,
    }

    impl Machine {
        fn pass(&self, pace: &mut Pace, answers: usize, prompt: usize, noise: f64) -> f64 {
            let allowed = pace.allowance(answers, false).tokens - answers;
            let prompt = prompt.min(allowed);
            let took = (self.weights + self.token * (answers + prompt) as f64) * noise;
            let step = Step { computed: answers + prompt, prompt, answers, ..Step::default() };
            pace.note(&step, Duration::from_secs_f64(took));
            took
        }
    }

    proptest! {
        /// However fast a machine is: beside a prompt that never ends an answer's next token takes no more than twice as
        /// long, but for the first passes, and the prompt gets most of what that leaves.
        #[test]
        fn a_prompt_at_most_doubles_the_time_between_tokens(
            weights in 0.002_f64..0.2, token in 0.0002_f64..0.05, answers in 1_usize..5,
            noise in prop::collection::vec(0.95_f64..1.05, 200),
        ) {
            let machine = Machine { weights, token };
            let mut pace = Pace::default();
            (0..3).for_each(|_| { machine.pass(&mut pace, 0, 1000, 1.0); });
            let alone = weights + token * answers as f64;
            let mut total = 0.0;
            for (at, &noise) in noise.iter().enumerate() {
                let took = machine.pass(&mut pace, answers, 1000, noise);
                total += took;
                // Where not even one token fits, one is read nevertheless.
                let most = (2.0 * alone).max(alone + token) * 1.15;
                prop_assert!(at < 10 || took < most, "{at}: {took} beside {alone}");
            }
            prop_assert!(total > 200.0 * 1.3 * alone.min(weights + MOST as f64 * token) || token * 2.0 > alone);
        }
    }

    #[test]
    fn passes_over_prompts_are_as_long_as_the_machine_is_fast() {
        let check = |computed, took, expected| {
            let mut pace = Pace::default();
            pace.note(&Step { computed, prompt: computed, ..Step::default() }, Duration::from_millis(took));
            assert_eq!(
                pace.allowance(0, true),
                Allowance { tokens: expected, guess_cost: None },
                "{computed} in {took} ms"
            );
        };
        check(2, 1, 32);
        check(100, 100, 250);
        check(100, 250, 100);
        check(100, 1000, 32);
        check(100, 0, 256);
    }

    #[test]
    fn guesses_cost_what_they_delay() {
        let mut pace = Pace::default();
        let pass = |answers, more, milliseconds| {
            let step = Step { computed: answers + more, answers, guessed: more, ..Step::default() };
            (step, Duration::from_millis(milliseconds))
        };
        assert_eq!(pace.allowance(1, true).guess_cost, None);
        for (step, took) in [pass(1, 0, 40), pass(1, 4, 80)] {
            pace.note(&step, took);
        }
        assert!((pace.allowance(1, true).guess_cost.unwrap() - 0.25).abs() < 1e-9);
        assert!((pace.allowance(2, true).guess_cost.unwrap() - 0.5).abs() < 1e-9);
        assert_eq!(pace.allowance(1, false).guess_cost, None);
    }
}

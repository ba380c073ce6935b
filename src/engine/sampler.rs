//! Chooses the next token from a row of logits, and tells how probable it was.
//!
//! The order of the steps is llama.cpp's: biases and penalties, then top-k, top-p and min-p over the model's own
//! probabilities, and temperature last; what a grammar forbids is not considered at all. Log-probabilities are those of the model, before any of these, as OpenAI's are.

use super::grammar::{Constraint, Opened};
use super::{Error, tokenizer::Token};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// How tokens are chosen. [`Params::default`] samples from the model's own distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// Divides logits: below 1 probable tokens become more so. 0 takes the most probable one.
    pub temperature: f32,
    /// Only so many of the most probable tokens are considered; 0 for all.
    pub top_k: usize,
    /// Only the most probable tokens whose probabilities sum to this are considered; 1 for all.
    pub top_p: f32,
    /// Only tokens at least this probable, relative to the most probable one, are considered; 0 for all.
    pub min_p: f32,
    /// Divides the logits, where positive, of tokens in the prompt or answer; 1 for none.
    pub repetition_penalty: f32,
    /// Is subtracted from the logits of tokens in the answer.
    pub presence_penalty: f32,
    /// Is subtracted from the logits of tokens in the answer, for each time.
    pub frequency_penalty: f32,
    /// Is added to the logits of these tokens.
    pub logit_bias: Vec<(Token, f32)>,
    /// The same seed gives the same choices. A random one where there is none.
    pub seed: Option<u64>,
    /// How many of the most probable tokens are told with each, where log-probabilities are wanted.
    pub top_logprobs: Option<usize>,
}

impl Default for Params {
    fn default() -> Params {
        Params {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
            top_logprobs: None,
        }
    }
}

impl Params {
    /// Whether tokens that were said are said less.
    fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    fn check(&self) -> Result<(), Error> {
        let within = |name: &str, value: f32, least: f32, most: f32| {
            // Written so that NaN is refused.
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(Error::Request(format!("{name} is {value}, which is not within {least} to {most}")))
        };
        within("temperature", self.temperature, 0.0, 100.0)?;
        within("top_p", self.top_p, 0.0, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.01, 100.0)?;
        within("presence_penalty", self.presence_penalty, -100.0, 100.0)?;
        within("frequency_penalty", self.frequency_penalty, -100.0, 100.0)?;
        self.logit_bias.iter().try_for_each(|&(_, bias)| within("a logit_bias", bias, -100.0, 100.0))
    }
}

/// A token that was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Which.
    pub token: Token,
    /// How probable it was, where that is wanted.
    pub logprobs: Option<Logprobs>,
}

/// Natural logarithms of the model's probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// That of the token chosen.
    pub chosen: f32,
    /// The most probable tokens, the most probable first.
    pub top: Vec<(Token, f32)>,
}

/// The state of choosing one answer's tokens.
#[derive(Debug)]
pub struct Sampler {
    params: Params,
    random: SplitMix,
    /// Where there are penalties, the tokens that they are for.
    seen: HashMap<Token, Seen>,
    constraint: Option<Constraint>,
    /// What constrains the answer from a token on.
    opened: Option<Opened>,
    /// Whether the grammar allows nothing more.
    complete: bool,
    /// Kept between calls for their memory: the adjusted row, and the tokens considered.
    row: Vec<f32>,
    candidates: Vec<(f32, Token)>,
}

/// Where a token occurred.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    in_prompt: bool,
    in_answer: u32,
}

impl Sampler {
    /// A sampler for one answer to `prompt` of up to so many tokens, which is what `constraint` allows.
    ///
    /// # Errors
    /// When a parameter is out of its range.
    pub fn new(
        params: Params,
        prompt: &[Token],
        most: usize,
        constraint: Option<Constraint>,
    ) -> Result<Sampler, Error> {
        params.check()?;
        let seed = match params.seed {
            Some(seed) => seed,
            None => {
                getrandom::u64().map_err(|error| Error::Request(format!("the system gave no random seed: {error}")))?
            }
        };
        let mut seen: HashMap<Token, Seen> = HashMap::new();
        if params.repetition_penalty != 1.0 {
            prompt.iter().for_each(|&token| seen.entry(token).or_default().in_prompt = true);
        }
        if params.penalises() {
            seen.reserve(most);
        }
        let (row, candidates) = (Vec::new(), Vec::new());
        let (opened, complete) = (None, false);
        Ok(Sampler { params, random: SplitMix(seed), seen, constraint, opened, complete, row, candidates })
    }

    /// The same, whose answer is constrained from a token on, if nothing else constrains it.
    pub fn after(self, opened: Option<Opened>) -> Sampler {
        Sampler { opened: opened.filter(|_| self.constraint.is_none()), ..self }
    }

    /// Whether the answer is complete, so that no token may follow.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Chooses a token by `logits` (`[vocabulary]`), which it remembers as part of the answer.
    ///
    /// # Errors
    /// When a logit is no finite number, or the grammar cannot be followed.
    pub fn sample(&mut self, logits: &[f32]) -> Result<Choice, Error> {
        check_finite(logits)?;
        let token = match self.adjust(logits)? {
            true => {
                let row = std::mem::take(&mut self.row);
                let token = self.choose(&row);
                self.row = row;
                token
            }
            false => self.choose(logits),
        };
        if self.params.penalises() {
            self.seen.entry(token).or_default().in_answer += 1;
        }
        self.accept(token)?;
        let logprobs = self.params.top_logprobs.map(|top| measure(logits, token, top));
        Ok(Choice { token, logprobs })
    }

    /// Lets the grammar know of a token; it may begin or end with it.
    fn accept(&mut self, token: Token) -> Result<(), Error> {
        match (&mut self.constraint, &self.opened) {
            (Some(constraint), opened) => {
                let over = constraint.accept(token)?;
                self.complete = over && opened.as_ref().is_none_or(|opened| opened.once);
                if over && !self.complete {
                    self.constraint = None;
                }
            }
            (None, Some(opened)) if opened.mark == token => self.constraint = Some(opened.grammar.begin()),
            (None, _) => {}
        }
        Ok(())
    }

    /// Fills `self.row` with logits that are biased, penalised and constrained; says whether there was anything to do.
    fn adjust(&mut self, logits: &[f32]) -> Result<bool, Error> {
        let params = &self.params;
        if params.logit_bias.is_empty() && self.seen.is_empty() && self.constraint.is_none() {
            return Ok(false);
        }
        self.row.clear();
        self.row.extend_from_slice(logits);
        for &(token, bias) in &params.logit_bias {
            if let Some(logit) = self.row.get_mut(token as usize) {
                *logit += bias;
            }
        }
        for (&token, seen) in &self.seen {
            let Some(logit) = self.row.get_mut(token as usize) else { continue };
            if seen.in_prompt || seen.in_answer > 0 {
                let penalty = params.repetition_penalty;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
            if seen.in_answer > 0 {
                *logit -= params.presence_penalty + params.frequency_penalty * seen.in_answer as f32;
            }
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.restrict(&mut self.row)?;
        }
        Ok(true)
    }

    fn choose(&mut self, row: &[f32]) -> Token {
        let Params { temperature, top_k, top_p, min_p, .. } = self.params;
        if temperature == 0.0 || top_k == 1 {
            return argmax(row);
        }
        let candidates = &mut self.candidates;
        candidates.clear();
        let possible = |&(logit, _): &(f32, Token)| logit > f32::NEG_INFINITY;
        candidates.extend((0..).zip(row).map(|(token, &logit)| (logit, token)).filter(possible));
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, by_probability);
            candidates.truncate(top_k);
        }
        let most = candidates.iter().fold(f32::NEG_INFINITY, |most, &(logit, _)| most.max(logit));
        if top_p < 1.0 {
            keep_mass(candidates, top_p, most);
        }
        if min_p > 0.0 {
            candidates.retain(|&(logit, _)| (logit - most).exp() >= min_p);
        }
        // Where a selection left them in an order of its own.
        if top_k > 0 || top_p < 1.0 {
            candidates.sort_unstable_by(by_probability);
        }
        let weight = |logit: f32| f64::from((logit - most) / temperature).exp();
        let sum: f64 = candidates.iter().map(|&(logit, _)| weight(logit)).sum();
        let mut left = self.random.unit() * sum;
        let drawn = candidates.iter().find(|&&(logit, _)| {
            left -= weight(logit);
            left < 0.0
        });
        // Rounding may leave a rest beyond the last one.
        drawn.map_or_else(|| argmax(row), |&(_, token)| token)
    }
}

/// The log-probabilities of `token` and of the `top` most probable tokens, by the model's `logits` (`[vocabulary]`).
///
/// # Errors
/// When a logit is no finite number, or there is no such token.
pub fn logprobs(logits: &[f32], token: Token, top: usize) -> Result<Logprobs, Error> {
    check_finite(logits)?;
    if token as usize >= logits.len() {
        return Err(Error::Request(format!("there is no token {token}, only {} of them", logits.len())));
    }
    Ok(measure(logits, token, top))
}

fn measure(logits: &[f32], token: Token, top: usize) -> Logprobs {
    let most = logits.iter().fold(f32::NEG_INFINITY, |most, &logit| most.max(logit));
    let sum: f64 = logits.iter().map(|&logit| f64::from((logit - most).exp())).sum();
    let logprob = |logit: f32| (f64::from(logit) - f64::from(most) - sum.ln()) as f32;
    // The least of the best so far on top.
    let mut best: BinaryHeap<Reverse<Ranked>> = BinaryHeap::with_capacity(top + 1);
    for (token, &logit) in (0..).zip(logits) {
        let ranked = Ranked(logit, token);
        if best.len() < top {
            best.push(Reverse(ranked));
        } else if best.peek().is_some_and(|least| ranked > least.0) {
            best.pop();
            best.push(Reverse(ranked));
        }
    }
    let top = best.into_sorted_vec().into_iter().map(|Reverse(Ranked(logit, token))| (token, logprob(logit))).collect();
    Logprobs { chosen: logprob(logits[token as usize]), top }
}

fn check_finite(logits: &[f32]) -> Result<(), Error> {
    if logits.is_empty() {
        return Err(Error::Inconsistent("a forward pass gave no logits".into()));
    }
    match logits.iter().find(|logit| !logit.is_finite()) {
        Some(&logit) => Err(Error::NotFinite(logit)),
        None => Ok(()),
    }
}

/// The most probable token; of several the first.
fn argmax(row: &[f32]) -> Token {
    let better =
        |best: (f32, Token), (token, &logit): (Token, &f32)| if logit > best.0 { (logit, token) } else { best };
    (0..).zip(row).fold((f32::NEG_INFINITY, 0), better).1
}

/// Keeps the most probable candidates whose probabilities sum to `mass`, at least one of them.
fn keep_mass(candidates: &mut Vec<(f32, Token)>, mass: f32, most: f32) {
    let weight = |&(logit, _): &(f32, Token)| f64::from((logit - most).exp());
    let enough = f64::from(mass) * candidates.iter().map(weight).sum::<f64>();
    // Few tokens have nearly all of the mass, so sort a few, and more only when those do not suffice.
    let mut sorted = 64;
    loop {
        if sorted < candidates.len() {
            candidates.select_nth_unstable_by(sorted - 1, by_probability);
        }
        let len = candidates.len();
        let first = &mut candidates[..sorted.min(len)];
        first.sort_unstable_by(by_probability);
        let mut sum = 0.0;
        let reached = first.iter().position(|candidate| {
            sum += weight(candidate);
            sum >= enough
        });
        match reached {
            Some(last) => return candidates.truncate(last + 1),
            None if sorted >= len => return,
            None => sorted *= 8,
        }
    }
}

/// The most probable first; of several the lowest number.
fn by_probability(a: &(f32, Token), b: &(f32, Token)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// A logit and its token, of which the greater is the more probable; of several the lower number.
#[derive(Debug, PartialEq)]
struct Ranked(f32, Token);

impl Eq for Ranked {}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> std::cmp::Ordering {
        by_probability(&(other.0, other.1), &(self.0, self.1))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Steele, Lea and Flood's generator (2014): a counter, mixed. Any seed will do.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Within 0 (included) to 1 (excluded).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;

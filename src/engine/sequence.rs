//! An answer on its way: from a job over its tokens to the events that tell of it.

use super::Error;
use super::blocks::Chain;
use super::emitter::Emitter;
use super::grammar::{Grammar, Opened};
use super::sampler::{Choice, Params, Sampler};
use super::tokenizer::Tokenizer;
use std::sync::Arc;

/// One answer to generate.
#[derive(Debug, Clone, Default)]
pub struct Job {
    /// The tokens of the prompt; at least one.
    pub prompt: Vec<u32>,
    /// What its conversation begins with: that of the [adapter](super::lora::Lora::root) that answers, if not the model alone.
    pub root: Chain,
    /// The most tokens that the answer may have.
    pub max_tokens: usize,
    /// How tokens are chosen, and whether their log-probabilities are told.
    pub params: Params,
    /// The answer ends before the first of these.
    pub stop: Vec<String>,
    /// What the answer may be.
    pub grammar: Option<Arc<Grammar>>,
    /// What it may be from a token on.
    pub opened: Option<Opened>,
    /// Control tokens that a reader sees: what a tool call begins with, for one.
    pub shown: Vec<u32>,
}

/// What becomes of a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// More of the answer.
    Text {
        /// Whole characters; may be empty when only `tokens` has something.
        text: String,
        /// Log-probabilities, where they are wanted.
        tokens: Vec<Scored>,
    },
    /// The answer is complete.
    Finished {
        /// Why it ended.
        reason: Finish,
        /// What it cost.
        counts: Counts,
    },
    /// The answer cannot be completed.
    Failed(String),
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, or a stop string was reached.
    Stop,
    /// It reached the tokens that it may have.
    Length,
}

/// Tokens of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of the prompt.
    pub prompt: usize,
    /// Of the prompt, found in the cache.
    pub cached: usize,
    /// Of the answer, without the token that ended it.
    pub completion: usize,
}

/// A token with its log-probability, and the likeliest tokens in its place, likeliest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The token that was chosen.
    pub chosen: Candidate,
    /// The likeliest.
    pub top: Vec<Candidate>,
}

/// A token that could be chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its name, which need not be whole characters.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability.
    pub logprob: f32,
}

/// Where events go.
pub trait Sink {
    /// Takes an event. Must not block: everybody's answers wait meanwhile.
    fn send(&self, event: Event);
    /// Whether nobody listens any more; then the job is given up.
    fn is_closed(&self) -> bool;
}

/// What a sequence has to know of tokens.
pub trait Vocabulary {
    /// The bytes that a reader sees of a token.
    fn piece(&self, token: u32) -> &[u8];
    /// The bytes that a token is called, of those too that show nothing.
    fn name(&self, token: u32) -> &[u8];
    /// Whether a token ends an answer.
    fn is_end(&self, token: u32) -> bool;
}

impl Vocabulary for Tokenizer {
    fn piece(&self, token: u32) -> &[u8] {
        self.piece(token)
    }

    fn name(&self, token: u32) -> &[u8] {
        self.name(token)
    }

    fn is_end(&self, token: u32) -> bool {
        self.is_end(token)
    }
}

/// A job on its way.
#[derive(Debug)]
pub struct Sequence<S> {
    sink: S,
    root: Chain,
    /// The prompt, then the answer.
    tokens: Vec<u32>,
    counts: Counts,
    /// Whether it had begun before.
    again: bool,
    max_tokens: usize,
    sampler: Sampler,
    shown: Vec<u32>,
    emitter: Emitter<Scored>,
}

impl<S: Sink> Sequence<S> {
    /// Begins a job whose answer may not grow beyond `context` tokens, the prompt included.
    ///
    /// # Errors
    /// A parameter is out of its range.
    pub fn new(job: Job, context: usize, sink: S) -> Result<Self, Error> {
        let max_tokens = job.max_tokens.min(context.saturating_sub(job.prompt.len()));
        let grammar = job.grammar.map(|grammar| grammar.begin());
        let sampler = Sampler::new(job.params, &job.prompt, max_tokens, grammar)?.after(job.opened);
        // All at once, so that no token waits for memory.
        let mut tokens = job.prompt;
        tokens.reserve_exact(max_tokens);
        Ok(Self {
            sink,
            root: job.root,
            counts: Counts { prompt: tokens.len(), ..Counts::default() },
            again: false,
            max_tokens,
            sampler,
            shown: job.shown,
            emitter: Emitter::new(job.stop),
            tokens,
        })
    }

    /// What its conversation begins with.
    pub fn root(&self) -> Chain {
        self.root
    }

    /// The prompt and the answer so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many of the tokens are the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.counts.prompt
    }

    /// Whether its answer has begun.
    pub fn has_begun(&self) -> bool {
        self.counts.completion > 0
    }

    /// Tokens that its answer may still have.
    pub fn tokens_left(&self) -> usize {
        self.max_tokens - self.counts.completion.min(self.max_tokens)
    }

    /// Whether nobody waits for it.
    pub fn is_cancelled(&self) -> bool {
        self.sink.is_closed()
    }

    /// Notes that so many more tokens of the prompt needed no work.
    pub fn found_in_cache(&mut self, tokens: usize) {
        if !self.again {
            self.counts.cached += tokens;
        }
    }

    /// Notes that it has to begin again: what it finds of itself does not count as found.
    pub fn begins_again(&mut self) {
        self.again = true;
    }

    /// Tells that it cannot be completed.
    pub fn fail(&self, message: &str) {
        self.sink.send(Event::Failed(message.to_string()));
    }

    /// Ends it at once if it may have no token at all.
    pub fn finish_if_full(&mut self) -> bool {
        let full = self.counts.completion >= self.max_tokens;
        if full {
            self.finish(Finish::Length);
        }
        full
    }

    /// Chooses the next token by `logits`, one a token of the vocabulary. Returns whether the job is over.
    pub fn advance(&mut self, logits: &[f32], vocabulary: &impl Vocabulary) -> bool {
        let choice = match self.sampler.sample(logits) {
            Ok(choice) => choice,
            Err(error) => {
                self.fail(&error.to_string());
                return true;
            }
        };
        if vocabulary.is_end(choice.token) {
            self.finish(Finish::Stop);
            return true;
        }
        self.tokens.push(choice.token);
        self.counts.completion += 1;
        let shown = self.shown.contains(&choice.token);
        let piece = if shown { vocabulary.name(choice.token) } else { vocabulary.piece(choice.token) };
        let (emitted, stopped) = self.emitter.push(piece, score(&choice, vocabulary));
        self.show(emitted.text, emitted.tokens);
        if stopped {
            self.end(Finish::Stop);
        } else if self.sampler.is_complete() {
            self.finish(Finish::Stop);
            return true;
        }
        stopped || self.finish_if_full()
    }

    /// Shows what was held back, and ends.
    fn finish(&mut self, reason: Finish) {
        let rest = self.emitter.finish();
        self.show(rest.text, rest.tokens);
        self.end(reason);
    }

    fn end(&self, reason: Finish) {
        self.sink.send(Event::Finished { reason, counts: self.counts });
    }

    fn show(&self, text: String, tokens: Vec<Scored>) {
        if !text.is_empty() || !tokens.is_empty() {
            self.sink.send(Event::Text { text, tokens });
        }
    }
}

fn score(choice: &Choice, vocabulary: &impl Vocabulary) -> Option<Scored> {
    let logprobs = choice.logprobs.as_ref()?;
    let candidate = |token, logprob| Candidate { bytes: vocabulary.name(token).to_vec(), logprob };
    Some(Scored {
        chosen: candidate(choice.token, logprobs.chosen),
        top: logprobs.top.iter().map(|(token, logprob)| candidate(*token, *logprob)).collect(),
    })
}

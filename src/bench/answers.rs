//! Answers as a worker writes them, timed: with everything between a token and the next.

use crate::engine::Error;
use crate::engine::batcher::Batcher;
use crate::engine::blocks::Chain;
use crate::engine::pace::Pace;
use crate::engine::passes::Passes;
use crate::engine::sampler::Params;
use crate::engine::sequence::{Event, Job, Sequence, Sink};
use crate::engine::tokenizer::{Special, Tokenizer};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What prompts are made of: this very text, over and over.
const TEXT: &str = include_str!("answers.rs");
/// Passes before those that are timed: the first ones are queued kernel by kernel, and then recorded.
const FIRST: usize = 8;

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Written {
    /// Tokens of all answers.
    pub tokens: usize,
    /// Passes that wrote them.
    pub passes: usize,
    /// How long that took.
    pub took: Duration,
}

/// Notes only what went wrong.
#[derive(Debug, Clone, Default)]
struct Quiet(Arc<Mutex<Option<String>>>);

impl Sink for Quiet {
    fn send(&self, event: Event) {
        if let Event::Failed(reason) = event {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        }
    }

    fn is_closed(&self) -> bool {
        false
    }
}

/// Lets so many streams write `tokens` each behind `depth` others, the likeliest ones, all at once.
///
/// # Errors
/// The cache has no room for them, or a pass failed.
pub fn write(
    passes: &mut Passes,
    tokenizer: &Tokenizer,
    streams: usize,
    depth: usize,
    tokens: usize,
    speculates: bool,
) -> Result<Written, Error> {
    let text = tokenizer.encode(TEXT, Special::Plain, false);
    let quiet = Quiet::default();
    let mut written = Written::default();
    // All prompts are read first, so that afterwards all begin to write at once.
    for tokens in [1, tokens] {
        let mut batcher = Batcher::new(streams);
        for stream in 0..streams {
            let prompt: Vec<u32> = text.iter().copied().cycle().skip(stream * 97).take(depth.max(1)).collect();
            // No stream ends before the others.
            let logit_bias = tokenizer.ends().map(|end| (end, -100.0)).collect();
            let params = Params { temperature: 0.0, logit_bias, ..Params::default() };
            // What one has read is not another's: each reads keys and values of its own.
            let root = Chain::root(&stream.to_le_bytes());
            let job = Job { prompt, root, max_tokens: tokens, params, ..Job::default() };
            batcher.submit(Sequence::new(job, passes.cache.context(), quiet.clone())?);
        }
        written = run(&mut batcher, passes, tokenizer, streams, speculates);
    }
    let failed = quiet.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    match failed {
        Some(reason) => Err(Error::Request(reason)),
        None => Ok(written),
    }
}

/// Until all is written; what is told is of passes that wrote for all streams, and read nothing.
fn run(
    batcher: &mut Batcher<Quiet>,
    passes: &mut Passes,
    tokenizer: &Tokenizer,
    streams: usize,
    speculates: bool,
) -> Written {
    let (mut pace, mut written, mut first) = (Pace::default(), Written::default(), 0);
    while !batcher.is_idle() {
        let begun = Instant::now();
        let step = batcher.step(|answers| pace.allowance(answers, speculates), tokenizer, passes);
        let took = begun.elapsed();
        pace.note(&step, took);
        if step.answers == streams && step.prompt == 0 {
            first += 1;
            if first > FIRST {
                written.passes += 1;
                written.tokens += step.generated;
                written.took += took;
            }
        }
    }
    written
}

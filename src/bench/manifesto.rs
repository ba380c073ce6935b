//! What the manifesto asks of a card of 8 GB, measured: how much memory, how many tokens a second.

use super::answers::{Written, write};
use crate::engine::footprint::{Footprint, OnCard, Plan, fit};
use crate::engine::gguf::Gguf;
use crate::engine::kernels::KvKind;
use crate::engine::kernels::cuda::{self, Cuda, Which, need::Card};
use crate::engine::kv_cache::Capacity;
use crate::engine::model::{Device, Options};
use crate::engine::passes::Passes;
use crate::engine::{self, Error};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// Bytes a second that the memory of the card reads which the manifesto is about, a GeForce RTX 5060.
pub const ITS_SPEED: f64 = 448e9;

/// Streams that are measured.
const STREAMS: [usize; 2] = [1, 4];

/// A line of its table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Line {
    /// The model, as people call it.
    pub model: &'static str,
    /// Tokens of all conversations together.
    pub context: usize,
    /// Tokens a second that are asked for.
    pub speed: f64,
    /// Bytes of the card that it may take.
    pub memory: u64,
}

/// The table.
pub const TABLE: [Line; 3] = [
    Line { model: "Llama 3.1 8B FP4", context: 8192, speed: 120.0, memory: gib(11) },
    Line { model: "Qwen2.5 7B Q4_K_M", context: 16384, speed: 100.0, memory: gib(10) },
    Line { model: "Mistral 7B Q4_K_M", context: 8192, speed: 80.0, memory: gib(13) },
];

/// So many halves of a GiB.
const fn gib(halves: u64) -> u64 {
    halves << 29
}

/// What was measured of a line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Which.
    pub line: Line,
    /// How keys and values are stored: in the first form with which it fits into what it may take, else in the smallest.
    pub kv: &'static str,
    /// Bytes of the card that were planned.
    pub planned: u64,
    /// Bytes that the driver says this process takes, once all was measured; none where it names no processes.
    pub taken: Option<u64>,
    /// What would fit, where this does not.
    pub instead: Option<String>,
    /// How quick it is.
    pub speeds: Vec<Speed>,
}

/// How quick so many streams are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Speed {
    /// How many write at once.
    pub streams: usize,
    /// Tokens that each has before it.
    pub depth: usize,
    /// Whether what comes next is guessed from what came before.
    pub speculates: bool,
    /// Tokens a second of all together.
    pub tokens_per_second: f64,
    /// Tokens of a stream that a pass wrote: 1 where nothing was guessed right.
    pub tokens_per_pass: f64,
    /// Bytes of weights, keys and values that a pass reads.
    pub bytes: f64,
    /// What part it is of what the same passes would give, if reading these bytes took all the time, as fast as this card copies.
    pub of_roofline: f64,
}

impl Speed {
    fn of(
        plan: &Plan,
        capacity: Capacity,
        (streams, depth, speculates): (usize, usize, bool),
        written: Written,
        memory: f64,
    ) -> Self {
        let Written { tokens, passes, took } = written;
        let of_kv = plan.kv as f64 / capacity.tokens() as f64;
        let each = tokens as f64 / (passes * streams).max(1) as f64;
        // On average half of what is timed lies before.
        let bytes = plan.weights as f64 + streams as f64 * of_kv * (depth as f64 + each * passes as f64 / 2.0);
        let passes_per_second = passes as f64 / took.as_secs_f64().max(1e-9);
        Speed {
            streams,
            depth,
            speculates,
            tokens_per_second: tokens as f64 / took.as_secs_f64().max(1e-9),
            tokens_per_pass: each,
            bytes,
            of_roofline: passes_per_second * bytes / memory,
        }
    }

    /// Tokens a second of the same passes on a card that reads so many bytes a second, if that took all the time.
    pub fn limit(&self, memory: f64) -> f64 {
        memory / self.bytes * self.tokens_per_pass * self.streams as f64
    }

    /// The same if it reached the same part of that as here. A projection: nothing was measured there.
    pub fn projection(&self, memory: f64) -> f64 {
        self.limit(memory) * self.of_roofline
    }
}

impl Row {
    /// Whether it takes no more than it may: as was measured, else as was planned.
    pub fn fits(&self) -> bool {
        self.taken.unwrap_or(self.planned) <= self.line.memory
    }

    /// Why one plain stream cannot be as quick as is asked for on the card that the manifesto is about, where it cannot.
    pub fn beyond(&self) -> Option<String> {
        let one = self.speeds.iter().find(|speed| speed.streams == 1 && !speed.speculates)?;
        let (asked, most) = (self.line.speed, one.limit(ITS_SPEED));
        (asked > most).then(|| {
            format!(
                "{}: {asked:.0} tokens/s of one plain stream would read {asked:.0} x {:.2} GB = {:.0} GB/s, and that card reads {:.0}: \
                 {most:.0} tokens/s at most. It takes {:.2} tokens a pass, by guesses or several streams",
                self.line.model,
                one.bytes / 1e9,
                asked * one.bytes / 1e9,
                ITS_SPEED / 1e9,
                asked / most,
            )
        })
    }
}

/// Where it is measured.
#[derive(Debug, Clone, Copy)]
pub struct Stand {
    /// The card.
    pub which: Which,
    /// Bytes of memory that it is taken to have.
    pub memory: u64,
    /// Tokens that each stream writes.
    pub tokens: usize,
}

/// Bytes a second that the card's memory moves.
///
/// # Errors
/// There is no such card, or no room.
pub fn memory_speed(which: Which) -> Result<f64, Error> {
    Ok(Cuda::new(which, None, None, None)?.device().bytes_per_second()?)
}

/// Measures a line with the model of this file. `taken` tells what the driver says that this process takes, `told` hears of
/// each figure.
///
/// # Errors
/// The model cannot be served on a card, or has no room there.
pub fn measure(
    line: Line,
    file: &Path,
    stand: Stand,
    memory_speed: f64,
    mut taken: impl FnMut() -> Option<u64>,
    mut told: impl FnMut(&Speed),
) -> Result<Row, Error> {
    let gguf = Arc::new(Gguf::open(file)?);
    let footprint = Footprint::of(&gguf);
    let needs = match footprint.on_card {
        OnCard::Yes(needs) => needs,
        OnCard::No(reason) => return Err(Error::Unsupported(reason)),
    };
    let card = Card { memory: stand.memory, ..cuda::served(stand.which)?.card() };
    let most = STREAMS.into_iter().max().unwrap_or(1);
    let of = |kind: KvKind| {
        let capacity = Capacity { slots: most, context: line.context, tokens: Some(line.context), kind };
        (Plan::of_all(&[needs], &card, capacity), capacity)
    };
    let mut kinds = footprint.kinds.iter().map(|&kind| of(kind));
    let chosen = kinds.clone().find(|(plan, _)| plan.total() <= line.memory).or_else(|| kinds.next_back());
    let (plan, capacity) = chosen.ok_or_else(|| Error::Unsupported("it has no keys and values".into()))?;

    let options = Options {
        device: Device::Cuda(stand.which),
        vram: Some(plan.taken()),
        memory: Some(stand.memory),
        ..Options::default()
    };
    let (tokenizer, model) = engine::load(&gguf, options)?;
    let cache = model.cache_of(capacity)?;
    let mut passes = Passes { model, cache, drafter: None };
    let mut speeds = Vec::new();
    for streams in STREAMS {
        let depth = (line.context / streams).saturating_sub(stand.tokens + 64);
        for speculates in [false, true] {
            let written = write(&mut passes, &tokenizer, streams, depth, stand.tokens, speculates)?;
            let speed = Speed::of(&plan, capacity, (streams, depth, speculates), written, memory_speed);
            told(&speed);
            speeds.push(speed);
        }
    }
    let instead = fit(&[needs], &card, Capacity { slots: 1, ..capacity }, line.memory, &footprint.kinds);
    let instead = instead.err().map(|refused| refused.to_string());
    Ok(Row { line, kv: capacity.kind.name(), planned: plan.total(), taken: taken(), instead, speeds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn speed(speculates: bool, tokens: usize, seconds: f64) -> Speed {
        // 4 GB of weights, 1 GB of keys and values of which one stream reads half.
        let plan = Plan { weights: 4_000_000_000, kv: 1_000_000_000, ..Plan::default() };
        let written = Written { tokens, passes: 100, took: Duration::from_secs_f64(seconds) };
        Speed::of(&plan, Capacity::whole(1, 8192), (1, 4096 - tokens / 2, speculates), written, 3e12)
    }

    #[test]
    fn speeds_are_told_as_parts_of_what_the_memory_allows() {
        let plain = speed(false, 100, 0.3);
        assert!((plain.bytes - 4.5e9).abs() < 1e3 && (plain.tokens_per_second - 333.3).abs() < 0.1, "{plain:?}");
        assert!((plain.of_roofline - 0.5).abs() < 1e-6 && plain.tokens_per_pass == 1.0);
        assert!((plain.limit(450e9) - 100.0).abs() < 1e-3 && (plain.projection(450e9) - 50.0).abs() < 1e-3);
        // Twice as many tokens by the same passes.
        let guessed = speed(true, 200, 0.3);
        assert!((guessed.of_roofline - 0.5).abs() < 1e-6 && (guessed.limit(450e9) - 200.0).abs() < 1e-3);
    }

    #[test]
    fn what_physics_forbids_is_said_with_the_arithmetic() {
        let row = |line: Line| Row {
            line,
            kv: "f16",
            planned: gib(10),
            taken: None,
            instead: None,
            speeds: vec![speed(false, 100, 0.3)],
        };
        let text = row(TABLE[0]).beyond().unwrap();
        assert!(text.contains("120 x 4.50 GB = 540 GB/s") && text.contains("448: 100 tokens/s at most"), "{text}");
        assert_eq!(row(TABLE[2]).beyond(), None);
        assert!(row(TABLE[0]).fits() && !Row { taken: Some(gib(12)), ..row(TABLE[0]) }.fits());
    }
}

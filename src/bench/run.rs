use super::report::{Measurement, Report, SCHEMA, Subject as Measured, Test};
use super::work::Work;
use super::{Device, Machine, Protocol, Subject};
use crate::engine::Error;
use crate::engine::kv_cache::KvCache;
use crate::engine::model::{Batch, Model};
use jiff::Timestamp;
use std::path::Path;
use std::time::Instant;

/// Tokens of a prompt that go through the model in one call, as a worker has it.
const CHUNK: usize = 256;

/// Loads the model and measures it. Calls `told` after each figure.
///
/// # Errors
/// When the model cannot be loaded, or its cache does not fit.
pub fn run(
    path: &Path,
    device: Device,
    threads: Option<usize>,
    protocol: Protocol,
    mut told: impl FnMut(&Measurement),
) -> Result<Report, Error> {
    let protocol = protocol.sorted();
    let start = Instant::now();
    let subject = Subject::load(path, device, threads)?;
    let load_seconds = start.elapsed().as_secs_f64();
    subject.model.settle();
    let name = match device {
        Device::Cpu => "cpu".to_string(),
        Device::Cuda(ordinal) => format!("cuda:{ordinal}"),
    };
    let machine = Machine::here(subject.model.threads(), name, device == Device::Cpu);
    let summary = subject.gguf.summary()?;
    let work = Work::of(&subject.gguf, subject.model.hyper());

    let mut bench = Bench::new(&subject.model, &protocol)?;
    let mut results = Vec::new();
    let mut record = |test, tokens: usize, depth: usize, streams: usize, seconds: Vec<f64>| {
        let cost = match test {
            Test::Prefill => work.prefill(depth, tokens, CHUNK),
            Test::Decode => work.decode(depth, tokens, streams),
        };
        let (tokens_per_second, spread) = median(seconds.iter().map(|seconds| (tokens * streams) as f64 / seconds));
        let roofline = cost.roofline(&machine);
        let roofline_fraction = roofline.map(|roofline| tokens_per_second / roofline);
        let row = Measurement {
            test,
            tokens,
            depth,
            streams,
            tokens_per_second,
            spread,
            bytes_per_token: cost.bytes,
            roofline,
            roofline_fraction,
        };
        told(&row);
        results.push(row);
    };
    for &depth in &protocol.depths {
        if protocol.prompt > 0 {
            let seconds = bench.prefill(depth, protocol.prompt, protocol.repeat)?;
            record(Test::Prefill, protocol.prompt, depth, 1, seconds);
        }
        for &streams in protocol.streams.iter().filter(|_| protocol.generate > 0) {
            let seconds = bench.decode(depth, streams, protocol.generate, protocol.repeat)?;
            record(Test::Decode, protocol.generate, depth, streams, seconds);
        }
    }
    Ok(Report {
        schema: SCHEMA,
        sovereign: env!("CARGO_PKG_VERSION").into(),
        date: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        machine,
        model: Measured {
            file: path.display().to_string(),
            architecture: summary.architecture,
            quantisation: summary.quantisation,
            parameters: summary.parameters,
            bytes: work.bytes,
        },
        protocol,
        load_seconds,
        results,
    })
}

/// The median of these figures, and how far they spread as a part of it.
fn median(figures: impl Iterator<Item = f64>) -> (f64, f64) {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (figures.first(), figures.last()) else { return (0.0, 0.0) };
    let middle = figures[figures.len() / 2];
    (middle, (last - first) / middle)
}

/// A model at work on tokens that mean nothing.
struct Bench<'a> {
    model: &'a Model,
    cache: KvCache,
    batch: Batch,
    vocabulary: u32,
}

impl<'a> Bench<'a> {
    fn new(model: &'a Model, protocol: &Protocol) -> Result<Self, Error> {
        let cache = model.cache(protocol.slots(), protocol.context())?;
        Ok(Bench { model, cache, batch: Batch::new(), vocabulary: model.hyper().vocabulary as u32 })
    }

    /// Some token, another at each place.
    fn token(&self, slot: usize, at: usize) -> u32 {
        (at as u32).wrapping_mul(7919).wrapping_add(slot as u32 * 104_729 + 13) % self.vocabulary
    }

    /// Lets a slot hold exactly `len` tokens.
    fn fill(&mut self, slot: usize, len: usize) -> Result<(), Error> {
        self.cache.truncate(slot, len);
        while self.cache.len(slot) < len {
            let from = self.cache.len(slot);
            self.read(slot, from, len.min(from + CHUNK), len)?;
        }
        Ok(())
    }

    /// Takes tokens of a prompt that ends at `end` through the model.
    fn read(&mut self, slot: usize, from: usize, to: usize, end: usize) -> Result<(), Error> {
        self.batch.clear();
        for at in from..to {
            let token = self.token(slot, at);
            self.batch.push(token, slot, at, at + 1 == end);
        }
        self.model.forward(&mut self.cache, &self.batch).map(drop)
    }

    /// Seconds to read a prompt, each time.
    fn prefill(&mut self, depth: usize, tokens: usize, repeat: usize) -> Result<Vec<f64>, Error> {
        let mut times = Vec::new();
        for _ in 0..=repeat {
            self.fill(0, depth)?;
            let start = Instant::now();
            self.fill(0, depth + tokens)?;
            times.push(start.elapsed().as_secs_f64());
        }
        // The first one warmed caches up.
        Ok(times.split_off(1))
    }

    /// Seconds to write, each time.
    fn decode(&mut self, depth: usize, streams: usize, tokens: usize, repeat: usize) -> Result<Vec<f64>, Error> {
        let mut times = Vec::new();
        for _ in 0..repeat {
            for slot in 0..streams {
                self.fill(slot, depth)?;
            }
            self.step(depth, streams)?;
            let start = Instant::now();
            for at in depth + 1..=depth + tokens {
                self.step(at, streams)?;
            }
            times.push(start.elapsed().as_secs_f64());
        }
        Ok(times)
    }

    /// One token for each stream.
    fn step(&mut self, at: usize, streams: usize) -> Result<(), Error> {
        self.batch.clear();
        for slot in 0..streams {
            let token = self.token(slot, at);
            self.batch.push(token, slot, at, true);
        }
        self.model.forward(&mut self.cache, &self.batch).map(drop)
    }
}

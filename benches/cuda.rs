//! How fast a model is on an NVIDIA card: `cuda MODEL.gguf [all|decode|batch|prefill|trace] [STREAMS] [MULTIPROCESSORS|all] [f16|fp8|q4]`.
//!
//! What is timed is what a worker would wait for: from tokens to logits in the host's memory. `trace` is for a profiler:
//! `ncu --profile-from-start off` sees three steps of so many streams. Tokens are random: only speed is looked at.

use sovereign::engine::gguf::Gguf;
use sovereign::engine::kernels::KvKind;
use sovereign::engine::kernels::cuda::Which;
use sovereign::engine::kv_cache::{Capacity, KvCache};
use sovereign::engine::model::{Batch, Device, Model, Options};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let Some(path) = arguments.next() else {
        println!(
            "SKIPPED: say which model: cargo bench --bench cuda -- MODEL.gguf [all|decode|batch|prefill|trace] [STREAMS] [MULTIPROCESSORS|all] [f16|fp8|q4]"
        );
        return Ok(());
    };
    let what = arguments.next().unwrap_or_else(|| "all".into());
    let streams = arguments.next().map_or(Ok(1), |streams| streams.parse())?;

    let multiprocessors = arguments.next().filter(|most| most != "all").map(|most| most.parse()).transpose()?;
    let kind = arguments.next().unwrap_or_else(|| "f16".into());
    let kind =
        KvKind::ALL.into_iter().find(|known| known.name() == kind).ok_or("keys and values are f16, fp8 or q4")?;

    let begun = Instant::now();
    let gguf = Arc::new(Gguf::open(Path::new(&path))?);
    let model =
        Model::load(gguf, Options { device: Device::Cuda(Which::Number(0)), multiprocessors, ..Options::default() })?;
    println!("loaded in {:.2} s", begun.elapsed().as_secs_f64());
    let wants = |name| what == "all" || what == name;
    let mut bench = Bench { model, kind, random: 1 };

    if wants("decode") {
        for depth in [0, 512, 8192, 16384] {
            let time = bench.decode(1, depth, 128)?;
            println!("decode, 1 stream at {depth:5}: {:7.1} t/s ({:.3} ms)", per_second(1, time), milliseconds(time));
        }
    }
    if wants("batch") {
        for streams in [1, 2, 4, 8, 16, 32] {
            let time = bench.decode(streams, 512, 64)?;
            let total = per_second(streams, time);
            println!("decode, {streams:2} streams at 512: {total:7.1} t/s ({:.3} ms)", milliseconds(time));
        }
    }
    if wants("prefill") {
        for tokens in [64, 128, 256, 512, 1024, 2048, 8192] {
            let mut cache = bench.cache(1, tokens)?;
            bench.prompt(&mut cache, 0, tokens)?;
            let mut times = Vec::new();
            for _ in 0..3 {
                cache.truncate(0, 0);
                let begun = Instant::now();
                bench.prompt(&mut cache, 0, tokens)?;
                times.push(begun.elapsed());
            }
            let time = median(times);
            println!("prefill {tokens:4}: {:8.0} t/s ({:.2} ms)", per_second(tokens, time), milliseconds(time));
        }
    }
    if what == "trace" {
        bench.trace(streams)?;
    }
    Ok(())
}

struct Bench {
    model: Model,
    kind: KvKind,
    random: u64,
}

impl Bench {
    fn token(&mut self) -> u32 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as u32 % self.model.hyper().vocabulary as u32
    }

    fn cache(&self, slots: usize, context: usize) -> Result<KvCache, Error> {
        Ok(self.model.cache_of(Capacity { kind: self.kind, ..Capacity::whole(slots, context) })?)
    }

    fn prompt(&mut self, cache: &mut KvCache, slot: usize, tokens: usize) -> Result<(), Error> {
        let mut batch = Batch::new();
        for position in 0..tokens {
            batch.push(self.token(), slot, position, position + 1 == tokens);
        }
        self.model.forward(cache, &batch)?;
        Ok(())
    }

    /// Shows three steps to a profiler.
    fn trace(&mut self, streams: usize) -> Result<(), Error> {
        // SAFETY: the driver is loaded already, and these two take nothing and return a number.
        let driver = unsafe { libloading::Library::new("libcuda.so.1") }?;
        // SAFETY: the driver has both, and this is their type.
        let (start, stop) = unsafe {
            type Call = unsafe extern "C" fn() -> i32;
            (driver.get::<Call>(b"cuProfilerStart")?, driver.get::<Call>(b"cuProfilerStop")?)
        };
        let mut cache = self.cache(streams, 600)?;
        for slot in 0..streams {
            self.prompt(&mut cache, slot, 512)?;
        }
        for step in 0..3 {
            let mut batch = Batch::new();
            (0..streams).for_each(|slot| batch.push(self.token(), slot, 512 + step, true));
            if step == 0 {
                // SAFETY: as above.
                unsafe { start() };
            }
            self.model.forward(&mut cache, &batch)?;
        }
        // SAFETY: as above.
        unsafe { stop() };
        Ok(())
    }

    /// The median time of a step of `streams` conversations of `depth` tokens.
    fn decode(&mut self, streams: usize, depth: usize, steps: usize) -> Result<Duration, Error> {
        let mut cache = self.cache(streams, depth + steps + 8)?;
        for slot in 0..streams {
            self.prompt(&mut cache, slot, depth)?;
        }
        let mut times = Vec::new();
        for step in 0..steps + 8 {
            let mut batch = Batch::new();
            for slot in 0..streams {
                batch.push(self.token(), slot, depth + step, true);
            }
            let begun = Instant::now();
            self.model.forward(&mut cache, &batch)?;
            times.push(begun.elapsed());
        }
        // The first ones are queued kernel by kernel, then recorded.
        Ok(median(times.split_off(8.min(steps))))
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn per_second(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

//! What an adapter costs: a model alone and with adapters of rank 16 on all its matrices, by turns in one run.
//!
//! ```text
//! cargo bench --bench adapters -- MODEL.gguf [THREADS]
//! ```

use sovereign::engine::blocks::Chain;
use sovereign::engine::gguf::{Gguf, Header, Kind, Writer};
use sovereign::engine::kv_cache::KvCache;
use sovereign::engine::lora::Lora;
use sovereign::engine::model::{Batch, Model, Options};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const RANK: u64 = 16;
/// Adapters that are loaded.
const ADAPTERS: u32 = 8;
/// Tokens of the prompt.
const PROMPT: usize = 512;
/// Tokens of the answer.
const ANSWER: usize = 24;
/// The median of so many runs is told.
const RUNS: usize = 5;

/// An adapter of small numbers for all matrices of the layers.
fn adapter(base: &Header, seed: u32) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut writer = Writer::new();
    writer.set("general.type", "adapter").set("adapter.type", "lora").set("adapter.lora.alpha", 1e-3_f32);
    writer.set("general.architecture", base.metadata().get::<&str>("general.architecture")?);
    let mut state = seed;
    let mut halves = |count: u64| -> Vec<u8> {
        let half = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Between 1 and 2, of either sign.
            ((state >> 16) as u16 & 0x83ff | 0x3c00).to_le_bytes()
        };
        (0..count).flat_map(half).collect()
    };
    for tensor in base.tensors().iter().filter(|tensor| tensor.name.starts_with("blk.") && tensor.dims.len() == 2) {
        for (half, dims) in [("lora_a", [tensor.dims[0], RANK]), ("lora_b", [RANK, tensor.dims[1]])] {
            writer.tensor(&format!("{}.{half}", tensor.name), &dims, Kind::F16, halves(dims[0] * dims[1]));
        }
    }
    Ok(writer.to_vec())
}

/// A model at work for conversations that begin so, one a slot.
struct Bench<'a> {
    model: &'a Model,
    cache: KvCache,
}

impl Bench<'_> {
    fn token(&self, at: usize) -> u32 {
        (at as u32 * 7919 + 13) % self.model.hyper().vocabulary as u32
    }

    /// Seconds to read a prompt in the first slot, and then to write in all.
    fn run(&mut self, roots: &[Chain]) -> Result<[f64; 2], Box<dyn Error>> {
        let begun = Instant::now();
        let mut read = 0.0;
        for (slot, &root) in roots.iter().enumerate() {
            self.cache.blocks().begin(slot, root, &[])?;
            let mut batch = Batch::new();
            // Short ones beside the first: they only have to be there.
            let len = if slot == 0 { PROMPT } else { 32 };
            (0..len).for_each(|at| batch.push(self.token(at + slot), slot, at, at == len - 1));
            self.model.forward(&mut self.cache, &batch)?;
            if slot == 0 {
                read = begun.elapsed().as_secs_f64();
            }
        }
        let begun = Instant::now();
        for at in 0..ANSWER {
            let mut batch = Batch::new();
            (0..roots.len()).for_each(|slot| batch.push(self.token(at), slot, self.cache.len(slot), true));
            self.model.forward(&mut self.cache, &batch)?;
        }
        Ok([read, begun.elapsed().as_secs_f64()])
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo adds `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let Some(path) = arguments.next() else {
        println!("usage: cargo bench --bench adapters -- MODEL.gguf [THREADS]");
        return Ok(());
    };
    let threads = arguments.next().map(|threads| threads.parse()).transpose()?;
    let gguf = Arc::new(Gguf::open(Path::new(&path))?);
    let folder = tempfile::tempdir()?;
    let mut loras = Vec::new();
    for seed in 0..ADAPTERS {
        let file = folder.path().join(format!("{seed}.gguf"));
        std::fs::write(&file, adapter(&gguf, seed)?)?;
        loras.push(Lora::open(&file, &gguf)?);
    }
    let model = Model::load_adapted(gguf, &loras, Options { threads, ..Options::default() })?;
    println!("{} threads; an adapter takes {:.1} MB", model.threads(), loras[0].bytes() as f64 / 1e6);
    let one = |slots: usize| vec![loras[0].root(); slots];
    let each = |slots: usize| loras.iter().map(Lora::root).cycle().take(slots).collect();
    for slots in [1, 4, 8] {
        let kinds = [("alone", vec![Chain::default(); slots]), ("one for all", one(slots)), ("one each", each(slots))];
        let kinds = &kinds[..if slots == 1 { 2 } else { 3 }];
        let mut bench = Bench { model: &model, cache: model.cache(slots, PROMPT + ANSWER)? };
        let mut times = vec![[Vec::new(), Vec::new()]; kinds.len()];
        for _ in 0..RUNS {
            for ((_, roots), times) in kinds.iter().zip(&mut times) {
                let seconds = bench.run(roots)?;
                times.iter_mut().zip(seconds).for_each(|(times, seconds)| times.push(seconds));
            }
        }
        let median = |times: &Vec<f64>| {
            let mut times = times.clone();
            times.sort_by(f64::total_cmp);
            times[RUNS / 2]
        };
        let [read_alone, written_alone] = times[0].each_ref().map(median);
        for ((name, _), times) in kinds.iter().zip(&times) {
            let [read, written] = times.each_ref().map(median);
            println!(
                "{slots} at once, {name:>11}: prompt {:>7.1} tokens/s ({:.3}), answers {:>6.1} tokens/s ({:.3})",
                PROMPT as f64 / read,
                read_alone / read,
                (slots * ANSWER) as f64 / written,
                written_alone / written,
            );
        }
    }
    Ok(())
}

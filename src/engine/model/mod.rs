//! A model: its shape, its weights, and the forward pass of its architecture.
//!
//! Each architecture is a file whose `forward` reads from top to bottom like the paper, in the operations of
//! [`Kernels`](super::kernels::Kernels). A header is checked in full, by the same code that loads, before a weight is read.

mod batch;
mod gemma;
mod hyper;
mod keys;
mod layers;
mod llama;
mod qwen2;
mod qwen3;
mod rope;
mod source;
mod workspace;

#[cfg(test)]
mod tests;

pub(in crate::engine) use batch::Spare;
pub use batch::{Batch, Entry, Logits};
pub use hyper::{Architecture, Hyper};
pub use rope::Rope;
pub use workspace::{ROWS, Workspace};

pub(super) use source::Checker;
pub(super) use workspace::WorkspaceBytes;

use super::Error;
use super::blocks::Blocks;
use super::gguf::Gguf;
use super::kernels::cpu::{Cpu, physical_cores};
use super::kernels::cuda::Cuda;
use super::kernels::{CacheShape, Kernels, Step};
use super::kv_cache::{self, Capacity, Held, KvCache};
use gemma::Gemma3;
use layers::Ends;
use llama::Llama;
use qwen2::Qwen2;
use qwen3::Qwen3;
use source::{Loader, Source};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a model is computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// On the processor.
    #[default]
    Cpu,
    /// On the NVIDIA card of this number.
    Cuda(usize),
}

/// How a model is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Where.
    pub device: Device,
    /// Threads to compute with on the processor; as many as there are physical cores unless said.
    pub threads: Option<usize>,
}

/// A model that answers.
pub struct Model {
    hyper: Hyper,
    loaded: Loaded,
    /// By which caches know whose they are.
    id: u64,
}

/// A model on one of the devices.
enum Loaded {
    Cpu(Box<On<Cpu>>),
    Cuda(Box<On<Cuda>>),
}

/// A model on a device.
struct On<K: Kernels> {
    kernels: K,
    network: Network<K::Matrix, K::Buffer>,
}

/// The weights of one of the architectures.
pub(super) enum Network<M, V> {
    Llama(Llama<M, V>),
    Qwen2(Qwen2<M, V>),
    Qwen3(Qwen3<M, V>),
    Gemma3(Gemma3<M, V>),
}

impl<M, V> Network<M, V> {
    /// Takes all weights from `source`.
    ///
    /// # Errors
    /// When a tensor is missing or unfit.
    pub(super) fn load<S>(source: &mut S, hyper: &Hyper) -> Result<Self, Error>
    where
        S: Source<Matrix = M, Vector = V>,
    {
        Ok(match hyper.architecture {
            Architecture::Llama => Network::Llama(Llama::load(source, hyper)?),
            Architecture::Qwen2 => Network::Qwen2(Qwen2::load(source, hyper)?),
            Architecture::Qwen3 => Network::Qwen3(Qwen3::load(source, hyper)?),
            Architecture::Gemma3 => Network::Gemma3(Gemma3::load(source, hyper)?),
        })
    }

    fn forward<K>(&self, k: &K, hyper: &Hyper, step: &Step, cache: &mut K::Cache, w: &mut Workspace<K>)
    where
        K: Kernels<Matrix = M, Buffer = V>,
    {
        match self {
            Network::Llama(llama) => llama.forward(k, hyper, step, cache, w),
            Network::Qwen2(qwen) => qwen.forward(k, hyper, step, cache, w),
            Network::Qwen3(qwen) => qwen.forward(k, hyper, step, cache, w),
            Network::Gemma3(gemma) => gemma.forward(k, hyper, step, cache, w),
        }
    }

    fn ends(&self) -> &Ends<M, V> {
        match self {
            Network::Llama(llama) => llama.ends(),
            Network::Qwen2(qwen) => qwen.ends(),
            Network::Qwen3(qwen) => qwen.ends(),
            Network::Gemma3(gemma) => gemma.ends(),
        }
    }
}

impl Model {
    /// Loads the model of a file. On a processor its weights stay mapped; they are read once, so that they are in memory.
    ///
    /// # Errors
    /// When the file asks for what isn't supported, or contradicts itself: the tensor or key is named.
    pub fn load(gguf: Arc<Gguf>, options: Options) -> Result<Model, Error> {
        match options.device {
            Device::Cpu => Model::on_cpu(&gguf, Cpu::new(options.threads.unwrap_or_else(physical_cores))),
            Device::Cuda(ordinal) => {
                let hyper = checked(&gguf)?;
                let on = On::load(&gguf, &hyper, Cuda::new(ordinal)?)?;
                Ok(Model::new(hyper, Loaded::Cuda(Box::new(on))))
            }
        }
    }

    /// Loads the model of a file onto this processor.
    fn on_cpu(gguf: &Arc<Gguf>, cpu: Cpu) -> Result<Model, Error> {
        let hyper = checked(gguf)?;
        let on = On::load(gguf, &hyper, cpu)?;
        warm(gguf, &on.kernels);
        Ok(Model::new(hyper, Loaded::Cpu(Box::new(on))))
    }

    fn new(hyper: Hyper, loaded: Loaded) -> Model {
        static MODELS: AtomicU64 = AtomicU64::new(0);
        Model { hyper, loaded, id: MODELS.fetch_add(1, Ordering::Relaxed) }
    }

    /// The figures of its shape.
    pub fn hyper(&self) -> &Hyper {
        &self.hyper
    }

    /// Threads of the processor that it computes with.
    pub fn threads(&self) -> usize {
        match &self.loaded {
            Loaded::Cpu(on) => on.kernels.pool().threads(),
            Loaded::Cuda(_) => 1,
        }
    }

    /// An empty cache for `slots` conversations of `context` tokens each.
    ///
    /// # Errors
    /// When either is zero, or the memory is not to be had.
    pub fn cache(&self, slots: usize, context: usize) -> Result<KvCache, Error> {
        self.cache_of(Capacity { slots, context, tokens: None })
    }

    /// An empty cache of this size.
    ///
    /// # Errors
    /// When it has room for nothing, or the memory is not to be had.
    pub fn cache_of(&self, capacity: Capacity) -> Result<KvCache, Error> {
        if capacity.slots == 0 || capacity.context == 0 {
            return Err(Error::Request("a cache needs at least one slot, and a context of at least one token".into()));
        }
        let held = match &self.loaded {
            Loaded::Cpu(on) => Held::Cpu(Box::new(on.cache(&self.hyper, capacity)?)),
            Loaded::Cuda(on) => Held::Cuda(Box::new(on.cache(&self.hyper, capacity)?)),
        };
        Ok(KvCache::new(held, self.id, capacity))
    }

    /// Takes a batch through the model: its tokens are added to the cache, and the logits that it wants come back.
    ///
    /// # Errors
    /// When a token, slot or position is out of bounds or order, or the results are no numbers. The cache then holds what
    /// it held before.
    pub fn forward(&self, cache: &mut KvCache, batch: &Batch) -> Result<Logits, Error> {
        if cache.model != self.id {
            return Err(Error::Request("the cache belongs to another model".into()));
        }
        let entries = batch.entries();
        let vocabulary = self.hyper.vocabulary;
        if let Some(entry) = entries.iter().find(|entry| entry.token as usize >= vocabulary) {
            let problem = format!("there is no token {}; the vocabulary has {vocabulary} of them", entry.token);
            return Err(Error::Request(problem));
        }
        cache.reserve(entries)?;

        let KvCache { held, id, blocks, spare, .. } = &mut *cache;
        let spare = spare.clone();
        let mut logits = spare.take();
        match (&self.loaded, held) {
            (Loaded::Cpu(on), Held::Cpu(held)) => on.forward(&self.hyper, held, *id, blocks, entries, &mut logits),
            (Loaded::Cuda(on), Held::Cuda(held)) => on.forward(&self.hyper, held, *id, blocks, entries, &mut logits),
            _ => return Err(Error::Request("the cache belongs to another device".into())),
        }
        check_finite(&logits)?;
        cache.commit(entries);
        Ok(Logits::new(logits, vocabulary, spare))
    }
}

impl<K: Kernels> On<K> {
    fn load(gguf: &Arc<Gguf>, hyper: &Hyper, kernels: K) -> Result<Self, Error> {
        let network = Network::load(&mut Loader::new(gguf, &kernels), hyper)?;
        Ok(On { kernels, network })
    }

    fn cache(&self, hyper: &Hyper, capacity: Capacity) -> Result<kv_cache::On<K>, Error> {
        let Hyper { layers, kv_heads: heads, head: size, .. } = *hyper;
        let memory = self.kernels.cache(CacheShape { layers, blocks: capacity.blocks(), heads, size })?;
        Ok(kv_cache::On { memory, workspace: Workspace::new(&self.kernels, hyper, capacity)? })
    }

    /// Appends the logits of the entries that want them, a row each.
    fn forward(
        &self,
        hyper: &Hyper,
        held: &mut kv_cache::On<K>,
        cache: u64,
        blocks: &mut Blocks,
        entries: &[Entry],
        logits: &mut Vec<f32>,
    ) {
        let On { kernels: k, network } = self;
        let kv_cache::On { memory, workspace: w } = held;
        blocks.take_copies().into_iter().for_each(|copy| k.copy_block(memory, copy));
        for entries in entries.chunks(w.rows) {
            let step = step(entries, blocks.tables());
            let (first, others) = step.wanted.split_at(step.wanted.len().min(w.logit_rows));
            k.pass(&step, cache, || {
                network.forward(k, hyper, &step, memory, w);
                if !first.is_empty() {
                    network.ends().logits(k, hyper, first, w);
                }
            });
            if !first.is_empty() {
                k.read(&w.logits, first.len() * hyper.vocabulary, logits);
            }
            for rows in others.chunks(w.logit_rows) {
                network.ends().logits(k, hyper, rows, w);
                k.read(&w.logits, rows.len() * hyper.vocabulary, logits);
            }
        }
    }
}

/// Whether all logits are numbers, a stretch at a time: who leaves at the first that is none looks at one at a time.
fn check_finite(logits: &[f32]) -> Result<(), Error> {
    let sound = |stretch: &&[f32]| stretch.iter().fold(true, |sound, logit| sound & logit.is_finite());
    match logits.chunks(4096).find(|stretch| !sound(stretch)) {
        None => Ok(()),
        Some(stretch) => {
            let value = stretch.iter().copied().find(|logit| !logit.is_finite()).unwrap_or(f32::NAN);
            Err(Error::NotFinite(value))
        }
    }
}

/// The shape of a file's model, all of whose tensors are there, and no others.
///
/// # Errors
/// When not; the key or tensor is named.
fn checked(gguf: &Gguf) -> Result<Hyper, Error> {
    let hyper = Hyper::of(gguf)?;
    let mut checker = Checker::new(gguf);
    Network::load(&mut checker, &hyper)?;
    checker.finish()?;
    Ok(hyper)
}

fn step<'a>(entries: &[Entry], tables: &'a [Vec<u32>]) -> Step<'a> {
    Step {
        tokens: entries.iter().map(|entry| entry.token).collect(),
        slots: entries.iter().map(|entry| entry.slot).collect(),
        positions: entries.iter().map(|entry| entry.position).collect(),
        wanted: (0..entries.len()).filter(|&row| entries[row].wants_logits).collect(),
        tables,
    }
}

/// Reads all weights into the page cache, so that the first answer doesn't wait for the disk.
fn warm(gguf: &Gguf, kernels: &Cpu) {
    const PAGE: usize = 4096;
    const STRETCH: usize = 8 << 20;
    for bytes in gguf.maps() {
        // Both are advice: where the system does not take it, reading below does the same more slowly.
        let _ = bytes.advise(memmap2::Advice::WillNeed);
        kernels.pool().run(bytes.len().div_ceil(STRETCH), |stretch| {
            let from = stretch * STRETCH;
            for at in (from..bytes.len().min(from + STRETCH)).step_by(PAGE) {
                std::hint::black_box(bytes[at]);
            }
        });
    }
}

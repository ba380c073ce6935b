//! A model: its shape, its weights, and the forward pass of its architecture.
//!
//! Each architecture is a file whose `forward` reads from top to bottom like the paper, in the operations of
//! [`Kernels`](super::kernels::Kernels). A header is checked in full, by the same code that loads, before a weight is read.

mod batch;
mod gemma;
mod hyper;
mod layers;
mod llama;
mod qwen;
mod source;
mod workspace;

#[cfg(test)]
mod tests;

pub use batch::{Batch, Entry, Logits};
pub use hyper::{Architecture, Hyper};
pub use workspace::{ROWS, Workspace};

pub(super) use source::Checker;
pub(super) use workspace::WorkspaceBytes;

use super::Error;
use super::gguf::Gguf;
use super::kernels::cpu::{Cpu, physical_cores};
use super::kernels::{CacheShape, Kernels, Step};
use super::kv_cache::KvCache;
use gemma::Gemma3;
use layers::Ends;
use llama::Llama;
use qwen::Qwen2;
use source::{Loader, Source};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a model is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Threads to compute with; as many as there are physical cores unless said.
    pub threads: Option<usize>,
}

/// A model that answers.
pub struct Model {
    hyper: Hyper,
    network: Network<<Cpu as Kernels>::Matrix, <Cpu as Kernels>::Buffer>,
    kernels: Cpu,
    /// By which caches know whose they are.
    id: u64,
}

/// The weights of one of the architectures.
pub(super) enum Network<M, V> {
    Llama(Llama<M, V>),
    Qwen2(Qwen2<M, V>),
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
            Network::Gemma3(gemma) => gemma.forward(k, hyper, step, cache, w),
        }
    }

    fn ends(&self) -> &Ends<M, V> {
        match self {
            Network::Llama(llama) => llama.ends(),
            Network::Qwen2(qwen) => qwen.ends(),
            Network::Gemma3(gemma) => gemma.ends(),
        }
    }
}

impl Model {
    /// Loads the model of a file. Its weights stay mapped; they are read once, so that they are in memory.
    ///
    /// # Errors
    /// When the file asks for what isn't supported, or contradicts itself: the tensor or key is named.
    pub fn load(gguf: Arc<Gguf>, options: Options) -> Result<Model, Error> {
        let hyper = Hyper::of(&gguf)?;
        check(&gguf, &hyper)?;
        let kernels = Cpu::new(options.threads.unwrap_or_else(physical_cores));
        let network = Network::load(&mut Loader::new(&gguf, &kernels), &hyper)?;
        warm(&gguf, &kernels);
        static MODELS: AtomicU64 = AtomicU64::new(0);
        Ok(Model { hyper, network, kernels, id: MODELS.fetch_add(1, Ordering::Relaxed) })
    }

    /// The figures of its shape.
    pub fn hyper(&self) -> &Hyper {
        &self.hyper
    }

    /// Threads that it computes with.
    pub fn threads(&self) -> usize {
        self.kernels.pool().threads()
    }

    /// An empty cache for `slots` conversations of `context` tokens each.
    ///
    /// # Errors
    /// When either is zero, or the memory is not to be had.
    pub fn cache(&self, slots: usize, context: usize) -> Result<KvCache, Error> {
        if slots == 0 || context == 0 {
            return Err(Error::Request("a cache needs at least one slot, and a context of at least one token".into()));
        }
        let Hyper { layers, kv_heads: heads, head: size, .. } = self.hyper;
        let memory = self.kernels.cache(CacheShape { layers, slots, context, heads, size })?;
        let workspace = Workspace::new(&self.kernels, &self.hyper, slots, context)?;
        Ok(KvCache::new(memory, workspace, self.id))
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
        let lengths = cache.extended(entries)?;

        let wanted = entries.iter().filter(|entry| entry.wants_logits).count();
        let mut logits = Vec::with_capacity(wanted * vocabulary);
        for entries in entries.chunks(cache.workspace.rows) {
            let step = step(entries);
            let w = &mut cache.workspace;
            self.network.forward(&self.kernels, &self.hyper, &step, &mut cache.memory, w);
            for rows in step.wanted.chunks(w.logit_rows) {
                self.network.ends().logits(&self.kernels, &self.hyper, rows, w);
                logits.extend(self.kernels.download(&w.logits, rows.len() * vocabulary));
            }
        }
        if let Some(&value) = logits.iter().find(|value| !value.is_finite()) {
            return Err(Error::NotFinite(value));
        }
        cache.commit(lengths);
        Ok(Logits::new(logits, vocabulary))
    }
}

/// Whether all tensors that a model of this shape needs are there, and no others.
///
/// # Errors
/// When not; the tensor is named.
fn check(gguf: &Gguf, hyper: &Hyper) -> Result<(), Error> {
    let mut checker = Checker::new(gguf);
    Network::load(&mut checker, hyper)?;
    checker.finish()
}

fn step(entries: &[Entry]) -> Step {
    Step {
        tokens: entries.iter().map(|entry| entry.token).collect(),
        slots: entries.iter().map(|entry| entry.slot).collect(),
        positions: entries.iter().map(|entry| entry.position).collect(),
        wanted: (0..entries.len()).filter(|&row| entries[row].wants_logits).collect(),
    }
}

/// Reads all weights into the page cache, so that the first answer doesn't wait for the disk.
fn warm(gguf: &Gguf, kernels: &Cpu) {
    const PAGE: usize = 4096;
    const STRETCH: usize = 8 << 20;
    // Both are advice: where the system does not take it, reading below does the same more slowly.
    let _ = gguf.map().advise(memmap2::Advice::WillNeed);
    let bytes = gguf.map();
    kernels.pool().run(bytes.len().div_ceil(STRETCH), |stretch| {
        let from = stretch * STRETCH;
        for at in (from..bytes.len().min(from + STRETCH)).step_by(PAGE) {
            std::hint::black_box(bytes[at]);
        }
    });
}

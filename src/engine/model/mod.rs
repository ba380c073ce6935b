//! A model: its shape, its weights, and the forward pass of its architecture.
//!
//! Decoders answer: they extend conversations in a cache. Encoders embed, and so do decoders that were made for it:
//! [`Embedder`]. Each architecture is a file whose `forward` reads from top to bottom like the paper, in the operations of
//! [`Kernels`](super::kernels::Kernels). A header is checked in full, by the same code that loads, before a weight is read.

mod batch;
mod bert;
mod check;
mod embedder;
mod encoder;
mod gemma;
mod hyper;
mod keys;
mod layers;
mod llama;
mod network;
mod nomic;
mod pass;
mod pooling;
mod qwen2;
mod qwen3;
mod rope;
mod source;
mod workspace;

#[cfg(test)]
pub(super) mod tests;

pub(in crate::engine) use batch::Spare;
pub use batch::{Batch, Entry, Logits};
pub(in crate::engine) use check::{Checked, check_kind, checked};
pub use embedder::Embedder;
pub use hyper::{Architecture, Hyper};
pub use pooling::Pooling;
pub use rope::Rope;
pub use workspace::{ROWS, Workspace};

pub(super) use workspace::{Lengths, WorkspaceBytes};

use super::Error;
use super::blocks::Chain;
use super::footprint::OnCard;
use super::gguf::Gguf;
use super::kernels::cpu::{Cpu, Isa, physical_cores};
use super::kernels::cuda::need::Needs;
use super::kernels::cuda::{Cuda, Image, Which};
use super::kernels::{Kernels, Results};
use super::kv_cache::{Capacity, Held, KvCache};
use super::lora::Lora;
use super::prefix_cache::{Identity, PrefixCache, Settings, Warn};
use encoder::Encoder;
use network::Network;
use pass::{On, Output};
use source::Loader;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a model is computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// On the processor.
    #[default]
    Cpu,
    /// On this NVIDIA card.
    Cuda(Which),
}

/// How a model is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Where.
    pub device: Device,
    /// Threads to compute with on the processor; as many as there are physical cores unless said.
    pub threads: Option<usize>,
    /// Instructions of the processor to compute with; the best that it has unless said.
    pub isa: Option<Isa>,
    /// Multiprocessors of a card that products and attention take; all unless said.
    pub multiprocessors: Option<usize>,
    /// Bytes of a card's memory that may be taken, besides the driver's own for this process; all unless said.
    pub vram: Option<u64>,
    /// Bytes of memory that a card is taken to have, if fewer than it has: what passes take is made to measure.
    pub memory: Option<u64>,
}

/// A model that answers.
pub struct Model {
    hyper: Hyper,
    loaded: Loaded,
    /// Where the conversations of each adapter begin.
    roots: Vec<Chain>,
    /// By which caches know whose they are.
    id: u64,
}

/// A model on one of the devices.
enum Loaded {
    Cpu(Box<On<Cpu>>),
    Cuda(Box<On<Cuda>>, Needs),
    Encoder(Box<embedder::OnCpu>),
}

impl Model {
    /// Loads the model of a file. All weights are read, so that they are in memory.
    ///
    /// # Errors
    /// When the file asks for what isn't supported, or contradicts itself: the tensor or key is named.
    pub fn load(gguf: Arc<Gguf>, options: Options) -> Result<Model, Error> {
        Model::load_adapted(gguf, &[], options)
    }

    /// The same with adapters, which must have been opened for this file. A conversation is one's whose
    /// [root](Lora::root) it [begins](Blocks::begin) with.
    ///
    /// # Errors
    /// As [`load`](Self::load), and when an adapter does not fit the model or the device.
    pub fn load_adapted(gguf: Arc<Gguf>, adapters: &[Lora], options: Options) -> Result<Model, Error> {
        Model::load_kept(gguf, adapters, options, None)
    }

    /// The same onto a card whose weights are kept in such an image: taken from there if it holds them, which is as quick as
    /// the bus is, and [kept](Cuda::keep_weights) there from then on.
    ///
    /// # Errors
    /// As [`load_adapted`](Self::load_adapted).
    pub fn load_kept(
        gguf: Arc<Gguf>,
        adapters: &[Lora],
        options: Options,
        image: Option<Image>,
    ) -> Result<Model, Error> {
        match options.device {
            Device::Cpu => {
                let isa = options.isa.unwrap_or_else(Isa::detect);
                let cpu = Cpu::with_isa(options.threads.unwrap_or_else(physical_cores), isa);
                Model::on_cpu(&gguf, adapters, cpu)
            }
            Device::Cuda(which) => {
                let Checked { hyper, on_card, .. } = checked(&gguf, adapters)?;
                let name = hyper.architecture.name();
                let refused = || Error::Unsupported(format!("{name} models run on the processor: --device cpu"));
                if hyper.architecture.is_encoder() {
                    return Err(refused());
                }
                if let Some(lora) = adapters.first() {
                    return Err(lora.refuse(source::NOT_HERE));
                }
                let load = |expects: bool| {
                    let device = Cuda::new(which, options.multiprocessors, options.vram, options.memory)?;
                    if expects {
                        device.expect();
                    }
                    let network = Network::load(&mut Loader::new(&gguf, adapters, &device), &hyper)?;
                    Ok::<_, Error>((network.ok_or_else(refused)?, device))
                };
                let expects = image.as_ref().is_some_and(Image::is_whole);
                let (mut network, mut device) = load(expects)?;
                let image = if expects { device.take(image) } else { image };
                if expects && image.is_some() {
                    // The card cannot hold them twice.
                    drop((network, device));
                    (network, device) = load(false)?;
                }
                if let Some(image) = image {
                    device.keep_in(image);
                }
                // What cards do not know was refused when it was loaded.
                let OnCard::Yes(needs) = on_card else { return Err(refused()) };
                Ok(Model::new(hyper, adapters, Loaded::Cuda(Box::new(On { kernels: device, network }), needs)))
            }
        }
    }

    /// Loads the model of a file onto this processor.
    fn on_cpu(gguf: &Arc<Gguf>, adapters: &[Lora], cpu: Cpu) -> Result<Model, Error> {
        let Checked { hyper, .. } = checked(gguf, adapters)?;
        for map in gguf.maps() {
            // Advice, so that the disk reads ahead: where the system does not take it, all is read more slowly.
            let _ = map.advise(memmap2::Advice::WillNeed);
        }
        let encoder = Encoder::load(&mut Loader::new(gguf, &[], &cpu), &hyper)?;
        let network = Network::load(&mut Loader::new(gguf, adapters, &cpu), &hyper)?;
        let loaded = match (encoder, network) {
            (Some(encoder), _) => Loaded::Encoder(Box::new(embedder::OnCpu { kernels: cpu, encoder })),
            (None, Some(network)) => Loaded::Cpu(Box::new(On { kernels: cpu, network })),
            (None, None) => return Err(Error::Unsupported("it neither answers nor embeds".into())),
        };
        Ok(Model::new(hyper, adapters, loaded))
    }

    fn new(hyper: Hyper, adapters: &[Lora], loaded: Loaded) -> Model {
        static MODELS: AtomicU64 = AtomicU64::new(0);
        let roots = adapters.iter().map(Lora::root).collect();
        Model { hyper, loaded, roots, id: MODELS.fetch_add(1, Ordering::Relaxed) }
    }

    /// The figures of its shape.
    pub fn hyper(&self) -> &Hyper {
        &self.hyper
    }

    /// Returns when it computes as quickly as it will: it answers before all weights are laid out as that needs.
    pub fn settle(&self) {
        match &self.loaded {
            Loaded::Cpu(on) => on.kernels.settle(),
            Loaded::Encoder(on) => on.kernels.settle(),
            Loaded::Cuda(on, _) => on.kernels.settle(),
        }
    }

    /// Threads of the processor that it computes with.
    pub fn threads(&self) -> usize {
        match &self.loaded {
            Loaded::Cpu(on) => on.kernels.pool().threads(),
            Loaded::Encoder(on) => on.kernels.pool().threads(),
            Loaded::Cuda(..) => 1,
        }
    }

    /// Gives a card's memory back; the driver's own stays. Weights, and what its cache holds, are in the host's memory then;
    /// what other caches of it hold is lost. Until it is [woken](Self::wake) it computes nothing. Bytes of the host's memory
    /// that this takes.
    ///
    /// # Errors
    /// It is on no card, or the host has no such memory: nothing has changed then.
    pub fn sleep(&self, cache: &mut KvCache) -> Result<u64, Error> {
        let card = self.on_card()?;
        let mut cached = Vec::new();
        if let (Held::Cuda(held), false) = (&mut cache.held, card.is_asleep()) {
            cache.blocks.take_copies().into_iter().for_each(|copy| card.copy_block(&mut held.memory, copy));
            cached = held.memory.stretches(&cache.blocks.held());
        }
        Ok(card.sleep(&cached)?)
    }

    /// Gives back to a card what its cache does not use, but for the room of one whole conversation: for good. Those that go on
    /// go on. Bytes of that.
    ///
    /// # Errors
    /// It is on no card, or sleeps.
    pub fn shrink(&self, cache: &mut KvCache) -> Result<u64, Error> {
        let card = self.on_card()?;
        let Held::Cuda(held) = &mut cache.held else { return Ok(0) };
        if card.is_asleep() {
            return Err(Error::Request("the model sleeps: all is given back but what the driver holds".into()));
        }
        let used = cache.blocks.used();
        cache.blocks.shrink(used).map_err(|full| Error::Request(full.to_string()))?;
        cache.blocks.take_copies().into_iter().for_each(|copy| card.copy_block(&mut held.memory, copy));
        Ok(held.memory.shrink(card.device(), cache.blocks.count()) as u64)
    }

    /// Brings it all back.
    ///
    /// # Errors
    /// It is on no card, or the card's memory is another one's by now: it goes on sleeping.
    pub fn wake(&self) -> Result<(), Error> {
        Ok(self.on_card()?.wake()?)
    }

    /// The card that it is on.
    ///
    /// # Errors
    /// It is on none.
    pub fn on_card(&self) -> Result<&Cuda, Error> {
        match &self.loaded {
            Loaded::Cuda(on, _) => Ok(&on.kernels),
            _ => Err(Error::Request("a model on the processor has nothing to give back".into())),
        }
    }

    /// An empty cache for `slots` conversations of `context` tokens each.
    ///
    /// # Errors
    /// When either is zero, or the memory is not to be had.
    pub fn cache(&self, slots: usize, context: usize) -> Result<KvCache, Error> {
        self.cache_of(Capacity::whole(slots, context))
    }

    /// An empty cache of this size.
    ///
    /// # Errors
    /// When it has room for nothing, or the memory is not to be had.
    pub fn cache_of(&self, capacity: Capacity) -> Result<KvCache, Error> {
        if capacity.slots == 0 || capacity.context == 0 {
            return Err(Error::Request("a cache needs at least one slot, and a context of at least one token".into()));
        }
        check_kind(&self.hyper, capacity.kind)?;
        let held = match &self.loaded {
            Loaded::Cpu(on) => Held::Cpu(Box::new(on.cache(&self.hyper, capacity)?)),
            Loaded::Cuda(on, needs) => {
                let card = on.kernels.device().info().card();
                let Lengths { rows, logit_rows } = Lengths::new(on.kernels.rows_at_once(), capacity);
                on.kernels.reserve(&needs.scratch(&card, [rows, logit_rows], capacity.slots, capacity.context))?;
                Held::Cuda(Box::new(on.cache(&self.hyper, capacity)?))
            }
            Loaded::Encoder(_) => return Err(Error::Request("an encoder holds no conversations".into())),
        };
        Ok(KvCache::new(held, self.id, capacity))
    }

    /// Keeps on disk what a cache of this model holds of conversations that are over, and finds it there again. `model` is
    /// what the file is; what else matters is added.
    ///
    /// # Errors
    /// The model isn't on the processor, or there are no threads.
    pub fn keep_prefixes(
        &self,
        cache: &mut KvCache,
        settings: &Settings,
        model: Identity,
        warn: Warn,
    ) -> Result<(), Error> {
        let (Loaded::Cpu(on), Held::Cpu(held)) = (&self.loaded, &cache.held) else {
            let problem =
                "a prefix cache on disk is for models that answer on the processor: leave it out, or --device cpu";
            return Err(Error::Unsupported(problem.into()));
        };
        let shape = held.memory.shape();
        let identity = model.and(&format!("{:?}", self.hyper)).and(on.kernels.isa().name()).and(shape.kind.name());
        let identity = identity.and(if self.hyper.rope.is_far(held.workspace.context) { "far" } else { "near" });
        let opened = PrefixCache::open(settings, identity, shape.block_bytes(), cache.slots(), warn);
        let none = |error| Error::Request(format!("there is no thread for the prefix cache: {error}"));
        cache.prefixes = Some(opened.map_err(none)?);
        Ok(())
    }

    /// Takes a batch through the model: its tokens are added to the cache, and the logits that it wants come back.
    ///
    /// # Errors
    /// When a token, slot or position is out of bounds or order, or the results are no numbers. The cache then holds what
    /// it held before.
    pub fn forward(&self, cache: &mut KvCache, batch: &Batch) -> Result<Logits, Error> {
        let spare = cache.spare.clone();
        let mut logits = spare.take();
        self.run(cache, batch, Output::Logits, &mut logits)?;
        Ok(Logits::new(logits, self.hyper.vocabulary, spare))
    }

    /// The same, for what is wanted of those entries that want something: appends a row each to `out`.
    fn run(&self, cache: &mut KvCache, batch: &Batch, output: Output, out: &mut Results) -> Result<(), Error> {
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

        let KvCache { held, id, blocks, .. } = &mut *cache;
        let sound = match (&self.loaded, held) {
            (Loaded::Cpu(on), Held::Cpu(held)) => on.forward(self, held, *id, blocks, entries, output, out),
            (Loaded::Cuda(on, _), _) if on.kernels.is_asleep() => {
                return Err(Error::Request("the model sleeps: wake it first".into()));
            }
            (Loaded::Cuda(on, _), Held::Cuda(held)) => on.forward(self, held, *id, blocks, entries, output, out),
            _ => return Err(Error::Request("the cache belongs to another device".into())),
        };
        if !sound {
            let found = out.values().iter().copied().find(|value| !value.is_finite());
            return Err(Error::NotFinite(found.unwrap_or(f32::NAN)));
        }
        cache.commit(entries);
        cache.spill();
        Ok(())
    }
}

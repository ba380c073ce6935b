//! A model: its shape, its weights, and the forward pass of its architecture.
//!
//! Decoders answer: they extend conversations in a cache. Encoders embed, and so do decoders that were made for it:
//! [`Embedder`]. Each architecture is a file whose `forward` reads from top to bottom like the paper, in the operations of
//! [`Kernels`](super::kernels::Kernels). A header is checked in full, by the same code that loads, before a weight is read.

mod batch;
mod bert;
mod embedder;
mod encoder;
mod gemma;
mod hyper;
mod keys;
mod layers;
mod llama;
mod nomic;
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
pub use embedder::Embedder;
pub use hyper::{Architecture, Hyper};
pub use pooling::Pooling;
pub use rope::Rope;
pub use workspace::{ROWS, Workspace};

pub(super) use workspace::{Lengths, WorkspaceBytes};

use super::Error;
use super::blocks::{Blocks, Chain};
use super::footprint::OnCard;
use super::gguf::{Gguf, Header};
use super::kernels::cpu::{Cpu, Isa, physical_cores};
use super::kernels::cuda::need::Needs;
use super::kernels::cuda::{Cuda, Image, Which};
use super::kernels::{Adapted, CacheShape, Kernels, KvKind, Results, Step};
use super::kv_cache::{self, Capacity, Held, KvCache};
use super::lora::Lora;
use super::prefix_cache::{Identity, PrefixCache, Settings, Warn};
use encoder::Encoder;
use gemma::Gemma3;
use layers::Ends;
use llama::Llama;
use qwen2::Qwen2;
use qwen3::Qwen3;
use source::{Checker, Loader, Source};
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

/// What is wanted of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// What follows. [vocabulary]
    Logits,
    /// What the last layer gives, normalised. [width]
    States,
}

/// A model on a device.
struct On<K: Kernels> {
    kernels: K,
    network: Network<K::Matrix, K::Buffer>,
}

/// The weights of one of the architectures.
enum Network<M, V> {
    Llama(Llama<M, V>),
    Qwen2(Qwen2<M, V>),
    Qwen3(Qwen3<M, V>),
    Gemma3(Gemma3<M, V>),
}

impl<M, V> Network<M, V> {
    /// Takes all weights from `source`; none where the model is no decoder.
    ///
    /// # Errors
    /// When a tensor is missing or unfit.
    fn load<S>(source: &mut S, hyper: &Hyper) -> Result<Option<Self>, Error>
    where
        S: Source<Matrix = M, Vector = V>,
    {
        Ok(Some(match hyper.architecture {
            Architecture::Llama => Network::Llama(Llama::load(source, hyper)?),
            Architecture::Qwen2 => Network::Qwen2(Qwen2::load(source, hyper)?),
            Architecture::Qwen3 => Network::Qwen3(Qwen3::load(source, hyper)?),
            Architecture::Gemma3 => Network::Gemma3(Gemma3::load(source, hyper)?),
            Architecture::Bert | Architecture::NomicBert => return Ok(None),
        }))
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

impl<K: Kernels> On<K> {
    fn cache(&self, hyper: &Hyper, capacity: Capacity) -> Result<kv_cache::On<K>, Error> {
        let Hyper { layers, kv_heads: heads, head: size, .. } = *hyper;
        let memory =
            self.kernels.cache(CacheShape { layers, blocks: capacity.blocks(), heads, size, kind: capacity.kind })?;
        let workspace = Workspace::new(&self.kernels, hyper, capacity)?;
        Ok(kv_cache::On { memory, workspace, step: Step::default() })
    }

    /// Appends what is wanted of the entries that want something, a row each; tells whether all of it are numbers.
    fn forward(
        &self,
        Model { hyper, roots, .. }: &Model,
        held: &mut kv_cache::On<K>,
        cache: u64,
        blocks: &mut Blocks,
        entries: &[Entry],
        output: Output,
        out: &mut Results,
    ) -> bool {
        let On { kernels: k, network } = self;
        let kv_cache::On { memory, workspace: w, step: spare } = held;
        blocks.take_copies().into_iter().for_each(|copy| k.copy_block(memory, copy));
        let at_once = match output {
            Output::Logits => w.logit_rows,
            Output::States => w.rows,
        };
        let compute = |step: &Step, rows: &[usize], w: &mut Workspace<K>| match output {
            Output::Logits => network.ends().logits(k, hyper, step, rows, w),
            Output::States => network.ends().states(k, hyper, rows, w),
        };
        let mut sound = true;
        let mut read = |rows: &[usize], w: &Workspace<K>, out: &mut Results| {
            sound &= match output {
                Output::Logits => k.land(&w.logits, rows.len() * hyper.vocabulary, out),
                Output::States => k.land(&w.h, rows.len() * hyper.width, out),
            }
        };
        for entries in entries.chunks(w.rows) {
            let step = step(std::mem::take(spare), entries, blocks, roots);
            let (first, others) = step.wanted.split_at(step.wanted.len().min(at_once));
            k.pass(&step, cache, || {
                network.forward(k, hyper, &step, memory, w);
                if !first.is_empty() {
                    compute(&step, first, w);
                }
            });
            if !first.is_empty() {
                read(first, w, out);
            }
            for rows in others.chunks(at_once) {
                compute(&step, rows, w);
                read(rows, w, out);
            }
            let Step { tokens, slots, positions, wanted, .. } = step;
            *spare = Step { tokens, slots, positions, wanted, ..Step::default() };
        }
        sound
    }
}

/// That the keys and values of a model can be stored so.
///
/// # Errors
/// They cannot.
pub(super) fn check_kind(hyper: &Hyper, kind: KvKind) -> Result<(), Error> {
    let (head, architecture) = (hyper.head, hyper.architecture);
    if !kind.fits(head) {
        let problem = format!("heads of {head} dimensions cannot be stored as {}; take f16 or fp8", kind.name());
        return Err(Error::Unsupported(problem));
    }
    // Measured: a divergence of 6, where a Gemma's is 0.2.
    if (kind, architecture) == (KvKind::Q4, Architecture::Qwen2) {
        let problem = "the keys of a qwen2 stand out too far for four bits, as they have biases; take f16 or fp8";
        return Err(Error::Unsupported(problem.into()));
    }
    Ok(())
}

/// What a header was found to tell of.
pub(super) struct Checked {
    /// The model's shape.
    pub hyper: Hyper,
    /// The number of floats in its vectors.
    pub floats: u64,
    /// Whether a card can serve it.
    pub on_card: OnCard,
}

/// The shape of a model, all of whose tensors are there, and no others, as are those that its adapters add to.
///
/// # Errors
/// When not; the key or tensor is named.
pub(super) fn checked(header: &Header, adapters: &[Lora]) -> Result<Checked, Error> {
    let hyper = Hyper::of(header)?;
    let mut checker = Checker::new(header, adapters);
    Network::load(&mut checker, &hyper)?;
    Encoder::load(&mut checker, &hyper)?;
    checker.finish()?;
    let Checker { floats, needs, mut problem, .. } = checker;
    if hyper.architecture.is_encoder() {
        problem = Some(format!("{} models run on the processor", hyper.architecture.name()));
    }
    if !adapters.is_empty() {
        problem = Some(source::NOT_HERE.into());
    }
    let on_card = match problem {
        Some(problem) => OnCard::No(problem),
        None => OnCard::Yes(Needs {
            width: hyper.width,
            queries: hyper.queries(),
            keys: hyper.keys(),
            hidden: hyper.hidden,
            head: hyper.head,
            kv_heads: hyper.kv_heads,
            layers: hyper.layers,
            vocabulary: hyper.vocabulary,
            ..needs
        }),
    };
    Ok(Checked { hyper, floats, on_card })
}

/// The step of these entries, in the memory of an earlier one.
fn step<'a>(spare: Step<'_>, entries: &[Entry], blocks: &'a Blocks, roots: &[Chain]) -> Step<'a> {
    let Step { mut tokens, mut slots, mut positions, mut wanted, .. } = spare;
    refill(&mut tokens, entries.iter().map(|entry| entry.token));
    refill(&mut slots, entries.iter().map(|entry| entry.slot));
    refill(&mut positions, entries.iter().map(|entry| entry.position));
    refill(&mut wanted, (0..entries.len()).filter(|&row| entries[row].wants_logits));
    let adapted = adapted(entries, blocks, roots);
    Step { tokens, slots, positions, wanted, adapted, tables: blocks.tables() }
}

fn refill<T>(list: &mut Vec<T>, with: impl Iterator<Item = T>) {
    list.clear();
    list.extend(with);
}

/// Which entries belong to conversations that begin with one of the adapters' roots. Adapters that are alike have one root,
/// and the first of them serves all.
fn adapted(entries: &[Entry], blocks: &Blocks, roots: &[Chain]) -> Vec<Adapted> {
    let of = |adapter: usize| {
        let is = |&row: &usize| blocks.root(entries[row].slot) == roots[adapter];
        Adapted { adapter, rows: (0..entries.len()).filter(is).collect() }
    };
    let first = |&adapter: &usize| !roots[..adapter].contains(&roots[adapter]);
    (0..roots.len()).filter(first).map(of).filter(|adapted| !adapted.rows.is_empty()).collect()
}

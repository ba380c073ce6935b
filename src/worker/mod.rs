//! The worker process: one model behind an OpenAI-compatible HTTP face.
//!
//! One thread computes: it owns the model, its cache and the [batcher](crate::engine::batcher). Requests are read and
//! answers written by one more; jobs go down a channel, events come back by another. A client that leaves closes its
//! end, and its job is given up before the next forward pass.

mod answer;
mod card;
mod embedding;
mod engine;
mod face;
mod listen;
mod memory;
mod metrics;
pub mod openai;
mod prompt;
mod tie;
mod tokens;

pub use crate::engine::kernels::KvKind;
pub use crate::engine::kernels::cuda::{Which, failed as card_failed};
pub use crate::engine::model::Device;
pub use crate::engine::prefix_cache::Settings as Prefixes;
pub use card::Card;
pub use listen::Listener;
pub use tie::Tie;

use crate::engine::Error;
use crate::engine::blocks::Chain;
use crate::engine::draft::{self, Drafter};
use crate::engine::footprint::Footprint;
use crate::engine::gguf::{Gguf, Summary};
use crate::engine::grammar::Grammars;
use crate::engine::kernels::cuda::Cuda;
use crate::engine::kv_cache::Capacity;
use crate::engine::lora::Lora;
use crate::engine::model::{self, Embedder, Model};
use crate::engine::passes::Passes;
use crate::engine::prefix_cache::{self, Identity};
use crate::engine::template::Template;
use crate::engine::tokenizer::Tokenizer;
use embedding::Embedding;
use engine::{Engine, Work};
use face::{Duty, Face, Served};
use memory::OnCard;
use metrics::Metrics;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use tokio_util::sync::CancellationToken;

/// What to serve, and with how much.
#[derive(Debug, Clone)]
pub struct Options {
    /// The model file.
    pub model: PathBuf,
    /// What requests call it.
    pub name: String,
    /// Adapters: what requests call the model with each, and its file or folder.
    pub adapters: Vec<(String, PathBuf)>,
    /// Tokens that one conversation may hold; never more than the model was trained for.
    pub context: usize,
    /// Conversations that are answered at once.
    pub slots: usize,
    /// Tokens that all conversations may hold together, where not each may hold all of its own at the same time.
    pub kv_tokens: Option<usize>,
    /// How keys and values are stored.
    pub kv: KvKind,
    /// Answers that may wait for a slot.
    pub queue: usize,
    /// How to guess what comes next, where that pays.
    pub speculation: Speculation,
    /// A smaller model of the same vocabulary that guesses.
    pub draft: Option<PathBuf>,
    /// Threads that compute; as many as there are physical cores unless said.
    pub threads: Option<usize>,
    /// Where they are computed.
    pub device: model::Device,
    /// Bytes of a card's memory that may be taken; all that it has unless said.
    pub vram_limit: Option<u64>,
    /// Memory in which a card's weights are kept as they lie there: of a process that outlives this one.
    pub weights: Option<Arc<File>>,
    /// Where beginnings of conversations are kept on disk, if they are.
    pub prefixes: Option<prefix_cache::Settings>,
}

/// How answers' next tokens are guessed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Speculation {
    /// Not at all.
    Off,
    /// From what was said before, and where that tells nothing by the smaller model, if there is one.
    #[default]
    Auto,
    /// By the smaller model alone.
    Draft,
}

impl Options {
    /// How large the cache is.
    pub fn capacity(&self) -> Capacity {
        let Self { slots, context, kv_tokens: tokens, kv: kind, .. } = *self;
        Capacity { slots, context, tokens, kind }
    }
}

/// A model that guesses for the one that answers.
struct Draft {
    model: Model,
    footprint: Footprint,
}

/// The file of such a model, and its header's verdict.
struct DraftFile {
    gguf: Arc<Gguf>,
    footprint: Footprint,
}

/// A model that can answer.
pub struct Worker {
    options: Options,
    summary: Summary,
    footprint: Footprint,
    draft: Option<Draft>,
    /// What it takes of the card that it runs on.
    card: Option<Card>,
    /// When the file came here.
    created: u64,
    model: Model,
    /// What each adapter's conversations begin with.
    roots: Vec<Chain>,
    tokenizer: Arc<Tokenizer>,
    template: Template,
    /// What its keys and values depend on, where they are kept.
    identity: Option<Identity>,
}

impl Draft {
    /// Loads a model that guesses for one of this vocabulary.
    fn load(file: DraftFile, answers: &Tokenizer, options: model::Options) -> Result<Draft, Error> {
        let DraftFile { gguf, footprint } = file;
        draft::check_vocabulary(&Tokenizer::from_gguf(&gguf)?, answers)?;
        Ok(Draft { footprint, model: Model::load(gguf, options)? })
    }
}

impl DraftFile {
    fn open(file: &Path) -> Result<DraftFile, Error> {
        let gguf = Arc::new(Gguf::open(file)?);
        let footprint = Footprint::of(&gguf);
        Ok(DraftFile { gguf, footprint })
    }
}

impl Worker {
    /// Opens the file and makes it ready. Takes as long as reading the file does.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or needs what the engine does not have.
    pub fn load(mut options: Options) -> Result<Self, Error> {
        let gguf = Arc::new(Gguf::open(&options.model)?);
        let summary = gguf.summary()?;
        options.context = options.context.min(usize::try_from(summary.context_train).unwrap_or(usize::MAX));
        let adapters = adapters(&options, &gguf)?;
        let footprint = Footprint::adapted(&gguf, &adapters);
        let draft = options.draft.as_deref().map(DraftFile::open).transpose()?;
        let models = std::iter::once(&footprint).chain(draft.as_ref().map(|draft| &draft.footprint));
        let card = Card::plan(&options, models)?;
        let how = model::Options { device: options.device, threads: options.threads, ..model::Options::default() };
        let how = |at: usize| model::Options { vram: card.as_ref().map(|card| card.taken[at]), ..how };
        // Only an idle clock or file system does not know it.
        let changed = std::fs::metadata(&options.model).and_then(|file| file.modified()).unwrap_or(UNIX_EPOCH);
        let image = card.as_ref().and_then(|card| card.image(&options, Identity::of_table(&gguf, changed)));
        let keeps = image.is_some();
        let (tokenizer, model) = crate::engine::load_kept(&gguf, &adapters, how(0), image)?;
        if keeps {
            model.on_card()?.keep_weights();
        }
        let template = Template::from_gguf(gguf.metadata(), &tokenizer);
        let created = changed.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let draft = draft.map(|file| Draft::load(file, &tokenizer, how(1))).transpose()?;
        let (identity, tokenizer) =
            (options.prefixes.is_some().then(|| Identity::of(&gguf, changed)), Arc::new(tokenizer));
        let roots = adapters.iter().map(Lora::root).collect();
        Ok(Self { options, summary, footprint, draft, card, created, model, roots, tokenizer, template, identity })
    }

    /// What was asked for, within what the model can do.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What the file is.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Threads that it computes with.
    pub fn threads(&self) -> usize {
        self.model.threads()
    }

    /// What it takes of the card that it runs on, if it runs on one.
    pub fn card(&self) -> Option<&Card> {
        self.card.as_ref()
    }

    /// Why it computes with other kernels than the best for its card, if it does.
    pub fn kernels_reason(&self) -> Option<&str> {
        self.model.on_card().ok()?.reason()
    }

    /// How large its cache is.
    fn capacity(&self) -> Capacity {
        self.card.as_ref().map_or_else(|| self.options.capacity(), |card| card.capacity)
    }

    /// Bytes that it occupies: of weights, and of all else.
    pub fn memory(&self) -> (u64, u64) {
        let capacity = self.capacity();
        let parts = std::iter::once(&self.footprint).chain(self.draft.as_ref().map(|draft| &draft.footprint));
        let parts = parts.map(|part| (part.weights, part.bytes(capacity) - part.weights));
        parts.fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
    }

    /// Answers at `listener` until `stop` is cancelled, or the engine's thread dies.
    ///
    /// # Errors
    /// Listening failed, or the engine is dead.
    pub async fn serve(self, listener: Listener, stop: CancellationToken) -> io::Result<()> {
        let (capacity, options) = (self.capacity(), self.options);
        let ended = CancellationToken::new();
        let on_card = self.card.map(|card| {
            let models = std::iter::once(&self.model).chain(self.draft.as_ref().map(|draft| &draft.model));
            let (outlived, reason) = (options.weights.is_some(), self.model.on_card().ok().and_then(Cuda::reason));
            let reason = reason.map(str::to_string);
            OnCard {
                card,
                outlived,
                reason,
                devices: models.filter_map(|model| Some(model.on_card().ok()?.device().clone())).collect(),
            }
        });
        let (duty, metrics) = match self.model.hyper().pooling {
            None => {
                let mut cache = self.model.cache_of(capacity).map_err(io::Error::other)?;
                if let (Some(settings), Some(identity)) = (&options.prefixes, self.identity) {
                    let warn = Arc::new(|problem: &str| eprintln!("sovereign: {problem}"));
                    self.model.keep_prefixes(&mut cache, settings, identity, warn).map_err(io::Error::other)?;
                }
                let told = Arc::new(Metrics::new(capacity.slots, capacity.tokens()));
                let drafter = self.draft.map(|draft| Drafter::new(draft.model, capacity)).transpose();
                let passes = Passes { model: self.model, cache, drafter: drafter.map_err(io::Error::other)? };
                let (tokenizer, metrics, speculation) = (self.tokenizer.clone(), told.clone(), options.speculation);
                let work = Work { passes, tokenizer, metrics, speculation };
                (Duty::Answers(Engine::start(work, options.queue, ended.clone())?), told)
            }
            Some(_) => {
                let embedder = Embedder::new(self.model, capacity.context, capacity.slots).map_err(io::Error::other)?;
                let metrics = Arc::new(Metrics::new(capacity.slots, 0));
                (Duty::Embeds(Embedding::start(embedder, metrics.clone(), ended.clone())?), metrics)
            }
        };
        let (tokenizer, template) = (self.tokenizer, self.template);
        let tokens = 0..u32::try_from(tokenizer.len()).unwrap_or(u32::MAX);
        let longest_token = tokens.map(|token| tokenizer.name(token).len()).max().unwrap_or(0);
        let served = |(name, root): (String, Chain)| Served { name: name.into(), root };
        let names = options.adapters.into_iter().map(|(name, _)| name);
        let (base, adapters) = (served((options.name, Chain::default())), names.zip(self.roots).map(served).collect());
        let (created, grammars) = (self.created, Grammars::new(tokenizer.clone()));
        let face = Arc::new(Face {
            base,
            adapters,
            created,
            duty,
            tokenizer,
            longest_token,
            template,
            grammars,
            metrics,
            on_card,
        });
        tokio::select! {
            served = listener.serve(face::router(face.clone())) => served,
            () = ended.cancelled() => {
                let cause = if card_failed() { "the card failed" } else { "the engine died of a defect" };
                Err(io::Error::other(cause))
            }
            () = stop.cancelled() => {
                if let Duty::Answers(engine) = &face.duty {
                    engine.end();
                    ended.cancelled().await;
                }
                Ok(())
            }
        }
    }
}

/// Opens the adapters.
///
/// # Errors
/// When one cannot be used, or two have one name.
fn adapters(options: &Options, gguf: &Gguf) -> Result<Vec<Lora>, Error> {
    let mut names = HashSet::from([options.name.as_str()]);
    let open = |(_, path): &(String, PathBuf)| Lora::open(path, gguf);
    if let Some((name, _)) = options.adapters.iter().find(|(name, _)| !names.insert(name)) {
        return Err(Error::Request(format!("the name {name:?} stands for two: give each adapter another")));
    }
    options.adapters.iter().map(open).collect()
}

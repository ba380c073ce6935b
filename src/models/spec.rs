use crate::engine::kernels::cuda::need::Needs;
use crate::engine::kv_cache::Capacity;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// A model that can be served: its file is complete, verified and of a kind that the engine knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// What requests call it.
    pub name: String,
    /// Further names for the same.
    pub aliases: Vec<String>,
    /// The file.
    pub file: PathBuf,
    /// Whether the file was here before and only listed: then it is not ours to delete.
    pub adopted: bool,
    /// The digest of the file in lower-case hex.
    pub sha256: String,
    /// The length of the file.
    pub bytes: u64,
    /// Where it came from.
    pub source: String,
    /// Its licence, where that is known.
    pub licence: Option<String>,
    /// When it was pulled, in seconds since 1970.
    pub pulled_at: i64,
    /// `general.architecture`: which forward pass it needs.
    pub architecture: String,
    /// How many parameters it has.
    pub parameters: u64,
    /// How its weights are stored, such as `Q4_K_M`.
    pub quantisation: String,
    /// Tokens that it was trained to attend to.
    pub context_train: u64,
    /// Whether it turns texts into vectors, rather than to answer.
    pub embeds: bool,
    /// Bytes of all its tensors.
    pub weights: u64,
    /// Bytes that the keys and values of one token take.
    pub kv_per_token: u64,
    /// What it needs of a card, where one can serve it.
    #[serde(skip)]
    pub on_card: Option<Needs>,
    /// Bytes that computing takes besides, with as many conversations of as many tokens as are configured; those of adapters
    /// are among them.
    pub workspace: u64,
    /// The adapters that it is loaded with.
    #[serde(default)]
    pub adapters: Vec<AdapterSpec>,
    /// The smaller model that guesses for it.
    #[serde(default)]
    pub draft: Option<DraftSpec>,
}

/// A smaller model that guesses what another will say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftSpec {
    /// Its file.
    pub file: PathBuf,
    /// What it takes.
    pub memory: Memory,
}

/// What a model takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Tokens that it was trained to attend to.
    pub context_train: u64,
    /// Bytes of all its tensors.
    pub weights: u64,
    /// Bytes that the keys and values of one token take.
    pub kv_per_token: u64,
    /// Bytes that computing takes besides.
    pub workspace: u64,
}

/// An adapter that a model is loaded with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterSpec {
    /// What requests call the model with it: the model's name, a colon, and its own.
    pub name: String,
    /// Its file or folder.
    pub path: PathBuf,
}

/// What a request means by a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The model.
    pub spec: Arc<ModelSpec>,
    /// What it is called in full: the model's name, or that of one of its adapters.
    pub name: String,
}

impl ModelSpec {
    /// All that requests may ask for: the model alone, then with each adapter.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.adapters.iter().map(|adapter| adapter.name.as_str()))
    }

    /// Tokens that one conversation may hold where `configured` are: no more than the model was trained for.
    pub fn context(&self, configured: usize) -> usize {
        context(self.context_train, configured)
    }

    /// Bytes that it takes with `slots` conversations of `configured` tokens, those of what guesses for it included.
    pub fn memory(&self, configured: usize, slots: usize) -> u64 {
        let &Self { context_train, weights, kv_per_token, workspace, .. } = self;
        let own = Memory { context_train, weights, kv_per_token, workspace }.total(configured, slots);
        // It follows the same conversations.
        let drafts = |draft: &DraftSpec| draft.memory.total(self.context(configured), slots);
        own.saturating_add(self.draft.as_ref().map_or(0, drafts))
    }
}

impl Memory {
    /// All bytes with `slots` conversations of `configured` tokens.
    fn total(self, configured: usize, slots: usize) -> u64 {
        let capacity = Capacity::whole(slots, context(self.context_train, configured));
        let kv = self.kv_per_token.saturating_mul(capacity.tokens() as u64);
        self.weights.saturating_add(kv).saturating_add(self.workspace)
    }
}

#[cfg(test)]
impl ModelSpec {
    /// One that only tests know.
    pub fn for_tests(name: &str) -> Self {
        Self {
            name: name.into(),
            aliases: Vec::new(),
            file: name.into(),
            adopted: false,
            sha256: "0".repeat(64),
            bytes: 1,
            source: "test".into(),
            licence: None,
            pulled_at: 0,
            architecture: "llama".into(),
            parameters: 1,
            quantisation: "F32".into(),
            context_train: 4096,
            embeds: false,
            weights: 1,
            kv_per_token: 0,
            on_card: None,
            workspace: 0,
            adapters: Vec::new(),
            draft: None,
        }
    }
}

/// The smaller of what a model was trained for and what is configured.
pub(super) fn context(trained: u64, configured: usize) -> usize {
    configured.min(usize::try_from(trained).unwrap_or(usize::MAX))
}

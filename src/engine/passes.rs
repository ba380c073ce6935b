//! What a batcher's passes run on, for real: a model with its cache, and a smaller one that guesses for it.

use super::Error;
use super::batcher::Runner;
use super::blocks::Blocks;
use super::draft::{Drafter, Wanted};
use super::kv_cache::KvCache;
use super::model::{Batch, Logits, Model};
use super::prefix_cache::Restored;

/// A model and its cache.
pub struct Passes {
    /// What answers.
    pub model: Model,
    /// What it holds of its conversations.
    pub cache: KvCache,
    /// What guesses.
    pub drafter: Option<Drafter>,
}

impl Runner for Passes {
    type Error = Error;

    fn blocks(&mut self) -> &mut Blocks {
        self.cache.blocks()
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, Error> {
        self.model.forward(&mut self.cache, batch)
    }

    fn seek(&mut self, slot: usize, tokens: &[u32]) -> bool {
        if let Some(drafter) = &mut self.drafter {
            drafter.begin(slot, tokens);
        }
        self.cache.seek(slot, tokens)
    }

    fn restore(&mut self, slot: usize, tokens: &[u32], patience: bool) -> Restored {
        self.cache.restore(slot, tokens, patience)
    }

    fn drafts(&self) -> bool {
        self.drafter.is_some()
    }

    fn draft(&mut self, wanted: &mut [Wanted<'_>]) {
        let drafted = self.drafter.as_mut().map_or(Ok(()), |drafter| drafter.guess(wanted));
        if drafted.is_err() {
            // Answers need no guesses.
            self.drafter = None;
            wanted.iter_mut().for_each(|wanted| wanted.guesses.clear());
        }
    }
}

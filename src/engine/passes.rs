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

impl Passes {
    /// Gives a card's memory back; conversations stay, in the host's memory. Bytes of that.
    ///
    /// # Errors
    /// See [`Model::sleep`]: all is as it was.
    pub fn sleep(&mut self) -> Result<u64, Error> {
        let bytes = self.model.sleep(&mut self.cache)?;
        match self.drafter.as_mut().map_or(Ok(0), Drafter::sleep) {
            Ok(more) => Ok(bytes + more),
            Err(error) => self.model.wake().and(Err(error)),
        }
    }

    /// Gives back to a card what conversations do not use; see [`Model::shrink`]. Bytes of that.
    ///
    /// # Errors
    /// As there, and when there is nothing to give.
    pub fn shrink(&mut self) -> Result<u64, Error> {
        match self.model.shrink(&mut self.cache)? {
            0 => Err(Error::Request("there is no more than one conversation needs".into())),
            bytes => Ok(bytes),
        }
    }

    /// Returns when the model's weights are all in the host's memory, beside the card's. Bytes of them.
    ///
    /// # Errors
    /// It is on no card, or the host has no such memory.
    pub fn keep(&self) -> Result<u64, Error> {
        Ok(self.model.on_card()?.kept_weights()?)
    }

    /// Brings it back.
    ///
    /// # Errors
    /// See [`Model::wake`]: it goes on sleeping.
    pub fn wake(&mut self) -> Result<(), Error> {
        self.model.wake()?;
        match self.drafter.as_ref().map_or(Ok(()), Drafter::wake) {
            Ok(()) => Ok(()),
            Err(error) => self.model.sleep(&mut self.cache).and(Err(error)),
        }
    }
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

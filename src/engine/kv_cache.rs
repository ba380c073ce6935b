//! What a model remembers of its conversations: keys and values of every token, in blocks that conversations which begin
//! alike share.

use super::Error;
use super::blocks::{BLOCK, Blocks};
use super::kernels::cpu::Cpu;
use super::kernels::cuda::Cuda;
use super::kernels::{Kernels, KvKind, Step};
use super::model::{Entry, Spare, Workspace};
use super::prefix_cache::{PrefixCache, Restored};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The conversations of a model, with the buffers of the passes that extend them.
pub struct KvCache {
    pub(super) held: Held,
    /// Which cache it is.
    pub(super) id: u64,
    /// Which model it belongs to.
    pub(super) model: u64,
    pub(super) blocks: Blocks,
    /// Memory for the logits of passes.
    pub(super) spare: Spare,
    /// Of each slot, the tokens that it holds after a pass; kept for its memory.
    lengths: Vec<usize>,
    /// What is kept on disk of conversations that are over.
    pub(super) prefixes: Option<PrefixCache>,
}

/// What a cache holds, where its model computes.
pub(super) enum Held {
    Cpu(Box<On<Cpu>>),
    Cuda(Box<On<Cuda>>),
}

/// The same, on a device.
pub(super) struct On<K: Kernels> {
    pub memory: K::Cache,
    pub workspace: Workspace<K>,
    /// The lists of the last pass, kept for their memory.
    pub step: Step<'static>,
}

/// How much a cache has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Conversations at once.
    pub slots: usize,
    /// Tokens that a conversation may have.
    pub context: usize,
    /// Tokens that all conversations may have together, if fewer than those of as many whole conversations.
    pub tokens: Option<usize>,
    /// How keys and values are stored.
    pub kind: KvKind,
}

impl Capacity {
    /// Of so many whole conversations, in halves.
    pub fn whole(slots: usize, context: usize) -> Capacity {
        Capacity { slots, context, tokens: None, kind: KvKind::F16 }
    }

    /// Blocks of such a cache: enough for one whole conversation in any case.
    pub fn blocks(&self) -> usize {
        let whole = self.context.div_ceil(BLOCK);
        let all = whole.saturating_mul(self.slots);
        self.tokens.map_or(all, |tokens| tokens.div_ceil(BLOCK).clamp(whole, all.max(whole)))
    }

    /// Tokens that there is memory for.
    pub fn tokens(&self) -> usize {
        self.blocks().saturating_mul(BLOCK)
    }
}

impl KvCache {
    pub(super) fn new(held: Held, model: u64, capacity: Capacity) -> KvCache {
        static CACHES: AtomicU64 = AtomicU64::new(0);
        let id = CACHES.fetch_add(1, Ordering::Relaxed);
        let blocks = Blocks::new(capacity.slots, capacity.context, capacity.blocks());
        KvCache { held, id, model, blocks, spare: Spare::default(), lengths: Vec::new(), prefixes: None }
    }

    /// Conversations that it holds at once.
    pub fn slots(&self) -> usize {
        self.blocks.slots()
    }

    /// Tokens that a conversation may have.
    pub fn context(&self) -> usize {
        self.blocks.context()
    }

    /// Which of its blocks holds what.
    pub fn blocks(&mut self) -> &mut Blocks {
        &mut self.blocks
    }

    /// Tokens that a slot holds; the next one's position. An unknown slot holds none.
    pub fn len(&self, slot: usize) -> usize {
        self.blocks.len(slot)
    }

    /// Whether no slot holds a token.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Forgets what a slot holds beyond its first `len` tokens: those of a prompt that begins like the last one are kept
    /// and need not be computed again. A slot that holds no more stays as it is.
    pub fn truncate(&mut self, slot: usize, len: usize) {
        self.blocks.truncate(slot, len);
    }

    /// Begins to look on disk for what a slot's conversation of `tokens` goes on with. Says whether there is anything.
    pub fn seek(&mut self, slot: usize, tokens: &[u32]) -> bool {
        self.prefixes.as_mut().is_some_and(|prefixes| prefixes.seek(slot, &self.blocks, tokens))
    }

    /// Takes over what has come from disk for a slot since it was [sought](Self::seek); with `patience` it waits for the next.
    pub fn restore(&mut self, slot: usize, tokens: &[u32], patience: bool) -> Restored {
        let (Some(prefixes), Held::Cpu(on)) = (&mut self.prefixes, &mut self.held) else { return Restored::default() };
        self.blocks.take_copies().into_iter().for_each(|copy| on.memory.copy(copy));
        prefixes.restore(slot, &mut self.blocks, &mut on.memory, tokens, patience)
    }

    /// Lets blocks of conversations that are over be written to disk. All copies must have been made.
    pub(super) fn spill(&mut self) {
        if let (Some(prefixes), Held::Cpu(on)) = (&mut self.prefixes, &self.held) {
            prefixes.spill(&self.blocks, &on.memory);
        }
    }

    /// Ends all conversations, and writes what is to be kept of them to disk, for no longer than `patience`.
    pub fn finish(mut self, patience: Duration) {
        (0..self.slots()).for_each(|slot| self.blocks.release(slot));
        if let (Some(prefixes), Held::Cpu(on)) = (self.prefixes.take(), &mut self.held) {
            self.blocks.take_copies().into_iter().for_each(|copy| on.memory.copy(copy));
            prefixes.finish(&self.blocks, &on.memory, patience);
        }
    }

    /// Makes room for these entries.
    ///
    /// # Errors
    /// When a slot is unknown, or a position isn't its slot's next one or lies beyond the context, or all blocks are used.
    pub(super) fn reserve(&mut self, entries: &[Entry]) -> Result<(), Error> {
        self.lengths.clear();
        self.lengths.extend((0..self.blocks.slots()).map(|slot| self.blocks.len(slot)));
        for &Entry { slot, position, .. } in entries {
            let Some(len) = self.lengths.get_mut(slot) else {
                let problem = format!("there is no slot {slot}; the cache has {} of them, from 0 on", self.slots());
                return Err(Error::Request(problem));
            };
            if position != *len {
                let problem = format!("a token at position {position} of slot {slot}, which holds {len} tokens");
                return Err(Error::Request(problem));
            }
            if position >= self.blocks.context() {
                let problem = format!("slot {slot} is full: its context is {} tokens long", self.context());
                return Err(Error::Request(problem));
            }
            *len += 1;
        }
        for (slot, &len) in self.lengths.iter().enumerate() {
            self.blocks.reserve(slot, len).map_err(|full| Error::Request(full.to_string()))?;
        }
        Ok(())
    }

    /// Notes what room was made for, once it is there.
    pub(super) fn commit(&mut self, entries: &[Entry]) {
        entries.iter().for_each(|entry| self.blocks.push(entry.slot, entry.token));
    }
}

//! What a model remembers of its conversations: keys and values of every token, in slots of one length.

use super::Error;
use super::kernels::Kernels;
use super::kernels::cpu::Cpu;
use super::kernels::cuda::Cuda;
use super::model::{Entry, Workspace};
use std::sync::atomic::{AtomicU64, Ordering};

/// The conversations of a model, with the buffers of the passes that extend them.
pub struct KvCache {
    pub(super) held: Held,
    /// Which cache it is.
    pub(super) id: u64,
    /// Which model it belongs to.
    pub(super) model: u64,
    slots: usize,
    context: usize,
    /// How many tokens each slot holds.
    lengths: Vec<usize>,
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
}

impl KvCache {
    pub(super) fn new(held: Held, model: u64, slots: usize, context: usize) -> KvCache {
        static CACHES: AtomicU64 = AtomicU64::new(0);
        let id = CACHES.fetch_add(1, Ordering::Relaxed);
        KvCache { held, id, model, slots, context, lengths: vec![0; slots] }
    }

    /// Conversations that it holds at once.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Tokens that a conversation may have.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Tokens that a slot holds; the next one's position. An unknown slot holds none.
    pub fn len(&self, slot: usize) -> usize {
        self.lengths.get(slot).copied().unwrap_or(0)
    }

    /// Whether no slot holds a token.
    pub fn is_empty(&self) -> bool {
        self.lengths.iter().all(|&len| len == 0)
    }

    /// Forgets what a slot holds beyond its first `len` tokens: those of a prompt that begins like the last one are kept
    /// and need not be computed again. A slot that holds no more stays as it is.
    pub fn truncate(&mut self, slot: usize, len: usize) {
        if let Some(held) = self.lengths.get_mut(slot) {
            *held = len.min(*held);
        }
    }

    /// The lengths after these entries.
    ///
    /// # Errors
    /// When a slot is unknown, or a position isn't its slot's next one or lies beyond the context.
    pub(super) fn extended(&self, entries: &[Entry]) -> Result<Vec<usize>, Error> {
        let mut lengths = self.lengths.clone();
        for &Entry { slot, position, .. } in entries {
            let Some(len) = lengths.get_mut(slot) else {
                let problem = format!("there is no slot {slot}; the cache has {} of them, from 0 on", self.slots);
                return Err(Error::Request(problem));
            };
            if position != *len {
                let problem = format!("a token at position {position} of slot {slot}, which holds {len} tokens");
                return Err(Error::Request(problem));
            }
            if position >= self.context {
                let problem = format!("slot {slot} is full: its context is {} tokens long", self.context);
                return Err(Error::Request(problem));
            }
            *len += 1;
        }
        Ok(lengths)
    }

    /// Takes the lengths that [`KvCache::extended`] told.
    pub(super) fn commit(&mut self, lengths: Vec<usize>) {
        self.lengths = lengths;
    }
}

use crate::engine::kernels::Results;
use std::sync::{Arc, Mutex, PoisonError};

/// A token of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The token.
    pub token: u32,
    /// Whose conversation it belongs to.
    pub slot: usize,
    /// Where in the conversation: the next position that its slot in the cache has free.
    pub position: usize,
    /// Whether the logits of what follows it are wanted.
    pub wants_logits: bool,
}

/// Tokens of several conversations that go through the model together: pieces of prompts, and steps of answers.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    entries: Vec<Entry>,
}

impl Batch {
    /// An empty one.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Adds a token. Tokens of one conversation are added in its order.
    pub fn push(&mut self, token: u32, slot: usize, position: usize, wants_logits: bool) {
        self.entries.push(Entry { token, slot, position, wants_logits });
    }

    /// Makes it empty, for the next step.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// All tokens.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The logits of those entries of a batch that wanted them, a row each, in the order of the entries.
#[derive(Debug)]
pub struct Logits {
    values: Results,
    vocabulary: usize,
    /// Where the memory goes back to.
    spare: Spare,
}

/// Memory for logits that is used again: megabytes fresh from the system take longer to arrive than to be filled.
#[derive(Debug, Clone, Default)]
pub(in crate::engine) struct Spare(Arc<Mutex<Results>>);

impl Spare {
    /// Empty, with the room of what came back last.
    pub fn take(&self) -> Results {
        let mut values = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        values.clear();
        values
    }
}

impl Drop for Logits {
    fn drop(&mut self) {
        *self.spare.0.lock().unwrap_or_else(PoisonError::into_inner) = std::mem::take(&mut self.values);
    }
}

impl Logits {
    pub(in crate::engine) fn new(values: Results, vocabulary: usize, spare: Spare) -> Logits {
        Logits { values, vocabulary, spare }
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.values.values().len() / self.vocabulary
    }

    /// The logits of the `index`th entry that wanted them, a number a token of the vocabulary.
    ///
    /// # Panics
    /// When fewer wanted them.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values.values()[index * self.vocabulary..][..self.vocabulary]
    }

    /// The same, for those who change them in place.
    ///
    /// # Panics
    /// When fewer wanted them.
    pub fn row_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.values.values_mut()[index * self.vocabulary..][..self.vocabulary]
    }
}

use serde::{Deserialize, Serialize};

/// What is measured. The same quantities as llama-bench's (`pp`, `tg`, at a depth) and llama-batched-bench's (several
/// streams) by the same counts, so that figures can be laid side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocol {
    /// Tokens of a prompt that is read.
    pub prompt: usize,
    /// Tokens that each stream writes.
    pub generate: usize,
    /// Tokens that lie in the cache before.
    pub depths: Vec<usize>,
    /// Streams that write at once.
    pub streams: Vec<usize>,
    /// How often each figure is measured; the median is told.
    pub repeat: usize,
}

impl Default for Protocol {
    fn default() -> Self {
        Protocol { prompt: 512, generate: 128, depths: vec![0], streams: vec![1], repeat: 5 }
    }
}

impl Protocol {
    /// The protocol in order: depths and streams ascending, each once.
    pub fn sorted(mut self) -> Protocol {
        for list in [&mut self.depths, &mut self.streams] {
            list.sort_unstable();
            list.dedup();
        }
        self
    }

    /// Tokens that one stream's cache must hold.
    pub fn context(&self) -> usize {
        let deepest = self.depths.iter().copied().max().unwrap_or(0);
        // One step is taken before the clock starts.
        deepest + self.prompt.max(self.generate + 1)
    }

    /// The most streams at once.
    pub fn slots(&self) -> usize {
        self.streams.iter().copied().max().unwrap_or(1).max(1)
    }
}

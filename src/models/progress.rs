use serde::{Deserialize, Serialize};

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is pulled: a catalogue name, or where from. Never holds a secret.
    pub source: String,
    /// The name that the model gets, once it is known.
    pub model: Option<String>,
    /// What goes on.
    pub phase: Phase,
    /// Bytes of the model file that are on the disk.
    pub done: u64,
    /// Bytes of the whole file, once they are known.
    pub total: Option<u64>,
    /// Why it failed, with [`Phase::Failed`].
    pub error: Option<String>,
}

impl Progress {
    /// A pull that has just begun.
    pub(super) fn new(source: &str) -> Self {
        Self { source: source.into(), model: None, phase: Phase::Resolving, done: 0, total: None, error: None }
    }

    /// Whether nothing more will come.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Failed)
    }
}

/// The steps of a pull, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Finding out what the source is, how long, and which digest it should have.
    Resolving,
    /// Bytes arrive.
    Downloading,
    /// The digest and the header are checked.
    Verifying,
    /// The model can be served.
    Done,
    /// It cannot; `error` says why. What had arrived is kept, unless it was wrong.
    Failed,
}

use super::gguf;
use super::kernels::{OutOfMemory, cuda};

/// Why the engine cannot do what it was asked: each variant is a thing that a caller may treat differently.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is damaged, hostile or unreadable.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// The file is sound, but needs what this engine does not have: an architecture, a kind of weights, a tokenizer.
    #[error("{0}")]
    Unsupported(String),
    /// The file contradicts itself: a tensor of a wrong shape, a vocabulary of a wrong size.
    #[error("the model is inconsistent: {0}")]
    Inconsistent(String),
    /// An adapter is damaged, does not fit its model, or needs what this engine does not have.
    #[error("the adapter {adapter}: {problem}")]
    Adapter {
        /// Its file or folder.
        adapter: String,
        /// What is wrong; names the field or tensor.
        problem: String,
    },
    /// The request is at fault.
    #[error("{0}")]
    Request(String),
    /// What the model, or a cache of the size that was asked for, takes is not to be had.
    #[error("{0}; a shorter context or fewer slots take less")]
    Memory(#[from] OutOfMemory),
    /// There is no computing on the card that was asked for.
    #[error(transparent)]
    Cuda(#[from] cuda::Error),
    /// A forward pass gave what is no number: damaged weights, or a defect of a kernel.
    #[error("the model computed {0}, which is no number; its file may be damaged")]
    NotFinite(f32),
}

//! What the engine can do here, measured: speed ([`run`]), told in a form that later runs are compared with
//! ([`report`]), and how well a model predicts a text ([`Subject`] with [`engine::eval`](crate::engine::eval)).
//!
//! Like a worker, a benchmark loads weights; so it is a process of its own, which a person starts.

mod answers;
mod machine;
pub mod manifesto;
mod peak;
mod protocol;
mod report;
mod run;
mod sweep;
mod together;
mod work;

pub use machine::Machine;
pub use peak::Peak;
pub use protocol::Protocol;
pub use report::{Change, Measurement, Report, Subject as Measured, Test, compare};
pub use run::run;

pub use crate::engine::model::Device;

use crate::engine::gguf::Gguf;
use crate::engine::model::{Model, Options};
use crate::engine::tokenizer::Tokenizer;
use crate::engine::{self, Error};
use std::path::Path;
use std::sync::Arc;

/// A model with its tokenizer, loaded to be measured.
pub struct Subject {
    /// The file.
    pub gguf: Arc<Gguf>,
    /// What cuts texts.
    pub tokenizer: Tokenizer,
    /// What predicts.
    pub model: Model,
}

impl Subject {
    /// Opens the file and makes it ready.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or needs what the engine does not have.
    pub fn load(path: &Path, device: Device, threads: Option<usize>) -> Result<Subject, Error> {
        let gguf = Arc::new(Gguf::open(path)?);
        let (tokenizer, model) = engine::load(&gguf, Options { device, threads, ..Options::default() })?;
        Ok(Subject { gguf, tokenizer, model })
    }
}

#[cfg(test)]
mod tests;

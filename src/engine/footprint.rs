//! The memory that a model takes, and whether it can be served: from its header alone.

use super::Error;
use super::gguf::Header;
use super::model::{Checker, Hyper, Network, workspace_bytes};

/// What a model takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Footprint {
    /// Bytes of all tensors.
    pub weights: u64,
    /// Bytes that the keys and values of one token take; zero where the model can't be served.
    pub kv_per_token: u64,
    /// Whether it can be served.
    pub servable: Servable,
    shape: Option<Shape>,
}

/// Whether a model can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servable {
    /// It can.
    Yes,
    /// It can't: the reason names the architecture, key or tensor.
    No(String),
}

#[derive(Debug, Clone, PartialEq)]
struct Shape {
    hyper: Hyper,
    /// Floats of all vectors, which are copied out of the file.
    vectors: u64,
}

impl Footprint {
    /// Of the model that a header tells of. Nothing but the header is read.
    pub fn of(header: &Header) -> Footprint {
        let weights = header.tensors().iter().map(|tensor| tensor.bytes).sum();
        match shape(header) {
            Ok(shape) => {
                Footprint { weights, kv_per_token: shape.hyper.kv_bytes(), servable: Servable::Yes, shape: Some(shape) }
            }
            Err(error) => {
                Footprint { weights, kv_per_token: 0, servable: Servable::No(error.to_string()), shape: None }
            }
        }
    }

    /// Bytes besides weights, keys and values, with a cache of `slots` conversations of `context` tokens: the buffers of
    /// a forward pass, its results, and vectors that are copied out of the file.
    pub fn workspace(&self, context: usize, slots: usize) -> u64 {
        let of = |shape: &Shape| workspace_bytes(&shape.hyper, slots, context) + 4 * shape.vectors;
        self.shape.as_ref().map_or(0, of)
    }

    /// All bytes with such a cache.
    pub fn total(&self, context: usize, slots: usize) -> u64 {
        let tokens = (context as u64).saturating_mul(slots as u64);
        let kv = self.kv_per_token.saturating_mul(tokens);
        self.weights.saturating_add(kv).saturating_add(self.workspace(context, slots))
    }
}

fn shape(header: &Header) -> Result<Shape, Error> {
    let hyper = Hyper::of(header)?;
    let mut checker = Checker::new(header);
    Network::load(&mut checker, &hyper)?;
    checker.finish()?;
    Ok(Shape { hyper, vectors: checker.floats })
}

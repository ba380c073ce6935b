//! The memory that a model takes, and whether it can be served: from its header alone.

mod card;

pub use card::{OnCard, Plan, TooLarge, fit};

use super::Error;
use super::gguf::Header;
use super::kernels::KvKind;
use super::kv_cache::Capacity;
use super::lora::Lora;
use super::model::{self, Checked, ROWS, WorkspaceBytes};

/// What a model takes. The default takes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of all tensors.
    pub weights: u64,
    /// Bytes that the keys and values of one token take; zero where the model can't be served.
    pub kv_per_token: u64,
    /// Whether it can be served.
    pub servable: Servable,
    /// Whether it turns texts into vectors, rather than to answer.
    pub embeds: bool,
    /// How its keys and values can be stored, those of the most bits first.
    pub kinds: Vec<KvKind>,
    /// Whether a card can serve it, and what it needs there.
    pub on_card: OnCard,
    /// Bytes of vectors, which are copied out of the file.
    vectors: u64,
    /// Bytes that adapters take.
    adapters: u64,
    /// Dimensions of a head.
    head: usize,
    workspace: WorkspaceBytes,
}

/// Whether a model can be served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Servable {
    /// It can.
    #[default]
    Yes,
    /// It can't: the reason names the architecture, key or tensor.
    No(String),
}

impl Footprint {
    /// Of the model that a header tells of. Nothing but the header is read.
    pub fn of(header: &Header) -> Footprint {
        Footprint::adapted(header, &[])
    }

    /// The same with adapters.
    pub fn adapted(header: &Header, adapters: &[Lora]) -> Footprint {
        let weights = header.tensors().iter().map(|tensor| tensor.bytes).sum();
        let between = adapters.iter().map(Lora::rank).max().unwrap_or(0) * ROWS * size_of::<f32>();
        let footprint = model::checked(header, adapters).map(|Checked { hyper, floats, on_card }| Footprint {
            weights,
            embeds: hyper.pooling.is_some(),
            kv_per_token: hyper.kv_bytes(),
            servable: Servable::Yes,
            kinds: KvKind::ALL.into_iter().filter(|&kind| model::check_kind(&hyper, kind).is_ok()).collect(),
            on_card,
            vectors: 4 * floats,
            adapters: adapters.iter().map(Lora::bytes).sum::<u64>() + between as u64,
            head: hyper.head,
            workspace: WorkspaceBytes::of(&hyper),
        });
        let unservable =
            |error: Error| Footprint { weights, servable: Servable::No(error.to_string()), ..Footprint::default() };
        footprint.unwrap_or_else(unservable)
    }

    /// Bytes besides weights, keys and values, with a cache of `slots` conversations of `context` tokens: the buffers of
    /// a forward pass, its results, and vectors and adapters that are copied out of their files.
    pub fn workspace(&self, context: usize, slots: usize) -> u64 {
        self.vectors + self.adapters + self.workspace.total(Capacity::whole(slots, context))
    }

    /// All bytes with such a cache.
    pub fn total(&self, context: usize, slots: usize) -> u64 {
        self.bytes(Capacity::whole(slots, context))
    }

    /// All bytes with a cache of this size.
    pub fn bytes(&self, capacity: Capacity) -> u64 {
        // All rows of keys and values are of one length: that of a head.
        let row = self.head.max(1);
        let kv_per_token = self.kv_per_token / KvKind::F16.row_bytes(row) as u64 * capacity.kind.row_bytes(row) as u64;
        let kv = kv_per_token.saturating_mul(capacity.tokens() as u64);
        let workspace = self.workspace(capacity.context, capacity.slots);
        self.weights.saturating_add(kv).saturating_add(workspace)
    }
}

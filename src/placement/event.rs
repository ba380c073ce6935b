//! What the planner is told and what it answers with.

use super::Refusal;
use crate::runtime::{Rung, Variant};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A request for a model. Later ones have larger numbers, save for those that race.
pub type RequestId = u64;

/// One start of a tenant. A later start of the same model is another instance, so that news of the dead is not taken
/// for news of the living.
pub type InstanceId = u64;

/// A model, by name.
pub type ModelName = Arc<str>;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Somebody wants a model served.
    Request {
        /// Never used before.
        id: RequestId,
        /// What is wanted.
        want: Arc<Want>,
    },
    /// The caller went away before it was answered.
    Cancelled(RequestId),
    /// A lease ended.
    Released(InstanceId),
    /// A start succeeded, or a tenant woke.
    Ready(InstanceId),
    /// A tenant rests.
    Rested(InstanceId),
    /// A start failed, and left nothing behind.
    Failed {
        /// The start.
        instance: InstanceId,
        /// Why, for people.
        reason: String,
    },
    /// A tenant ended, asked or not.
    Exited {
        /// Which one.
        instance: InstanceId,
        /// How, for people.
        reason: String,
    },
    /// A tenant's card failed under it; its end follows.
    CardFailed {
        /// Which one.
        instance: InstanceId,
        /// How, for people.
        reason: String,
    },
    /// A model is to be unloaded once its leases have ended.
    Unload(ModelName),
    /// What there is, and what was seen to be occupied.
    Observed(Observed),
    /// The daemon stops: nothing new, and everything ends, leases or not.
    Closing,
    /// Time has passed.
    Tick,
}

/// What there is, and what was seen to be occupied.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// When it was seen, as the planner counts time.
    pub taken: Duration,
    /// Bytes of host memory that all may hold together.
    pub ram: u64,
    /// Threads that there are.
    pub threads: usize,
    /// Cards, by UUID. One that is lost is not there.
    pub cards: BTreeMap<String, Seen>,
}

/// What was seen of one card.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// Bytes that may be planned with when nobody else uses the card.
    pub budget: u64,
    /// Bytes that everybody uses together; none where the card does not tell.
    pub used: Option<u64>,
    /// Bytes that our instances use, as far as the card tells.
    pub measured: BTreeMap<InstanceId, u64>,
}

/// What a request wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Want {
    /// The model.
    pub model: ModelName,
    /// Changes when the file behind the name does.
    pub version: Arc<str>,
    /// Ways of serving it, the best first; at least one.
    pub variants: Vec<Variant>,
    /// How the tenant gives memory back when it holds more than it may, gentlest first.
    pub rungs: &'static [Rung],
    /// How dear its staying is against that of others: 1 is usual.
    pub weight: u32,
    /// It stays as long as there is memory at all.
    pub pinned: bool,
    /// By what right it holds memory.
    pub hold: Hold,
    /// How long it stays when nobody asks for it, if not as long as usual.
    pub keep_alive: Option<Duration>,
    /// Nobody says how much it may hold: what it is seen to hold is its to hold.
    pub elastic: bool,
    /// It makes vectors, and no answers.
    pub embeds: bool,
    /// How long a start takes, guessed; what was measured counts more.
    pub cost: Duration,
}

/// By what right something holds memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hold {
    /// A model, for the leases on it: started, rested and ended as they come and go.
    #[default]
    Leased,
    /// Room that somebody reserved. That he leaves it is no failure.
    Reserved,
    /// The same, where he sits already: what he holds is held, whether or not it fits.
    Held,
}

impl Want {
    /// Whether one instance serves both.
    pub fn is_same(&self, other: &Want) -> bool {
        self.model == other.model && self.version == other.version
    }
}

/// What is to be done. The planner counts on it being done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Give the caller a lease on the instance.
    Serve {
        /// The caller.
        request: RequestId,
        /// What serves it.
        instance: InstanceId,
    },
    /// Tell the caller no.
    Refuse {
        /// The caller.
        request: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// Start a tenant; `Ready` or `Failed` follows.
    Start {
        /// The new instance.
        instance: InstanceId,
        /// What it serves.
        want: Arc<Want>,
        /// How it is to run.
        variant: Variant,
    },
    /// Let an idle tenant rest; `Rested` or `Exited` follows.
    Rest {
        /// The instance.
        instance: InstanceId,
        /// How.
        rung: Rung,
    },
    /// Wake a tenant that rests; `Ready` or `Exited` follows.
    Wake(InstanceId),
    /// Ask a tenant to give back what it can without ending anything.
    Ease {
        /// The instance.
        instance: InstanceId,
        /// `Shrink` or `Free`.
        rung: Rung,
    },
    /// Stop a tenant. It has no leases, unless the daemon stops, the card is lost, or the tenant holds more than it may.
    /// `Failed` or `Exited` follows.
    Stop(InstanceId),
    /// End a tenant at once: it did not stop in time. `Failed` or `Exited` follows.
    Kill(InstanceId),
}

//! What the planner is told and what it answers with.

use super::Refusal;
use crate::runtime::Claim;
use std::sync::Arc;

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
        want: Want,
    },
    /// The caller went away before it was answered.
    Cancelled(RequestId),
    /// A lease ended.
    Released(InstanceId),
    /// A start succeeded.
    Loaded(InstanceId),
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
    /// A model is to be unloaded once its leases have ended.
    Unload(ModelName),
    /// There is more or less to plan with than before.
    Budget(Claim),
    /// The daemon stops: nothing new, and everything ends, leases or not.
    Closing,
    /// Time has passed.
    Tick,
}

/// What a request wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Want {
    /// The model.
    pub model: ModelName,
    /// Changes when the file behind the name does.
    pub version: Arc<str>,
    /// What serving it occupies.
    pub claim: Claim,
    /// Requests that one instance answers at once.
    pub slots: usize,
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
    /// Start a tenant; `Loaded` or `Failed` follows.
    Start {
        /// The new instance.
        instance: InstanceId,
        /// What for: the tenant of this waiting request.
        request: RequestId,
        /// How much it may occupy.
        claim: Claim,
    },
    /// Stop a tenant; it has no leases, unless the daemon stops. `Failed` or `Exited` follows.
    Stop(InstanceId),
}

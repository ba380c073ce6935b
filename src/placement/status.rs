use crate::runtime::{Attribution, Claim};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What placement knows, for the dashboard and the CLI. A stale read may advise, never decide.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// All that tenants may hold together.
    pub budget: Claim,
    /// What they hold.
    pub held: Claim,
    /// Who holds it, by model.
    pub tenants: Vec<TenantStatus>,
    /// Who waits, by model.
    pub waiting: Vec<Waiting>,
    /// The last loads, newest first.
    pub swaps: Vec<Swap>,
}

/// One tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantStatus {
    /// The model that it serves.
    pub model: String,
    /// The kind of runtime.
    pub runtime: String,
    /// The quantisation of the weights.
    pub quant: String,
    /// What it does.
    pub state: TenantState,
    /// What it was predicted to need.
    pub predicted: Claim,
    /// What the ledger holds for it.
    pub granted: Claim,
    /// Bytes of host memory that it was seen to occupy, pages of its model file included.
    pub measured_ram: Option<u64>,
    /// Whose memory it is.
    pub who: Option<Attribution>,
    /// Requests being answered.
    pub leases: usize,
    /// Requests that it answers at once.
    pub slots: usize,
    /// When its start began.
    pub started: Timestamp,
    /// Since when nobody uses it.
    pub idle_since: Option<Timestamp>,
}

/// What a tenant does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantState {
    /// It starts.
    Loading,
    /// It answers.
    Ready,
    /// It answers what it has begun, and then makes room.
    Draining,
    /// It is being stopped.
    Stopping,
}

/// Requests that wait for one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// The model.
    pub model: String,
    /// How many.
    pub requests: usize,
    /// Since when the oldest waits.
    pub since: Timestamp,
}

/// A load that came to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Swap {
    /// When it ended.
    pub at: Timestamp,
    /// The model.
    pub model: String,
    /// How long the start took, in milliseconds.
    pub took_ms: u64,
    /// Why it failed; none when it did not.
    pub problem: Option<String>,
}

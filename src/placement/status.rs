use crate::runtime::{Attribution, Claim, Rung, Setting};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What placement knows, for the dashboard and the CLI. A stale read may advise, never decide.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// All that tenants may hold together when nobody else uses the cards.
    pub budget: Claim,
    /// Bytes of each card that others use.
    #[serde(default)]
    pub foreign: BTreeMap<String, u64>,
    /// What they hold.
    pub held: Claim,
    /// Who holds it, by model.
    pub tenants: Vec<TenantStatus>,
    /// Who waits, by model.
    pub waiting: Vec<Waiting>,
    /// The last loads, rests and stops, newest first.
    pub swaps: Vec<Swap>,
    /// How many of each kind there were since the daemon's start, and how long they took.
    #[serde(default)]
    pub totals: Vec<SwapTotal>,
    /// What was done of late to those who held too much or stood in the way, newest first.
    #[serde(default)]
    pub enforced: Vec<Enforced>,
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
    /// Where it runs, and with how much.
    #[serde(default)]
    pub setting: Setting,
    /// What it does.
    pub state: TenantState,
    /// It stays as long as there is memory at all.
    #[serde(default)]
    pub pinned: bool,
    /// What it was predicted to need.
    pub predicted: Claim,
    /// What the ledger holds for it.
    pub granted: Claim,
    /// Bytes of host memory that it was seen to occupy, pages of its model file included.
    pub measured_ram: Option<u64>,
    /// Bytes of each card that it was seen to use.
    #[serde(default)]
    pub measured_vram: BTreeMap<String, u64>,
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
    /// It is on its way to a rest.
    Settling,
    /// It rests, its process there and its weights in host memory.
    Asleep,
    /// It rests, its weights in host memory, its process gone.
    Parked,
    /// It comes back from its rest.
    Waking,
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

/// Something that a tenant was told and that came to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Swap {
    /// When it ended.
    pub at: Timestamp,
    /// The model.
    pub model: String,
    /// What.
    #[serde(default)]
    pub kind: SwapKind,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Why it failed; none when it did not.
    pub problem: Option<String>,
}

/// All swaps of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapTotal {
    /// Which kind.
    pub kind: SwapKind,
    /// How many succeeded.
    pub done: u64,
    /// How many failed.
    pub failed: u64,
    /// How long those that succeeded took together, in milliseconds.
    pub took_ms: u64,
}

impl SwapKind {
    /// One word, for labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Wake => "wake",
            Self::Sleep => "sleep",
            Self::Park => "park",
            Self::Stop => "stop",
        }
    }
}

impl SwapTotal {
    /// Counts one more.
    pub fn count(totals: &mut Vec<Self>, swap: &Swap) {
        let at = totals.iter().position(|total| total.kind == swap.kind).unwrap_or_else(|| {
            totals.push(Self { kind: swap.kind, ..Self::default() });
            totals.len() - 1
        });
        let total = &mut totals[at];
        match swap.problem {
            None => (total.done, total.took_ms) = (total.done + 1, total.took_ms + swap.took_ms),
            Some(_) => total.failed += 1,
        }
    }
}

/// What a tenant was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwapKind {
    /// To start.
    #[default]
    Load,
    /// To wake.
    Wake,
    /// To sleep.
    Sleep,
    /// To leave its weights and go.
    Park,
    /// To stop.
    Stop,
}

/// Something that was done to a tenant which it did not ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Enforced {
    /// When.
    pub at: Timestamp,
    /// The model.
    pub model: String,
    /// What was done.
    pub rung: Rung,
    /// Why, for people.
    pub cause: String,
    /// After how many milliseconds the memory was seen to be free; none while it is not.
    pub confirmed_ms: Option<u64>,
}

use super::{Claim, Rung};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A card that tenants can run on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Card {
    /// What it is known by.
    pub uuid: String,
    /// Bytes of memory; zero where that is not known now.
    pub memory: u64,
    /// Its compute capability, where that is known.
    pub capability: Option<(i32, i32)>,
}

/// One way in which a tenant can run, and what that occupies. A tenant offers several, the best first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// What the tenant is told at its start.
    pub setting: Setting,
    /// What it occupies while it runs.
    pub claim: Claim,
    /// Requests that it answers at once.
    pub slots: usize,
    /// Ways to rest without forgetting its weights, the one that is left soonest first.
    pub rests: Vec<Rest>,
}

/// Where a tenant runs, and with how much.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The card, by UUID; none on the processor.
    pub gpu: Option<String>,
    /// Tokens that one conversation may hold.
    pub context: usize,
    /// The form in which keys and values are kept, where it is not the usual one.
    pub kv: Option<String>,
}

impl fmt::Display for Setting {
    /// `on GPU-3f2a with 8192 tokens of context`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "on {} with {} tokens of context", self.gpu.as_deref().unwrap_or("the processor"), self.context)?;
        match &self.kv {
            Some(kv) => write!(f, " in {kv}"),
            None => Ok(()),
        }
    }
}

/// A way to rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// Which.
    pub rung: Rung,
    /// What is occupied meanwhile.
    pub residue: Claim,
}

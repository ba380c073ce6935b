use crate::runtime::{Claim, Rest, Rung, Setting, Variant};
use std::time::Duration;

/// How one model behaves.
#[derive(Debug, Clone)]
pub struct Script {
    /// Host memory that it claims.
    pub ram: u64,
    /// What it claims instead, of cards too, the best way of running first. The first card of each is where it runs.
    pub claims: Vec<Claim>,
    /// How it can rest.
    pub rests: Vec<Rest>,
    /// How it gives memory back when it holds too much.
    pub rungs: &'static [Rung],
    /// Requests that it answers at once.
    pub slots: usize,
    /// How long a start takes.
    pub load: Duration,
    /// How long resting takes.
    pub rest: Duration,
    /// How long waking takes.
    pub wake: Duration,
    /// Why a start fails, if it does.
    pub failure: Option<String>,
    /// Bytes of each of its cards that it occupies beyond what it was granted.
    pub excess: u64,
    /// For how long its memory shows as occupied after its end.
    pub lingers: Duration,
    /// Its start never ends.
    pub hangs_loading: bool,
    /// It ends only when it is killed.
    pub hangs_stopping: bool,
    /// It does not rest, and gives nothing back.
    pub refuses_rests: bool,
    /// The pieces of its answer; each is one event of a stream.
    pub pieces: Vec<String>,
    /// The pause before each piece.
    pub pause: Duration,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            ram: 1,
            claims: Vec::new(),
            rests: Vec::new(),
            rungs: &[Rung::Stop, Rung::Kill],
            slots: 2,
            load: Duration::ZERO,
            rest: Duration::ZERO,
            wake: Duration::ZERO,
            failure: None,
            excess: 0,
            lingers: Duration::ZERO,
            hangs_loading: false,
            hangs_stopping: false,
            refuses_rests: false,
            pieces: vec!["Hello".into(), " world".into()],
            pause: Duration::ZERO,
        }
    }
}

impl Script {
    /// What it offers.
    pub(super) fn variants(&self) -> Vec<Variant> {
        let claims = match self.claims.is_empty() {
            true => vec![Claim { ram: self.ram, threads: 1, ..Claim::default() }],
            false => self.claims.clone(),
        };
        let variant = |claim: Claim| Variant {
            setting: Setting { gpu: claim.vram.keys().next().cloned(), context: 4096, kv: None },
            slots: self.slots,
            rests: if claim.vram.is_empty() { Vec::new() } else { self.rests.clone() },
            claim,
        };
        claims.into_iter().map(variant).collect()
    }
}

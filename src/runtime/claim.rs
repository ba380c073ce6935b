use crate::config::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Resources, as a vector: what a tenant needs, holds, or what there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Bytes of video memory, per GPU UUID.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vram: BTreeMap<String, u64>,
    /// Bytes of host memory.
    pub ram: u64,
    /// Threads that compute. Counted, but never a reason to refuse: the kernel shares cores in time, memory it cannot.
    pub threads: usize,
}

impl Claim {
    /// Whether this much memory is there in `free`.
    pub fn fits(&self, free: &Claim) -> bool {
        self.ram <= free.ram && self.vram.iter().all(|(gpu, bytes)| *bytes <= free.on(gpu))
    }

    /// Whether this much memory is there in `budget` beside `others`. Only kinds of memory that this claim has count: who
    /// wants none of a card does not mind that it is overdrawn.
    pub fn fits_beside(&self, others: &Claim, budget: &Claim) -> bool {
        let fits = |mine: u64, others: u64, budget: u64| mine == 0 || mine.saturating_add(others) <= budget;
        fits(self.ram, others.ram, budget.ram)
            && self.vram.iter().all(|(gpu, bytes)| fits(*bytes, others.on(gpu), budget.on(gpu)))
    }

    /// Bytes of the card `gpu`.
    pub fn on(&self, gpu: &str) -> u64 {
        self.vram.get(gpu).copied().unwrap_or_default()
    }

    /// Bytes of all cards.
    pub fn on_cards(&self) -> u64 {
        self.vram.values().sum()
    }

    /// Whether it is no memory at all.
    pub fn is_nothing(&self) -> bool {
        self.ram == 0 && self.on_cards() == 0
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Claim) {
        self.ram = self.ram.saturating_add(other.ram);
        self.threads = self.threads.saturating_add(other.threads);
        for (gpu, bytes) in &other.vram {
            match self.vram.get_mut(gpu) {
                Some(mine) => *mine = mine.saturating_add(*bytes),
                None => drop(self.vram.insert(gpu.clone(), *bytes)),
            }
        }
    }

    /// At least as much as `other`, of each kind.
    pub fn raise(&mut self, other: &Claim) {
        self.ram = self.ram.max(other.ram);
        self.threads = self.threads.max(other.threads);
        for (gpu, bytes) in &other.vram {
            let mine = self.vram.entry(gpu.clone()).or_default();
            *mine = (*mine).max(*bytes);
        }
    }

    /// Takes `other` away, down to nothing. A GPU that vanished leaves less than nothing: its claims outlive its budget.
    pub fn take(&mut self, other: &Claim) {
        self.ram = self.ram.saturating_sub(other.ram);
        self.threads = self.threads.saturating_sub(other.threads);
        for (gpu, bytes) in &other.vram {
            if let Some(mine) = self.vram.get_mut(gpu) {
                *mine = mine.saturating_sub(*bytes);
            }
        }
    }
}

impl fmt::Display for Claim {
    /// `1.2 GiB of host memory`, `5.5 GiB of GPU-3f2a and 0.3 GiB of host memory`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (gpu, bytes) in &self.vram {
            write!(f, "{} of {gpu} and ", Bytes(*bytes))?;
        }
        write!(f, "{} of host memory", Bytes(self.ram))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(ram: u64, vram: &[(&str, u64)]) -> Claim {
        Claim { ram, threads: 1, vram: vram.iter().map(|(gpu, bytes)| ((*gpu).to_string(), *bytes)).collect() }
    }

    #[test]
    fn fits_in_every_dimension() {
        let check = |need: Claim, free: Claim, expected| assert_eq!(need.fits(&free), expected, "{need} in {free}");
        check(claim(5, &[]), claim(5, &[]), true);
        check(claim(6, &[]), claim(5, &[]), false);
        check(claim(1, &[("a", 3)]), claim(5, &[("a", 3), ("b", 0)]), true);
        check(claim(1, &[("a", 3), ("b", 1)]), claim(5, &[("a", 3), ("b", 0)]), false);
        check(claim(1, &[("gone", 1)]), claim(5, &[]), false);
    }

    #[test]
    fn fits_beside_others_in_what_it_asks_for() {
        let others = claim(4, &[("a", 9)]);
        let budget = claim(5, &[("a", 8), ("b", 2)]);
        let check = |need: Claim, expected| assert_eq!(need.fits_beside(&others, &budget), expected, "{need}");
        check(claim(1, &[]), true);
        check(claim(2, &[]), false);
        check(claim(0, &[("a", 1)]), false);
        check(claim(1, &[("a", 0), ("b", 2)]), true);
        check(claim(1, &[("c", 1)]), false);
    }

    #[test]
    fn takes_back_what_was_added() {
        let mut free = claim(10, &[("a", 8)]);
        free.take(&claim(4, &[("a", 8)]));
        assert_eq!((free.ram, free.vram["a"]), (6, 0));
        free.add(&claim(4, &[("a", 8)]));
        assert_eq!((free.ram, free.vram["a"]), (10, 8));
    }
}

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
        self.ram <= free.ram
            && self.vram.iter().all(|(gpu, bytes)| *bytes <= free.vram.get(gpu).copied().unwrap_or_default())
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Claim) {
        self.ram = self.ram.saturating_add(other.ram);
        self.threads = self.threads.saturating_add(other.threads);
        for (gpu, bytes) in &other.vram {
            let mine = self.vram.entry(gpu.clone()).or_default();
            *mine = mine.saturating_add(*bytes);
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
    fn takes_back_what_was_added() {
        let mut free = claim(10, &[("a", 8)]);
        free.take(&claim(4, &[("a", 8)]));
        assert_eq!((free.ram, free.vram["a"]), (6, 0));
        free.add(&claim(4, &[("a", 8)]));
        assert_eq!((free.ram, free.vram["a"]), (10, 8));
    }
}

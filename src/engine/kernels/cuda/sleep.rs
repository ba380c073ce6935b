//! Sleep: the card's memory goes and comes back, to the same addresses. Weights are in the host's memory by then; what changes
//! is copied.

use super::Cuda;
use super::arena::Contents;
use super::device::Device;
use super::driver::Address;
use super::image::{Image, fill, lock};
use super::transfer::{Stretch, staged};
use crate::engine::kernels::OutOfMemory;
use memmap2::MmapMut;

/// What the card's memory held that changes.
pub(super) struct Saved {
    memory: MmapMut,
    /// Where it was, and how many bytes each stretch has; one after the other in `memory`.
    stretches: Vec<(Address, usize)>,
}

impl Saved {
    /// A copy of these stretches.
    fn new(device: &Device, pinned: &mut [u8], stretches: Vec<(Address, usize)>) -> Result<Saved, OutOfMemory> {
        let bytes: usize = stretches.iter().map(|(_, bytes)| bytes).sum();
        let none = |_| OutOfMemory { what: "keys and values in the host's memory", bytes: bytes as u64 };
        let mut memory = MmapMut::map_anon(bytes.max(1)).map_err(none)?;
        // Advice: with large pages it comes sooner.
        let _ = memory.advise(memmap2::Advice::HugePage);
        let mut rest = &mut memory[..];
        let mut all = Vec::new();
        for &(address, bytes) in &stretches {
            let (host, others) = rest.split_at_mut(bytes);
            rest = others;
            all.push(Stretch::ToHost(host, address));
        }
        staged(device, pinned, all);
        Ok(Saved { memory, stretches })
    }

    fn restore(&self, device: &Device, pinned: &mut [u8]) {
        let mut rest = &self.memory[..];
        let mut all = Vec::new();
        for &(address, bytes) in &self.stretches {
            let (host, others) = rest.split_at(bytes);
            rest = others;
            all.push(Stretch::ToCard(host, address));
        }
        staged(device, pinned, all);
    }

    fn bytes(&self) -> usize {
        self.memory.len()
    }
}

impl Cuda {
    /// Gives the card's memory back; the driver's own stays. Weights are in the host's memory then, where they stay, and so are
    /// these stretches of keys and values. Nothing can be computed until [`wake`](Self::wake). Bytes of the host's memory that
    /// this takes.
    ///
    /// # Errors
    /// The host has no such memory: nothing has changed then.
    pub(in crate::engine) fn sleep(&self, cached: &[(Address, usize)]) -> Result<u64, OutOfMemory> {
        let mut state = self.state();
        let mut image = lock(&self.image);
        let weights = |image: &Option<Image>| image.as_ref().map_or(0, Image::bytes);
        if let Some(saved) = &state.saved {
            return Ok(saved.bytes() as u64 + weights(&image));
        }
        let pinned = state.ring.pinned();
        fill(&mut image, &self.device, Some(pinned))?;
        let mut stretches = self.device.arena().stretches(Contents::Kept);
        stretches.extend_from_slice(cached);
        let saved = Saved::new(&self.device, pinned, stretches)?;
        self.device.arena().leave();
        let bytes = saved.bytes() as u64 + weights(&image);
        state.saved = Some(saved);
        Ok(bytes)
    }

    /// Brings it back, to where it was.
    ///
    /// # Errors
    /// The card's memory is another one's by now: it goes on sleeping.
    pub fn wake(&self) -> Result<(), OutOfMemory> {
        let mut state = self.state();
        let Some(saved) = state.saved.take() else { return Ok(()) };
        let driver = self.device.bind();
        let mut arena = self.device.arena();
        if arena.come_back().is_err() {
            let bytes = saved.bytes() as u64;
            state.saved = Some(saved);
            return Err(OutOfMemory { what: "waking", bytes });
        }
        // What is not brought back begins as it did the first time.
        for (address, bytes) in arena.mapped() {
            // SAFETY: there is memory behind all of it again.
            let status = unsafe { (driver.fill)(address, 0, bytes, self.device.stream()) };
            self.device.must(status, || "clearing memory".into());
        }
        drop(arena);
        let pinned = state.ring.pinned();
        if let Some(image) = &mut *lock(&self.image) {
            image.restore(&self.device, pinned);
        }
        saved.restore(&self.device, pinned);
        Ok(())
    }

    /// Whether it sleeps.
    pub fn is_asleep(&self) -> bool {
        self.device.arena().is_away()
    }
}

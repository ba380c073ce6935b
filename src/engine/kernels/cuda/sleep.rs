//! Sleep: what a card holds of a model goes to the host's memory and comes back, to the same addresses.

use super::Cuda;
use super::driver::Address;
use super::upload::Pinned;
use crate::engine::kernels::OutOfMemory;
use std::ffi::c_void;

/// What the card's memory held whose contents matter.
pub(super) struct Saved {
    memory: Pinned,
    /// Where it was, and how many bytes each stretch has; one after the other in `memory`.
    stretches: Vec<(Address, usize)>,
}

impl Saved {
    /// Each stretch, with where it is in the host's memory.
    fn stretches(&self) -> impl Iterator<Item = (Address, *mut c_void, usize)> {
        let mut at = 0;
        self.stretches.iter().map(move |&(address, bytes)| {
            let host = self.memory.address().cast::<u8>().wrapping_add(at).cast();
            at += bytes;
            (address, host, bytes)
        })
    }
}

impl Cuda {
    /// Moves what the card holds to the host's memory, weights, keys and values alike; the driver's own stays. Nothing can
    /// be computed until [`wake`](Self::wake). Bytes of the host's memory that this takes.
    ///
    /// # Errors
    /// The host has no such memory: nothing has changed then.
    pub fn sleep(&self) -> Result<u64, OutOfMemory> {
        let mut state = self.state();
        if let Some(saved) = &state.saved {
            return Ok(saved.memory.bytes() as u64);
        }
        self.device.wait();
        let mut arena = self.device.arena();
        let stretches = arena.kept();
        let bytes = stretches.iter().map(|(_, bytes)| bytes).sum();
        let saved = Saved { memory: Pinned::unset(&self.device, bytes)?, stretches };
        let driver = self.device.bind();
        for (from, to, bytes) in saved.stretches() {
            // SAFETY: both are as large, and the stream is waited for below.
            let status = unsafe { (driver.copy_to_host)(to, from, bytes, self.device.stream()) };
            self.device.must(status, || format!("copying {bytes} bytes from the device"));
        }
        self.device.wait();
        arena.leave();
        state.saved = Some(saved);
        Ok(bytes as u64)
    }

    /// Brings it back, to where it was.
    ///
    /// # Errors
    /// The card's memory is another one's by now: it goes on sleeping.
    pub fn wake(&self) -> Result<(), OutOfMemory> {
        let mut state = self.state();
        let Some(saved) = &state.saved else { return Ok(()) };
        let driver = self.device.bind();
        let mut arena = self.device.arena();
        let (all, bytes) = arena.all();
        arena.come_back().map_err(|_| OutOfMemory { what: "waking", bytes: bytes as u64 })?;
        // What is not brought back begins as it did the first time.
        // SAFETY: there is memory behind all of it again.
        let status = unsafe { (driver.fill)(all, 0, bytes, self.device.stream()) };
        self.device.must(status, || "clearing memory".into());
        for (to, from, bytes) in saved.stretches() {
            // SAFETY: both are as large, and the stream is waited for before the source goes.
            let status = unsafe { (driver.copy_to_device)(to, from, bytes, self.device.stream()) };
            self.device.must(status, || format!("copying {bytes} bytes to the device"));
        }
        self.device.wait();
        state.saved = None;
        Ok(())
    }

    /// Whether it sleeps.
    pub fn is_asleep(&self) -> bool {
        self.device.arena().is_away()
    }
}

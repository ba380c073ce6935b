use super::arena::Contents;
use super::device::Device;
use crate::engine::kernels::OutOfMemory;
use std::sync::Arc;
use std::time::Instant;

/// Bytes that are copied at a time: more than any second cache holds.
const BYTES: usize = 256 << 20;
/// Copies that are timed.
const TIMES: usize = 16;

impl Device {
    /// Bytes a second that the card's memory reads and writes, both counted, while it copies and does nothing else.
    ///
    /// # Errors
    /// There is no room for what is copied.
    pub fn bytes_per_second(self: &Arc<Device>) -> Result<f64, OutOfMemory> {
        let [from, to] = [(); 2].map(|()| self.allocate(BYTES, Contents::Scratch, "what is copied"));
        let (from, to) = (from?, to?);
        let driver = self.bind();
        let copy = || {
            // SAFETY: both are as large, and the stream is waited for before they go.
            let status = unsafe { (driver.copy_within)(to.address(), from.address(), BYTES, self.stream()) };
            self.must(status, || "copying within the device".into());
        };
        // The first ones wake the memory up.
        (0..TIMES / 4).for_each(|_| copy());
        self.wait();
        let begun = Instant::now();
        (0..TIMES).for_each(|_| copy());
        self.wait();
        Ok((2 * TIMES * BYTES) as f64 / begun.elapsed().as_secs_f64())
    }
}

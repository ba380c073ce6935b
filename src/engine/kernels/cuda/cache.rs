//! Keys and values on the card.

use super::device::{Device, Memory};
use super::driver::Address;
use crate::engine::kernels::{CacheShape, OutOfMemory};
use std::sync::Arc;

/// Positions whose values lie together.
const BLOCK: usize = 32;

/// Keys and values: [layers, slots, heads, 2, positions, size] halves, where values are [positions / 32, size, 32].
pub struct Cache {
    memory: Memory,
    shape: CacheShape,
}

impl Cache {
    pub(super) fn new(device: &Arc<Device>, shape: CacheShape) -> Result<Cache, OutOfMemory> {
        let CacheShape { layers, slots, context, heads, size } = shape;
        let positions = context.checked_next_multiple_of(BLOCK);
        let bytes = [layers, slots, heads, size].iter().try_fold(4_usize, |bytes, &n| bytes.checked_mul(n));
        let bytes = bytes.zip(positions).and_then(|(bytes, positions)| bytes.checked_mul(positions));
        let bytes = bytes.ok_or(OutOfMemory { what: "keys and values", bytes: u64::MAX })?;
        let memory = device.allocate(bytes, "keys and values")?;
        // What is beyond the end of a conversation is multiplied with zero: it must be a number.
        memory.clear();
        Ok(Cache { memory, shape })
    }

    /// How large it is.
    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// Positions that there is room for.
    pub(super) fn positions(&self) -> usize {
        self.shape.context.next_multiple_of(BLOCK)
    }

    /// Where a layer's part begins.
    pub(super) fn layer(&self, layer: usize) -> Address {
        let CacheShape { slots, heads, size, .. } = self.shape;
        self.memory.address() + (layer * slots * heads * 2 * self.positions() * size * 2) as u64
    }
}

use super::{CacheShape, OutOfMemory};
use half::f16;
use memmap2::MmapMut;

/// Keys and values: [layers, slots, heads, 2, context, size] halves, so that what one head looks through lies together.
pub struct Cache {
    /// Anonymous memory: zeros, and only what is written takes room.
    memory: MmapMut,
    shape: CacheShape,
}

impl Cache {
    /// An empty one.
    ///
    /// # Errors
    /// The system grants no such memory.
    pub fn new(shape: CacheShape) -> Result<Cache, OutOfMemory> {
        let CacheShape { layers, slots, context, heads, size } = shape;
        let bytes = [layers, slots, heads, context, size].iter().try_fold(4_usize, |bytes, &n| bytes.checked_mul(n));
        let bytes = bytes.filter(|&bytes| isize::try_from(bytes).is_ok());
        let none = OutOfMemory { what: "keys and values", bytes: bytes.map_or(u64::MAX, |bytes| bytes as u64) };
        let memory = bytes.and_then(|bytes| MmapMut::map_anon(bytes.max(1)).ok()).ok_or(none)?;
        Ok(Cache { memory, shape })
    }

    /// How large it is.
    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// Keys of the positions in `from..to`, [positions, size].
    pub fn keys(&self, layer: usize, slot: usize, head: usize, from: usize, to: usize) -> &[f16] {
        let size = self.shape.size;
        &self.halves()[self.at(layer, slot, head, 0)..][from * size..to * size]
    }

    /// Values of the positions in `from..to`, [positions, size].
    pub fn values(&self, layer: usize, slot: usize, head: usize, from: usize, to: usize) -> &[f16] {
        let size = self.shape.size;
        &self.halves()[self.at(layer, slot, head, 1)..][from * size..to * size]
    }

    /// The key of a position, [size].
    pub fn key_mut(&mut self, layer: usize, slot: usize, head: usize, position: usize) -> &mut [f16] {
        let (at, size) = (self.at(layer, slot, head, 0), self.shape.size);
        &mut self.halves_mut()[at + position * size..][..size]
    }

    /// The value of a position, [size].
    pub fn value_mut(&mut self, layer: usize, slot: usize, head: usize, position: usize) -> &mut [f16] {
        let (at, size) = (self.at(layer, slot, head, 1), self.shape.size);
        &mut self.halves_mut()[at + position * size..][..size]
    }

    fn at(&self, layer: usize, slot: usize, head: usize, which: usize) -> usize {
        let CacheShape { slots, context, heads, size, .. } = self.shape;
        ((((layer * slots) + slot) * heads + head) * 2 + which) * context * size
    }

    fn halves(&self) -> &[f16] {
        // SAFETY: a mapping begins at a page, so it is aligned; any 16 bits are a half; the length is in whole halves.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.memory.len() / 2) }
    }

    fn halves_mut(&mut self) -> &mut [f16] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.memory.len() / 2) }
    }
}

use super::{CacheShape, OutOfMemory};
use crate::engine::blocks::{BLOCK, Copy};
use half::f16;
use memmap2::MmapMut;

/// Keys and values: [blocks, layers, heads, 2, BLOCK, size] halves. What one head looks through of a block lies together,
/// and so does all of a block.
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
        let CacheShape { layers, blocks, heads, size } = shape;
        let bytes = [layers, blocks, heads, BLOCK, size].iter().try_fold(4_usize, |bytes, &n| bytes.checked_mul(n));
        let bytes = bytes.filter(|&bytes| isize::try_from(bytes).is_ok());
        let none = OutOfMemory { what: "keys and values", bytes: bytes.map_or(u64::MAX, |bytes| bytes as u64) };
        let memory = bytes.and_then(|bytes| MmapMut::map_anon(bytes.max(1)).ok()).ok_or(none)?;
        Ok(Cache { memory, shape })
    }

    /// How large it is.
    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// Keys of a block, [BLOCK, size].
    pub fn keys(&self, layer: usize, block: u32, head: usize) -> &[f16] {
        &self.halves()[self.at(layer, block, head, 0)..][..BLOCK * self.shape.size]
    }

    /// Values of a block, [BLOCK, size].
    pub fn values(&self, layer: usize, block: u32, head: usize) -> &[f16] {
        &self.halves()[self.at(layer, block, head, 1)..][..BLOCK * self.shape.size]
    }

    /// The key of a position in a block, [size].
    pub fn key_mut(&mut self, layer: usize, block: u32, head: usize, position: usize) -> &mut [f16] {
        let (at, size) = (self.at(layer, block, head, 0), self.shape.size);
        &mut self.halves_mut()[at + position * size..][..size]
    }

    /// The value of a position in a block, [size].
    pub fn value_mut(&mut self, layer: usize, block: u32, head: usize, position: usize) -> &mut [f16] {
        let (at, size) = (self.at(layer, block, head, 1), self.shape.size);
        &mut self.halves_mut()[at + position * size..][..size]
    }

    /// Makes one block what another one is.
    pub fn copy(&mut self, copy: Copy) {
        let [from, to] = [copy.from, copy.to].map(|block| self.at(0, block, 0, 0));
        let len = self.at(0, 1, 0, 0);
        self.halves_mut().copy_within(from..from + len, to);
    }

    fn at(&self, layer: usize, block: u32, head: usize, which: usize) -> usize {
        let CacheShape { layers, heads, size, .. } = self.shape;
        (((block as usize * layers + layer) * heads + head) * 2 + which) * BLOCK * size
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

//! Keys and values on the card.

use super::arena::Contents;
use super::device::{Device, Memory};
use super::driver::Address;
use crate::engine::blocks::{BLOCK, Copy};
use crate::engine::kernels::{CacheShape, KvKind, OutOfMemory};
use std::ops::Range;
use std::sync::Arc;

/// Keys and values: [blocks, layers, heads, 2], each BLOCK rows of a head's numbers in an order that `cache.cuh` tells.
pub struct Cache {
    memory: Memory,
    shape: CacheShape,
}

/// What a cache takes.
pub(super) fn bytes(shape: CacheShape) -> Option<usize> {
    let CacheShape { layers, blocks, heads, size, kind } = shape;
    let sizes = [layers, blocks, heads, BLOCK, kind.row_bytes(size)];
    sizes.iter().try_fold(2_usize, |bytes, &n| bytes.checked_mul(n))
}

impl Cache {
    pub(super) fn new(device: &Arc<Device>, shape: CacheShape) -> Result<Cache, OutOfMemory> {
        let bytes = bytes(shape).ok_or(OutOfMemory { what: "keys and values", bytes: u64::MAX })?;
        let memory = device.allocate(bytes, Contents::Scratch, "keys and values")?;
        // What is beyond the end of a conversation is multiplied with zero: it must be a number.
        memory.clear();
        Ok(Cache { memory, shape })
    }

    /// How large it is.
    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// What its numbers are stored as, as `Kv` of `cache.cuh` has it.
    pub(super) fn number(&self) -> i32 {
        match self.shape.kind {
            KvKind::F16 => 0,
            KvKind::Fp8 => 1,
            KvKind::Q4 => 2,
        }
    }

    /// Bytes of a block, of all layers.
    pub(super) fn stride(&self) -> u64 {
        self.shape.block_bytes() as u64
    }

    /// Where a layer's part of the first block begins.
    pub(super) fn layer(&self, layer: usize) -> Address {
        self.memory.address() + (layer * self.shape.block_bytes() / self.shape.layers) as u64
    }

    /// Where these blocks are, and how many bytes each stretch of them has.
    pub(in crate::engine) fn stretches(&self, blocks: &[Range<u32>]) -> Vec<(Address, usize)> {
        let at = |range: &Range<u32>| (self.memory.address() + u64::from(range.start) * self.stride(), range.len());
        let stretch = |(address, count)| (address, count * self.shape.block_bytes());
        blocks.iter().map(at).map(stretch).collect()
    }

    /// Gives back to the card what is behind all but the first `blocks`, once what was queued has ended. Bytes of that.
    pub(in crate::engine) fn shrink(&mut self, device: &Device, blocks: usize) -> usize {
        self.shape.blocks = blocks;
        device.wait();
        device.arena().cut(self.memory.address(), blocks * self.shape.block_bytes())
    }

    /// Makes one block what another one is, once what was queued before has ended.
    pub(super) fn copy(&mut self, device: &Device, copy: Copy) {
        let bytes = self.stride();
        let [from, to] = [copy.from, copy.to].map(|block| self.memory.address() + u64::from(block) * bytes);
        let driver = device.bind();
        // SAFETY: both are blocks of this memory, and not the same.
        let status = unsafe { (driver.copy_within)(to, from, bytes as usize, device.stream()) };
        device.must(status, || "copying a block of keys and values".into());
    }
}

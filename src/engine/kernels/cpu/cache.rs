use super::{CacheShape, Isa, KvKind, OutOfMemory, kv};
use crate::engine::blocks::{BLOCK, Copy};
use half::f16;
use memmap2::MmapMut;
use std::ops::Range;

/// Keys and values: [blocks, layers, heads, 2, BLOCK] rows of a head's numbers. What one head looks through of a block lies
/// together, and so does all of a block.
pub struct Cache {
    /// Anonymous memory: zeros, and only what is written takes room.
    memory: MmapMut,
    shape: CacheShape,
}

/// Keys or values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Keys.
    Keys,
    /// Values.
    Values,
}

/// Where a head's rows of a block lie.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The layer.
    pub layer: usize,
    /// The block.
    pub block: u32,
    /// The head of keys and values.
    pub head: usize,
}

impl Cache {
    /// An empty one.
    ///
    /// # Errors
    /// The system grants no such memory.
    pub fn new(shape: CacheShape) -> Result<Cache, OutOfMemory> {
        let CacheShape { layers, blocks, heads, size, kind } = shape;
        let sizes = [layers, blocks, heads, BLOCK, kind.row_bytes(size)];
        let bytes = sizes.iter().try_fold(2_usize, |bytes, &n| bytes.checked_mul(n));
        let bytes = bytes.filter(|&bytes| isize::try_from(bytes).is_ok());
        let none = OutOfMemory { what: "keys and values", bytes: bytes.map_or(u64::MAX, |bytes| bytes as u64) };
        let memory = bytes.and_then(|bytes| MmapMut::map_anon(bytes.max(1)).ok()).ok_or(none)?;
        Ok(Cache { memory, shape })
    }

    /// How large it is.
    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// A head's keys or values of a block, [BLOCK, size], to be multiplied with [`kv::unit`]; `room` is for what is not
    /// stored as halves.
    pub fn rows<'a>(&'a self, isa: Isa, place: Place, half: Half, room: &'a mut Vec<f16>) -> &'a [f16] {
        let (kind, len) = (self.shape.kind, BLOCK * self.shape.size);
        let bytes = &self.memory[self.at(place, half)..][..BLOCK * self.row_bytes()];
        if kind == KvKind::F16 {
            return halves(bytes);
        }
        room.resize(len, f16::ZERO);
        match kind {
            KvKind::F16 => {}
            KvKind::Fp8 => kv::decode_fp8(bytes, room),
            KvKind::Q4 => kv::decode_q4(isa, bytes, room),
        }
        room
    }

    /// Has some of a head's keys or values of a block brought into the processor's cache.
    pub fn prefetch(&self, place: Place, half: Half, positions: Range<usize>) {
        let row = self.row_bytes();
        let at = self.at(place, half);
        let bytes = &self.memory[at + positions.start * row..at + positions.end * row];
        bytes.chunks(LINE).for_each(|line| prefetch(line.as_ptr()));
    }

    /// Puts the key or value `x` [size] of a head at a position of a block.
    pub fn put(&mut self, isa: Isa, place: Place, half: Half, position: usize, x: &[f32]) {
        let row = self.row_bytes();
        let at = self.at(place, half) + position * row;
        let bytes = &mut self.memory[at..at + row];
        match self.shape.kind {
            KvKind::F16 => isa.to_f16(x, halves_mut(bytes)),
            KvKind::Fp8 => kv::encode_fp8(x, bytes),
            KvKind::Q4 => {
                let mut rotated = [0.0; super::MAX_HEAD];
                let rotated = &mut rotated[..x.len()];
                rotated.copy_from_slice(x);
                kv::rotate(rotated);
                kv::encode_q4(rotated, bytes);
            }
        }
    }

    /// Makes one block what another one is.
    pub fn copy(&mut self, copy: Copy) {
        let len = self.block_bytes();
        let [from, to] = [copy.from, copy.to].map(|block| block as usize * len);
        self.memory.copy_within(from..from + len, to);
    }

    /// All of a block.
    pub fn block(&self, block: u32) -> &[u8] {
        let len = self.block_bytes();
        &self.memory[block as usize * len..][..len]
    }

    /// All of a block, to be written.
    pub fn block_mut(&mut self, block: u32) -> &mut [u8] {
        let len = self.block_bytes();
        &mut self.memory[block as usize * len..][..len]
    }

    fn row_bytes(&self) -> usize {
        self.shape.kind.row_bytes(self.shape.size)
    }

    fn block_bytes(&self) -> usize {
        self.shape.block_bytes()
    }

    fn at(&self, Place { layer, block, head }: Place, half: Half) -> usize {
        let CacheShape { layers, heads, .. } = self.shape;
        (((block as usize * layers + layer) * heads + head) * 2 + half as usize) * BLOCK * self.row_bytes()
    }
}

/// Bytes that the processor fetches together.
const LINE: usize = 64;

/// Has the line at an address brought into the cache.
fn prefetch(_at: *const u8) {
    // SAFETY: nothing is read; any address will do. All such processors have the instruction.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(_at.cast());
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) _at, options(nostack, preserves_flags, readonly));
    }
}

/// Rows as what they are.
fn halves(bytes: &[u8]) -> &[f16] {
    assert!(bytes.as_ptr().cast::<f16>().is_aligned());
    // SAFETY: aligned, as a mapping begins at a page and rows of halves are even; any 16 bits are a half.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / 2) }
}

fn halves_mut(bytes: &mut [u8]) -> &mut [f16] {
    assert!(bytes.as_ptr().cast::<f16>().is_aligned());
    // SAFETY: as above, and `bytes` is borrowed exclusively.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / 2) }
}

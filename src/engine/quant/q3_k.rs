use super::Half;
use super::integers::{Packed, Super, pairs_by_128};

/// 256 weights in sixteen groups of 16: `d * (scale - 32) * (q - 4)` with q of 3 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ3K {
    /// The third bits: bit i of byte l belongs to weight 32 i + l.
    pub hmask: [u8; 32],
    /// The low two bits. Of 128 weights in 32 bytes, each 32 have a pair of bits, the first the lowest.
    pub qs: [u8; 64],
    /// The groups' scales of 6 bits: the low four of group i and of group i + 8 in byte i, the high two of four groups, each
    /// four apart, in a byte behind those.
    pub scales: [u8; 12],
    /// The scale of the scales.
    pub d: Half,
}

const _: () = assert!(size_of::<BlockQ3K>() == 110);

impl BlockQ3K {
    /// The groups' scales.
    pub fn scales(&self) -> [i8; 16] {
        std::array::from_fn(|i| {
            let low = self.scales[i % 8] >> (i / 8 * 4) & 15;
            let high = self.scales[8 + i % 4] >> (i / 4 * 2) & 3;
            (low | high << 4) as i8 - 32
        })
    }
}

// SAFETY: bytes, without padding.
unsafe impl Packed for BlockQ3K {
    type Integers = Super;

    fn unpack(&self) -> Super {
        let low = pairs_by_128(&self.qs);
        Super {
            d: self.d.to_f32(),
            dmin: 0.0,
            scales: self.scales(),
            mins: [0; 16],
            qs: std::array::from_fn(|i| (low[i] | (self.hmask[i % 32] >> (i / 32) & 1) << 2) as i8 - 4),
        }
    }
}

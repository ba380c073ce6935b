use super::Half;
use super::integers::{Packed, Super, pairs_by_128};

/// 256 weights in sixteen groups of 16: `d * scale * (q - 32)` with q of 6 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ6K {
    /// The low four bits. Of 128 weights in 64 bytes, the first 64 are in the low halves, the others in the high halves.
    pub ql: [u8; 128],
    /// The high two bits. Of 128 weights in 32 bytes, each 32 have a pair of bits, the first the lowest.
    pub qh: [u8; 64],
    /// The groups' scales.
    pub scales: [i8; 16],
    /// The scale of the scales.
    pub d: Half,
}

const _: () = assert!(size_of::<BlockQ6K>() == 210);

// SAFETY: bytes, without padding.
unsafe impl Packed for BlockQ6K {
    type Integers = Super;

    fn unpack(&self) -> Super {
        let high = pairs_by_128(&self.qh);
        let low = |i: usize| self.ql[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
        Super {
            d: self.d.to_f32(),
            dmin: 0.0,
            scales: self.scales,
            mins: [0; 16],
            qs: std::array::from_fn(|i| (low(i) | high[i] << 4) as i8 - 32),
        }
    }
}

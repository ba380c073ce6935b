use super::Half;
use super::integers::{Packed, Super, pairs_by_128};

/// 256 weights in sixteen groups of 16: `d * scale * q - dmin * min` with q of 2 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ2K {
    /// The groups' scales in the low halves, their minima in the high halves.
    pub scales: [u8; 16],
    /// Of 128 weights in 32 bytes, each 32 have a pair of bits, the first the lowest.
    pub qs: [u8; 64],
    /// The scale of the scales.
    pub d: Half,
    /// The scale of the minima.
    pub dmin: Half,
}

const _: () = assert!(size_of::<BlockQ2K>() == 84);

// SAFETY: bytes, without padding.
unsafe impl Packed for BlockQ2K {
    type Integers = Super;

    fn unpack(&self) -> Super {
        Super {
            d: self.d.to_f32(),
            dmin: self.dmin.to_f32(),
            scales: self.scales.map(|scale| (scale & 15) as i8),
            mins: self.scales.map(|scale| scale >> 4),
            qs: pairs_by_128(&self.qs).map(|q| q as i8),
        }
    }
}

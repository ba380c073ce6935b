use super::integers::{Packed, Super, doubled};
use super::{Half, NON_LINEAR};

/// 256 weights in eight groups of 32: `d * (scale - 32) * NON_LINEAR[q]` with q of 4 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockIQ4XS {
    /// The scale of the scales.
    pub d: Half,
    /// The groups' scales, the high two bits, the first group's the lowest.
    pub scales_h: [u8; 2],
    /// The low four bits, a byte for two groups.
    pub scales_l: [u8; 4],
    /// Of the 32 weights of a group, in 16 bytes, the first 16 are in the low halves, the others in the high halves.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockIQ4XS>() == 136);

impl BlockIQ4XS {
    /// The groups' scales.
    pub fn scales(&self) -> [i8; 8] {
        let high = u16::from_le_bytes(self.scales_h);
        std::array::from_fn(|i| {
            let low = self.scales_l[i / 2] >> (i % 2 * 4) & 15;
            (low | ((high >> (2 * i) & 3) << 4) as u8) as i8 - 32
        })
    }
}

// SAFETY: bytes, without padding.
unsafe impl Packed for BlockIQ4XS {
    type Integers = Super;

    fn unpack(&self) -> Super {
        let q = |i: usize| self.qs[i / 32 * 16 + i % 16] >> (i / 16 % 2 * 4) & 15;
        Super {
            d: self.d.to_f32(),
            dmin: 0.0,
            scales: doubled(self.scales()),
            mins: [0; 16],
            qs: std::array::from_fn(|i| NON_LINEAR[usize::from(q(i))]),
        }
    }
}

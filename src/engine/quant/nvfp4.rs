use super::FLOATS_OF_4;
use super::integers::{Packed, Sixty4};

/// 64 floats of 4 bits in four groups of 16, each times a float of 8 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockNVFP4 {
    /// The groups' scales: four bits of exponent, three of mantissa, no sign.
    pub d: [u8; 4],
    /// Of the 16 weights of a group, in 8 bytes, the first 8 are in the low halves, the others in the high halves.
    pub qs: [u8; 32],
}

const _: () = assert!(size_of::<BlockNVFP4>() == 36);

/// Half of each float of 8 bits: what [`FLOATS_OF_4`] are multiplied with. The highest bit is not looked at; 0x7f is no
/// number and counts as zero, as it does in ggml.
const HALVES: [f32; 128] = {
    let mut halves = [0.0; 128];
    let mut i = 1;
    while i < 127 {
        let (exponent, mantissa) = (i as u32 >> 3, i as u32 & 7);
        halves[i] = match exponent {
            // 2^-10 times the mantissa.
            0 => mantissa as f32 / 1024.0,
            // The bias goes from 7 to 127, less one for the half.
            _ => f32::from_bits((exponent + 119) << 23 | mantissa << 20),
        };
        i += 1;
    }
    halves
};

impl BlockNVFP4 {
    /// What [`FLOATS_OF_4`] are multiplied with, in each group.
    pub fn scales(&self) -> [f32; 4] {
        self.d.map(|d| HALVES[usize::from(d & 0x7f)])
    }
}

// SAFETY: bytes, without padding.
unsafe impl Packed for BlockNVFP4 {
    type Integers = Sixty4;

    fn unpack(&self) -> Sixty4 {
        let q = |i: usize| self.qs[i / 16 * 8 + i % 8] >> (i / 8 % 2 * 4) & 15;
        Sixty4 { d: self.scales(), qs: std::array::from_fn(|i| FLOATS_OF_4[usize::from(q(i))]) }
    }
}

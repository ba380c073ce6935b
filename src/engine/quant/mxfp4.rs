use super::integers::{Packed, Thirty2, nibbles};

/// Twice the floats of 4 bits (a sign, two bits of exponent, one of mantissa), which MXFP4 and NVFP4 consist of.
pub const FLOATS_OF_4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 32 floats of 4 bits, times a power of two.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockMXFP4 {
    /// The power's exponent, 127 being none.
    pub e: u8,
    /// Weight i in the low half of byte i, weight i + 16 in the high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockMXFP4>() == 17);

impl BlockMXFP4 {
    /// What [`FLOATS_OF_4`] are multiplied with: half of the power.
    pub fn scale(&self) -> f32 {
        match self.e {
            // Too small for a normal number: 2^-128 and 2^-127.
            0 | 1 => f32::from_bits(0x0020_0000 << self.e),
            e => f32::from_bits(u32::from(e - 1) << 23),
        }
    }
}

// SAFETY: bytes, without padding.
unsafe impl Packed for BlockMXFP4 {
    type Integers = Thirty2;

    fn unpack(&self) -> Thirty2 {
        Thirty2 { d: self.scale(), min: 0.0, qs: nibbles(&self.qs).map(|q| FLOATS_OF_4[usize::from(q)]) }
    }
}

use super::Half;
use super::integers::{Packed, Thirty2};

/// 32 weights `d * q` with q of 8 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// The scale.
    pub d: Half,
    /// The weights.
    pub qs: [i8; 32],
}

const _: () = assert!(size_of::<BlockQ8_0>() == 34);

// SAFETY: bytes, without padding.
unsafe impl Packed for BlockQ8_0 {
    type Integers = Thirty2;

    fn unpack(&self) -> Thirty2 {
        Thirty2 { d: self.d.to_f32(), min: 0.0, qs: self.qs }
    }
}

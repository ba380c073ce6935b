use super::Half;
use super::integers::{Packed, Thirty2, nibbles};

/// 32 weights `d * (q - 8)` with q of 4 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// The scale.
    pub d: Half,
    /// Weight i in the low half of byte i, weight i + 16 in the high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_0>() == 18);

// SAFETY: bytes, without padding.
unsafe impl Packed for BlockQ4_0 {
    type Integers = Thirty2;

    fn unpack(&self) -> Thirty2 {
        Thirty2 { d: self.d.to_f32(), min: 0.0, qs: nibbles(&self.qs).map(|q| q as i8 - 8) }
    }
}

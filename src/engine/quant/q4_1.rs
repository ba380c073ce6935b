use super::Half;
use super::integers::{Packed, Thirty2, nibbles};

/// 32 weights `d * q + m` with q of 4 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// The scale.
    pub d: Half,
    /// The least weight.
    pub m: Half,
    /// Weight i in the low half of byte i, weight i + 16 in the high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_1>() == 20);

// SAFETY: bytes, without padding.
unsafe impl Packed for BlockQ4_1 {
    type Integers = Thirty2;

    fn unpack(&self) -> Thirty2 {
        Thirty2 { d: self.d.to_f32(), min: -self.m.to_f32(), qs: nibbles(&self.qs).map(|q| q as i8) }
    }
}

use super::Half;
use super::integers::{Packed, Thirty2, fives};

/// 32 weights `d * (q - 16)` with q of 5 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// The scale.
    pub d: Half,
    /// The fifth bits, of weight i in bit i.
    pub qh: [u8; 4],
    /// The low four bits of weight i in the low half of byte i, of weight i + 16 in the high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_0>() == 22);

// SAFETY: bytes, without padding.
unsafe impl Packed for BlockQ5_0 {
    type Integers = Thirty2;

    fn unpack(&self) -> Thirty2 {
        Thirty2 { d: self.d.to_f32(), min: 0.0, qs: fives(&self.qs, self.qh).map(|q| q as i8 - 16) }
    }
}

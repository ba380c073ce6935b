use super::Half;
use super::integers::{Packed, Thirty2, nibbles};

/// What four bits stand for in IQ4_NL and IQ4_XS: closer around zero, where most weights are.
pub const NON_LINEAR: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 32 weights `d * NON_LINEAR[q]` with q of 4 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockIQ4NL {
    /// The scale.
    pub d: Half,
    /// Weight i in the low half of byte i, weight i + 16 in the high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockIQ4NL>() == 18);

// SAFETY: bytes, without padding.
unsafe impl Packed for BlockIQ4NL {
    type Integers = Thirty2;

    fn unpack(&self) -> Thirty2 {
        Thirty2 { d: self.d.to_f32(), min: 0.0, qs: nibbles(&self.qs).map(|q| NON_LINEAR[usize::from(q)]) }
    }
}

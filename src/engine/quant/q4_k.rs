use super::integers::{Packed, Super, doubled, nibbles_by_64};
use super::{Half, Scales};

/// 256 weights in eight groups of 32: `d * scale * q - dmin * min` with q of 4 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ4K {
    /// The scale of the scales.
    pub d: Half,
    /// The scale of the minima.
    pub dmin: Half,
    /// The groups' scales and minima.
    pub scales: Scales,
    /// Of 64 weights in 32 bytes, the first 32 are in the low halves, the others in the high halves.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ4K>() == 144);

// SAFETY: bytes, without padding.
unsafe impl Packed for BlockQ4K {
    type Integers = Super;

    fn unpack(&self) -> Super {
        let (scales, mins) = self.scales.both();
        Super {
            d: self.d.to_f32(),
            dmin: self.dmin.to_f32(),
            scales: doubled(scales.map(|scale| scale as i8)),
            mins: doubled(mins),
            qs: nibbles_by_64(&self.qs).map(|q| q as i8),
        }
    }
}

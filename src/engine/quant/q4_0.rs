use super::{Block, Half, X8_0};

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

impl BlockQ4_0 {
    fn unpack(&self) -> [i8; 32] {
        std::array::from_fn(|i| if i < 16 { self.qs[i] & 15 } else { self.qs[i - 16] >> 4 } as i8 - 8)
    }
}

// SAFETY: bytes, without padding.
unsafe impl Block for BlockQ4_0 {
    const LEN: usize = 32;
    type X = X8_0;

    fn dequantise(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (out, q) in out.iter_mut().zip(self.unpack()) {
            *out = d * f32::from(q);
        }
    }

    fn dot(&self, x: &X8_0) -> f32 {
        self.d.to_f32() * x.dot(&self.unpack())
    }
}

use super::{Block, Half, X8_0};

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
unsafe impl Block for BlockQ8_0 {
    const LEN: usize = 32;
    type X = X8_0;

    fn dequantise(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (out, q) in out.iter_mut().zip(self.qs) {
            *out = d * f32::from(q);
        }
    }

    fn dot(&self, x: &X8_0) -> f32 {
        self.d.to_f32() * x.dot(&self.qs)
    }
}

use super::{Block, Half};

/// A float of 16 bits: 5 of exponent, 10 of mantissa.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct BlockF16(pub Half);

const _: () = assert!(size_of::<BlockF16>() == 2);

// SAFETY: two bytes.
unsafe impl Block for BlockF16 {
    const LEN: usize = 1;
    type X = f32;

    fn dequantise(&self, out: &mut [f32]) {
        out[0] = self.0.to_f32();
    }

    fn add_product(&self, x: &f32, sum: f32) -> f32 {
        self.0.to_f32().mul_add(*x, sum)
    }
}

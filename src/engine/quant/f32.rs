use super::Block;

/// A float.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct BlockF32(pub [u8; 4]);

const _: () = assert!(size_of::<BlockF32>() == 4);

// SAFETY: four bytes.
unsafe impl Block for BlockF32 {
    const LEN: usize = 1;
    type X = f32;

    fn dequantise(&self, out: &mut [f32]) {
        out[0] = f32::from_le_bytes(self.0);
    }

    fn add_product(&self, x: &f32, sum: f32) -> f32 {
        f32::from_le_bytes(self.0).mul_add(*x, sum)
    }
}

use super::Block;

/// The upper 16 bits of a float.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct BlockBF16(pub [u8; 2]);

const _: () = assert!(size_of::<BlockBF16>() == 2);

impl BlockBF16 {
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(self.0)) << 16)
    }
}

// SAFETY: two bytes.
unsafe impl Block for BlockBF16 {
    const LEN: usize = 1;
    type X = f32;

    fn dequantise(&self, out: &mut [f32]) {
        out[0] = self.to_f32();
    }

    fn add_product(&self, x: &f32, sum: f32) -> f32 {
        self.to_f32().mul_add(*x, sum)
    }
}

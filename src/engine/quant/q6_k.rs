use super::{Block, Half, X8K};

/// 256 weights in sixteen groups of 16: `d * scale * (q - 32)` with q of 6 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ6K {
    /// The low four bits. Of 128 weights in 64 bytes, the first 64 are in the low halves, the others in the high halves.
    pub ql: [u8; 128],
    /// The high two bits. Of 128 weights in 32 bytes, each 32 have a pair of bits, the first the lowest.
    pub qh: [u8; 64],
    /// The groups' scales.
    pub scales: [i8; 16],
    /// The scale of the scales.
    pub d: Half,
}

const _: () = assert!(size_of::<BlockQ6K>() == 210);

impl BlockQ6K {
    fn group(&self, i: usize) -> [i8; 16] {
        std::array::from_fn(|l| {
            let (half, at) = (i / 8, i % 8 * 16 + l);
            let low = self.ql[half * 64 + at % 64] >> (at / 64 * 4) & 15;
            let high = self.qh[half * 32 + at % 32] >> (at / 32 * 2) & 3;
            (low | high << 4) as i8 - 32
        })
    }
}

// SAFETY: bytes, without padding.
unsafe impl Block for BlockQ6K {
    const LEN: usize = 256;
    type X = X8K;

    fn dequantise(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (i, out) in out.chunks_exact_mut(16).enumerate() {
            let scale = d * f32::from(self.scales[i]);
            for (out, q) in out.iter_mut().zip(self.group(i)) {
                *out = scale * f32::from(q);
            }
        }
    }

    fn dot(&self, x: &X8K) -> f32 {
        let sum: i32 = (0..16).map(|i| i32::from(self.scales[i]) * x.dot(16 * i, &self.group(i))).sum();
        x.d * self.d.to_f32() * sum as f32
    }
}

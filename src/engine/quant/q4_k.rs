use super::{Block, Half, Scales, X8K};

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

impl BlockQ4K {
    fn group(&self, i: usize) -> [i8; 32] {
        let qs = &self.qs[i / 2 * 32..];
        std::array::from_fn(|l| if i.is_multiple_of(2) { qs[l] & 15 } else { qs[l] >> 4 } as i8)
    }
}

// SAFETY: bytes, without padding.
unsafe impl Block for BlockQ4K {
    const LEN: usize = 256;
    type X = X8K;

    fn dequantise(&self, out: &mut [f32]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        for (i, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, min) = self.scales.get(i);
            let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
            for (out, q) in out.iter_mut().zip(self.group(i)) {
                *out = scale * f32::from(q) - min;
            }
        }
    }

    fn dot(&self, x: &X8K) -> f32 {
        let (mut sum, mut mins) = (0, 0);
        for i in 0..8 {
            let (scale, min) = self.scales.get(i);
            sum += i32::from(scale) * x.dot(32 * i, &self.group(i));
            mins += i32::from(min) * (i32::from(x.sums[2 * i]) + i32::from(x.sums[2 * i + 1]));
        }
        x.d * (self.d.to_f32() * sum as f32 - self.dmin.to_f32() * mins as f32)
    }
}

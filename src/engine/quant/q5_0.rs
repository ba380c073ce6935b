use super::{Block, Half, X8_0};

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

impl BlockQ5_0 {
    fn unpack(&self) -> [i8; 32] {
        let high = u32::from_le_bytes(self.qh);
        std::array::from_fn(|i| {
            let low = if i < 16 { self.qs[i] & 15 } else { self.qs[i - 16] >> 4 };
            (low | ((high >> i & 1) << 4) as u8) as i8 - 16
        })
    }
}

// SAFETY: bytes, without padding.
unsafe impl Block for BlockQ5_0 {
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

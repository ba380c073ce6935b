/// Eight scales and eight minima of 6 bits each, as Q4_K and Q5_K pack them.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Scales(pub [u8; 12]);

impl Scales {
    /// All scales, then all minima, a byte each.
    pub fn unpack(&self) -> [u8; 16] {
        let word = |i: usize| u32::from_le_bytes([self.0[i], self.0[i + 1], self.0[i + 2], self.0[i + 3]]);
        let (a, b, c) = (word(0), word(4), word(8));
        let words = [
            a & 0x3f3f3f3f,
            c & 0x0f0f0f0f | (a >> 6 & 0x03030303) << 4,
            b & 0x3f3f3f3f,
            c >> 4 & 0x0f0f0f0f | (b >> 6 & 0x03030303) << 4,
        ];
        let mut bytes = [0; 16];
        for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The scales, and the minima.
    pub fn both(&self) -> ([u8; 8], [u8; 8]) {
        let unpacked = self.unpack();
        (std::array::from_fn(|i| unpacked[i]), std::array::from_fn(|i| unpacked[8 + i]))
    }
}

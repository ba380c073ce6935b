//! Integers into bits: the inverse of what `integers` unpacks.

use std::array::from_fn;

/// 32 integers of 4 bits: the low halves of 16 bytes, then the high ones.
pub fn nibbles(q: &[u8; 32]) -> [u8; 16] {
    from_fn(|i| q[i] & 15 | q[i + 16] << 4)
}

/// The fifth bits of 32 integers, that of integer i in bit i.
pub fn fifths(q: &[u8; 32]) -> [u8; 4] {
    from_fn(|byte| bits(|bit| q[8 * byte + bit] >> 4))
}

/// Of 64 integers the first 32 in the low halves of 32 bytes, the others in the high halves.
pub fn nibbles_by_64(q: &[u8; 256]) -> [u8; 128] {
    from_fn(|i| {
        let at = i / 32 * 64 + i % 32;
        q[at] & 15 | q[at + 32] << 4
    })
}

/// Of 128 integers of 2 bits, in 32 bytes, each 32 a pair of bits, the first the lowest.
pub fn pairs_by_128(q: &[u8; 256]) -> [u8; 64] {
    from_fn(|i| {
        let at = i / 32 * 128 + i % 32;
        (0..4).fold(0, |byte, k| byte | (q[at + 32 * k] & 3) << (2 * k))
    })
}

/// Bit `shift` of 256 integers: of integer 32 i + l in bit i of byte l.
pub fn bits_by_32(q: &[u8; 256], shift: u32) -> [u8; 32] {
    from_fn(|l| bits(|i| q[32 * i + l] >> shift))
}

/// A byte of the lowest bits of eight numbers.
fn bits(number: impl Fn(usize) -> u8) -> u8 {
    (0..8).fold(0, |byte, bit| byte | (number(bit) & 1) << bit)
}

/// Eight scales and eight minima of 6 bits: the low four of the last four share a byte, the high two are in the spare bits of
/// the first four.
pub fn scales_and_minima(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    from_fn(|i| match i {
        0..4 => scales[i] | scales[i + 4] >> 4 << 6,
        4..8 => mins[i - 4] | mins[i] >> 4 << 6,
        _ => scales[i - 4] & 15 | mins[i - 4] << 4,
    })
}

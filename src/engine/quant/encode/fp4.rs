//! MXFP4 and NVFP4: floats of 4 bits, whose common scale has few bits too. All scales around that which spans the group are
//! tried: which is best depends on where the others lie between the levels, which are far apart near the extreme.

use super::packing::nibbles;
use super::{Encode, array, extreme, sum};
use crate::engine::quant::{BlockMXFP4, BlockNVFP4, FLOATS_OF_4};

/// Where the nearest magnitude changes.
const BORDERS: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];

/// The four bits of the nearest to `x`.
#[inline]
fn index(x: f32) -> u8 {
    let magnitude: u8 = BORDERS.iter().map(|&border| u8::from(x.abs() > border)).sum();
    magnitude | u8::from(x < 0.0) << 3
}

/// The four bits of each, and the squared error.
fn integers<const N: usize>(x: &[f32; N], scale: f32) -> ([u8; N], f32) {
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let q = x.map(|x| index(x * inverse));
    let error = sum::<N>(|i| {
        let error = scale * f32::from(FLOATS_OF_4[usize::from(q[i])]) - x[i];
        error * error
    });
    (q, error)
}

/// The best of some scales, by their codes.
fn best<const N: usize>(x: &[f32; N], codes: impl Iterator<Item = u8>, scale: impl Fn(u8) -> f32) -> (u8, [u8; N]) {
    let mut best = (0, [0; N], f32::INFINITY);
    for code in codes {
        let (q, error) = integers(x, scale(code));
        if error < best.2 {
            best = (code, q, error);
        }
    }
    (best.0, best.1)
}

impl Encode for BlockMXFP4 {
    fn encode(x: &[f32]) -> Self {
        let x: &[f32; 32] = array(x);
        let exponent = (extreme(x).to_bits() >> 23 & 0xff) as u8;
        // Two is the exponent of the largest level, six.
        let first = exponent.saturating_sub(3);
        let codes = first..=first.saturating_add(2).min(254);
        let (e, q) = best(x, codes, |e| BlockMXFP4 { e, qs: [0; 16] }.scale());
        BlockMXFP4 { e, qs: nibbles(&q) }
    }
}

impl Encode for BlockNVFP4 {
    fn encode(x: &[f32]) -> Self {
        let scale = |code: u8| BlockNVFP4 { d: [code; 4], qs: [0; 32] }.scales()[0];
        let mut block = BlockNVFP4 { d: [0; 4], qs: [0; 32] };
        for (g, x) in x.as_chunks::<16>().0.iter().enumerate().take(4) {
            let most = extreme(x).abs();
            // The first code by which the largest level, twelve halves, reaches the extreme; some below, and as many
            // above as let the next level, eight halves, reach it.
            let reaches = (1..=0x7e).find(|&code| 12.0 * scale(code) >= most).unwrap_or(0x7e);
            let codes = reaches.saturating_sub(3)..=(reaches + 6).min(0x7e);
            let (d, q) = best(x, codes, scale);
            block.d[g] = d;
            for (qs, i) in block.qs[8 * g..8 * (g + 1)].iter_mut().zip(0..) {
                *qs = q[i] | q[i + 8] << 4;
            }
        }
        block
    }
}

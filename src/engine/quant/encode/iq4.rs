//! IQ4_NL and IQ4_XS: integers of a table that is closer around zero.

use super::packing::nibbles;
use super::symmetric::{Found, Levels, integers, scale, search};
use super::{Encode, Half, array};
use crate::engine::quant::{BlockIQ4NL, BlockIQ4XS, NON_LINEAR};

struct NonLinear;

/// Where the nearest changes.
const BORDERS: [f32; 15] = {
    let mut borders = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        borders[i] = (NON_LINEAR[i] as f32 + NON_LINEAR[i + 1] as f32) / 2.0;
        i += 1;
    }
    borders
};

#[inline]
fn index(x: f32) -> u8 {
    BORDERS.iter().map(|&border| u8::from(x > border)).sum()
}

impl Levels for NonLinear {
    const EXTREME: f32 = NON_LINEAR[0] as f32;

    #[inline]
    fn nearest(x: f32) -> f32 {
        f32::from(NON_LINEAR[usize::from(index(x))])
    }
}

/// Levels that the extreme may stand for: those around the farthest, of either sign, for the table is not symmetric.
fn tries() -> impl Iterator<Item = f32> {
    let other_sign = 113.0 - NonLinear::EXTREME;
    (-7..=7).flat_map(move |step| [f32::from(step as i8), f32::from(step as i8) + other_sign])
}

impl Encode for BlockIQ4NL {
    fn encode(x: &[f32]) -> Self {
        let x: &[f32; 32] = array(x);
        let d = Half::of(scale::<NonLinear, 32>(x, tries()));
        let q = integers::<NonLinear, 32>(x, d.to_f32());
        BlockIQ4NL { d, qs: nibbles(&q.map(index)) }
    }
}

impl Encode for BlockIQ4XS {
    fn encode(x: &[f32]) -> Self {
        let x: &[f32; 256] = array(x);
        let groups = x.as_chunks::<32>().0;
        let each = std::array::from_fn(|g| scale::<NonLinear, 32>(&groups[g], tries()));
        let Found { d, scales, q } = search::<NonLinear, 8, 32>(x, 32, each);
        let q = q.map(index);
        let scale = |g: usize| (scales[g] + 32) as u8;
        let high = (0..8).fold(0, |high, g| high | u16::from(scale(g) >> 4) << (2 * g));
        let mut qs = [0; 128];
        for (qs, q) in qs.as_chunks_mut::<16>().0.iter_mut().zip(q.as_chunks::<32>().0) {
            *qs = nibbles(q);
        }
        BlockIQ4XS {
            d,
            scales_h: high.to_le_bytes(),
            scales_l: std::array::from_fn(|i| scale(2 * i) & 15 | scale(2 * i + 1) << 4),
            qs,
        }
    }
}

//! Q3_K and Q6_K: groups with a scale of either sign, which is an integer itself. IQ4 takes its search from here.
//!
//! The search is as in `affine`: integers and scale follow from each other.

use super::packing::{bits_by_32, pairs_by_128};
use super::{Encode, Half, array, extreme, round, sum};
use crate::engine::quant::{BlockQ3K, BlockQ6K};

/// What integers there are.
pub trait Levels {
    /// The farthest from zero.
    const EXTREME: f32;

    /// The one nearest to `x`.
    fn nearest(x: f32) -> f32;
}

/// Whole numbers from `-HALF` to `HALF - 1`.
pub struct Whole<const HALF: i8>;

impl<const HALF: i8> Levels for Whole<HALF> {
    const EXTREME: f32 = -(HALF as f32);

    #[inline]
    fn nearest(x: f32) -> f32 {
        round(x.clamp(-f32::from(HALF), f32::from(HALF - 1)))
    }
}

/// What divides by `scale`, where that can be.
fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

#[inline]
pub fn integers<L: Levels, const N: usize>(x: &[f32; N], scale: f32) -> [f32; N] {
    let inverse = inverse(scale);
    x.map(|x| L::nearest(x * inverse))
}

#[inline]
pub fn error<const N: usize>(x: &[f32; N], q: &[f32; N], scale: f32) -> f32 {
    sum::<N>(|i| {
        let error = scale * q[i] - x[i];
        error * error
    })
}

/// The best scale that is found for a group. The extreme is somewhere around the farthest level: `steps` are tried.
pub fn scale<L: Levels, const N: usize>(x: &[f32; N], steps: impl Iterator<Item = f32>) -> f32 {
    const REFINEMENTS: usize = 3;
    let extreme = extreme(x);
    // The square of what is smaller is no normal number.
    if extreme.abs() < 1e-18 {
        return 0.0;
    }
    let mut best = (0.0, 0.0);
    let mut consider = |scale: f32| {
        let q = integers::<L, N>(x, scale);
        let (qx, qq) = (sum::<N>(|i| q[i] * x[i]), sum::<N>(|i| q[i] * q[i]));
        // What the best scale for these integers takes off the error.
        if qq > 0.0 && qx * (qx / qq) > best.1 {
            best = (qx / qq, qx * (qx / qq));
        }
        best.0
    };
    let mut scale = 0.0;
    for step in steps {
        scale = consider(extreme / (L::EXTREME + step));
    }
    for _ in 0..REFINEMENTS {
        scale = consider(scale);
    }
    scale
}

/// 256 numbers in `G` groups of `N`: scales of `-STEPS..STEPS` times `d`.
pub struct Found<const G: usize> {
    pub d: Half,
    pub scales: [i8; G],
    pub q: [f32; 256],
}

pub fn search<L: Levels, const G: usize, const N: usize>(x: &[f32; 256], steps: i16, each: [f32; G]) -> Found<G> {
    const { assert!(G * N == 256) };
    // The largest is -STEPS: there is one more below zero than above.
    let d = Half::of(extreme(&each) / f32::from(-steps));
    let unit = d.to_f32();
    let mut found = Found { d, scales: [0; G], q: [0.0; 256] };
    for (g, (x, scale)) in x.as_chunks::<N>().0.iter().zip(each).enumerate() {
        let middle = round((scale * inverse(unit)).clamp(f32::from(-steps), f32::from(steps - 1)));
        let mut least = f32::INFINITY;
        for near in [middle - 1.0, middle, middle + 1.0] {
            let near = near.clamp(f32::from(-steps), f32::from(steps - 1));
            let q = integers::<L, N>(x, unit * near);
            let error = error(x, &q, unit * near);
            if error < least {
                least = error;
                found.scales[g] = near as i8;
                found.q[g * N..][..N].copy_from_slice(&q);
            }
        }
    }
    found
}

fn sixteens<L: Levels>(x: &[f32; 256], steps: i16, reach: f32) -> Found<16> {
    let tries = || (-9..=9).map(|step| reach * step as f32);
    let groups = x.as_chunks::<16>().0;
    search::<L, 16, 16>(x, steps, std::array::from_fn(|g| scale::<L, 16>(&groups[g], tries())))
}

impl Encode for BlockQ3K {
    fn encode(x: &[f32]) -> Self {
        let Found { d, scales, q } = sixteens::<Whole<4>>(array(x), 32, 0.1);
        let q = q.map(|q| (q + 4.0) as u8);
        let scale = |g: usize| (scales[g] + 32) as u8;
        let packed = std::array::from_fn(|i| match i {
            0..8 => scale(i) & 15 | scale(i + 8) << 4,
            _ => (0..4).fold(0, |byte, k| byte | (scale(i - 8 + 4 * k) >> 4) << (2 * k)),
        });
        BlockQ3K { hmask: bits_by_32(&q, 2), qs: pairs_by_128(&q), scales: packed, d }
    }
}

impl Encode for BlockQ6K {
    fn encode(x: &[f32]) -> Self {
        let Found { d, scales, q } = sixteens::<Whole<32>>(array(x), 128, 0.1);
        let q = q.map(|q| (q + 32.0) as u8);
        let ql = std::array::from_fn(|i| {
            let at = i / 64 * 128 + i % 64;
            q[at] & 15 | q[at + 64] << 4
        });
        BlockQ6K { ql, qh: pairs_by_128(&q.map(|q| q >> 4)), scales, d }
    }
}

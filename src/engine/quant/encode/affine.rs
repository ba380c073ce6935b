//! Q2_K, Q4_K and Q5_K: groups with a scale and a minimum, `scale * q - min`, both of few bits themselves.
//!
//! A group's integers follow from its scale and minimum, and the best scale and minimum from its integers (a regression). The
//! search begins at several scales around that which spans the group. When the scales have become integers, each is tried
//! again beside its neighbours, with what they really stand for.

use super::packing::{bits_by_32, nibbles_by_64, pairs_by_128, scales_and_minima};
use super::{Encode, Half, array, round, sum};
use crate::engine::quant::{BlockQ2K, BlockQ4K, BlockQ5K, Scales};

/// How often integers and scale are adjusted to each other, from the best beginning.
const REFINEMENTS: usize = 3;

/// A group's scale and minimum.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    scale: f32,
    /// Not below zero: it is taken off.
    min: f32,
}

impl Line {
    /// The integers that come nearest to `x`, from 0 to `most`.
    #[inline]
    fn integers<const N: usize>(self, x: &[f32; N], most: f32) -> [f32; N] {
        let inverse = if self.scale > 0.0 { 1.0 / self.scale } else { 0.0 };
        let offset = self.min * inverse;
        x.map(|x| round((x * inverse + offset).clamp(0.0, most)))
    }

    #[inline]
    fn error<const N: usize>(self, x: &[f32; N], q: &[f32; N]) -> f32 {
        sum::<N>(|i| {
            let error = self.scale * q[i] - self.min - x[i];
            error * error
        })
    }

    /// The best for these integers.
    #[inline]
    fn through<const N: usize>(x: &[f32; N], q: &[f32; N]) -> Line {
        let n = N as f32;
        let (sx, sq) = (sum::<N>(|i| x[i]), sum::<N>(|i| q[i]));
        let (sqx, sqq) = (sum::<N>(|i| q[i] * x[i]), sum::<N>(|i| q[i] * q[i]));
        let determinant = n * sqq - sq * sq;
        let line = match determinant > 0.0 {
            true => Line { scale: (n * sqx - sq * sx) / determinant, min: (sq * sqx - sqq * sx) / determinant },
            false => Line { scale: 0.0, min: -sx / n },
        };
        // A minimum cannot add.
        if line.min >= 0.0 { line } else { Line { scale: if sqq > 0.0 { sqx / sqq } else { 0.0 }, min: 0.0 } }
    }

    /// The best that is found for a group.
    fn of<const N: usize>(x: &[f32; N], most: f32) -> Line {
        let least = x.iter().copied().fold(0.0, f32::min);
        let span = x.iter().copied().fold(least, f32::max) - least;
        if !(span > 0.0 && span.is_finite()) {
            return Line { scale: 0.0, min: -least };
        }
        let mut line = Line { scale: span / most, min: -least };
        let mut best = (line, f32::INFINITY);
        let mut consider = |line: Line| {
            let q = line.integers(x, most);
            let line = Line::through(x, &q);
            let error = line.error(x, &q);
            if error < best.1 && line.scale > 0.0 {
                best = (line, error);
            }
            best.0
        };
        // Levels that the group spans: some fewer than there are, or some more, where extremes are cut off.
        for step in -10..=10 {
            let levels = most + 0.1 * step as f32;
            line = consider(Line { scale: span / levels, min: -least });
        }
        for _ in 0..REFINEMENTS {
            line = consider(line);
        }
        line
    }
}

/// 256 numbers in `G` groups of `N`, ready to be packed.
struct Found<const G: usize> {
    d: Half,
    dmin: Half,
    scales: [u8; G],
    mins: [u8; G],
    q: [u8; 256],
}

/// Integers up to `most`, scales and minima up to `steps`.
fn search<const G: usize, const N: usize>(x: &[f32; 256], most: f32, steps: f32) -> Found<G> {
    const { assert!(G * N == 256) };
    let groups = x.as_chunks::<N>().0;
    let lines: [Line; G] = std::array::from_fn(|g| Line::of(&groups[g], most));
    let largest = |of: fn(&Line) -> f32| Half::of(lines.iter().map(of).fold(0.0, f32::max) / steps);
    let (d, dmin) = (largest(|line| line.scale), largest(|line| line.min));
    let mut found = Found { d, dmin, scales: [0; G], mins: [0; G], q: [0; 256] };
    let (d, dmin) = (d.to_f32(), dmin.to_f32());
    let near = |value: f32, unit: f32| {
        let middle = if unit > 0.0 { round((value / unit).min(steps)) } else { 0.0 };
        [middle - 1.0, middle, middle + 1.0].map(|near| near.clamp(0.0, if unit > 0.0 { steps } else { 0.0 }))
    };
    for (g, (x, line)) in groups.iter().zip(lines).enumerate() {
        let mut least = f32::INFINITY;
        for scale in near(line.scale, d) {
            // No minimum is the best one where the scale became zero, being less than any half.
            for min in near(line.min, dmin).into_iter().chain([0.0]) {
                let line = Line { scale: d * scale, min: dmin * min };
                let q = line.integers(x, most);
                let error = line.error(x, &q);
                if error < least {
                    least = error;
                    (found.scales[g], found.mins[g]) = (scale as u8, min as u8);
                    found.q[g * N..][..N].copy_from_slice(&q.map(|q| q as u8));
                }
            }
        }
    }
    found
}

impl Encode for BlockQ2K {
    fn encode(x: &[f32]) -> Self {
        let Found { d, dmin, scales, mins, q } = search::<16, 16>(array(x), 3.0, 15.0);
        BlockQ2K { scales: std::array::from_fn(|g| scales[g] | mins[g] << 4), qs: pairs_by_128(&q), d, dmin }
    }
}

impl Encode for BlockQ4K {
    fn encode(x: &[f32]) -> Self {
        let Found { d, dmin, scales, mins, q } = search::<8, 32>(array(x), 15.0, 63.0);
        BlockQ4K { d, dmin, scales: Scales(scales_and_minima(&scales, &mins)), qs: nibbles_by_64(&q) }
    }
}

impl Encode for BlockQ5K {
    fn encode(x: &[f32]) -> Self {
        let Found { d, dmin, scales, mins, q } = search::<8, 32>(array(x), 31.0, 63.0);
        let scales = Scales(scales_and_minima(&scales, &mins));
        BlockQ5K { d, dmin, scales, qh: bits_by_32(&q, 4), qs: nibbles_by_64(&q) }
    }
}

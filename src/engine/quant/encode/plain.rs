//! Formats whose scale follows from the extremes of a block.
//!
//! Rounding is as ggml's: half up by adding a half and cutting off, half away from zero in Q8_0.

use super::packing::{fifths, nibbles};
use super::{Encode, Half, array, extreme};
use crate::engine::quant::{BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0};

/// What divides by `d`, where that is not zero.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The scale by which the extreme becomes `-half`, and the integers from zero on.
fn around_zero(x: &[f32; 32], half: i8) -> (f32, [u8; 32]) {
    let d = extreme(x) / f32::from(-half);
    let (inverse, middle, most) = (inverse(d), f32::from(half) + 0.5, 2 * half as u8 - 1);
    (d, x.map(|x| ((x * inverse + middle) as u8).min(most)))
}

/// The scale by which the least becomes zero and the largest `most`, the least, and the integers.
fn from_least(x: &[f32; 32], most: u8) -> (f32, f32, [u8; 32]) {
    let least = x.iter().copied().fold(f32::MAX, f32::min);
    let largest = x.iter().copied().fold(f32::MIN, f32::max);
    let d = (largest - least) / f32::from(most);
    let inverse = inverse(d);
    (d, least, x.map(|x| (((x - least) * inverse + 0.5) as u8).min(most)))
}

impl Encode for BlockQ4_0 {
    fn encode(x: &[f32]) -> Self {
        let (d, q) = around_zero(array(x), 8);
        BlockQ4_0 { d: Half::of(d), qs: nibbles(&q) }
    }
}

impl Encode for BlockQ4_1 {
    fn encode(x: &[f32]) -> Self {
        let (d, m, q) = from_least(array(x), 15);
        BlockQ4_1 { d: Half::of(d), m: Half::of(m), qs: nibbles(&q) }
    }
}

impl Encode for BlockQ5_0 {
    fn encode(x: &[f32]) -> Self {
        let (d, q) = around_zero(array(x), 16);
        BlockQ5_0 { d: Half::of(d), qh: fifths(&q), qs: nibbles(&q) }
    }
}

impl Encode for BlockQ5_1 {
    fn encode(x: &[f32]) -> Self {
        let (d, m, q) = from_least(array(x), 31);
        BlockQ5_1 { d: Half::of(d), m: Half::of(m), qh: fifths(&q), qs: nibbles(&q) }
    }
}

impl Encode for BlockQ8_0 {
    fn encode(x: &[f32]) -> Self {
        let x: &[f32; 32] = array(x);
        let d = extreme(x).abs() / 127.0;
        let inverse = inverse(d);
        BlockQ8_0 { d: Half::of(d), qs: x.map(|x| (x * inverse).round() as i8) }
    }
}

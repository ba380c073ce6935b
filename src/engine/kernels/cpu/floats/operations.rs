//! The operations, over any [`Floats`]. What is left of a row beyond whole registers is filled up with what changes
//! nothing.
//!
//! # Safety
//! All need a processor that has the instructions.

use super::{Element, Floats, LANES};
use half::f16;

/// GELU in its approximation by tanh is `x * sigmoid((GELU_LINEAR + GELU_CUBIC x^2) x)`: twice the root of 2 / pi, and
/// that times 0.044715.
const GELU_LINEAR: f32 = 1.595_769;
const GELU_CUBIC: f32 = 0.071_354_81;

/// erf in the form of Abramowitz and Stegun, 7.1.26: `1 - t (A[0] + t (A[1] + ...)) exp(-x^2)` with `t = 1 / (1 + P x)`
/// for positive x, within 1.5e-7.
const P: f32 = 0.327_591_1;
const A: [f32; 5] = [0.254_829_6, -0.284_496_74, 1.421_413_7, -1.453_152, 1.061_405_4];

/// What is left of a row, and `filler`.
#[inline(always)]
fn filled<T: Copy>(rest: &[T], filler: T) -> [T; LANES] {
    let mut all = [filler; LANES];
    all[..rest.len()].copy_from_slice(rest);
    all
}

/// Replaces each sixteen numbers `$x` of a row by `$value`.
macro_rules! replace {
    ($F:ident, $row:expr, $x:ident => $value:expr) => {
        let (whole, rest) = $row.as_chunks_mut::<LANES>();
        for row in whole {
            let $x = $F::load(row.as_ptr());
            $value.store(row.as_mut_ptr());
        }
        if !rest.is_empty() {
            let mut row = filled(rest, 0.0);
            let $x = $F::load(row.as_ptr());
            $value.store(row.as_mut_ptr());
            rest.copy_from_slice(&row[..rest.len()]);
        }
    };
    ($F:ident, $row:expr, $x:ident, $others:expr, $y:ident => $value:expr) => {
        let (whole, rest) = $row.as_chunks_mut::<LANES>();
        let (others, others_rest) = $others.as_chunks::<LANES>();
        for (row, others) in whole.iter_mut().zip(others) {
            let ($x, $y) = ($F::load(row.as_ptr()), $F::load(others.as_ptr()));
            $value.store(row.as_mut_ptr());
        }
        if !rest.is_empty() {
            let (mut row, others) = (filled(rest, 0.0), filled(others_rest, 0.0));
            let ($x, $y) = ($F::load(row.as_ptr()), $F::load(others.as_ptr()));
            $value.store(row.as_mut_ptr());
            rest.copy_from_slice(&row[..rest.len()]);
        }
    };
}

/// The sum over a row of what `$add` makes of sixteen numbers `$x` and a sum; `$filler` adds nothing.
macro_rules! total {
    ($F:ident, $row:expr, $filler:expr, ($x:ident, $sum:ident) => $add:expr) => {{
        let (whole, rest) = $row.as_chunks::<LANES>();
        let mut $sum = $F::splat(0.0);
        for row in whole {
            let $x = $F::load(row.as_ptr());
            $sum = $add;
        }
        if !rest.is_empty() {
            let $x = $F::load(filled(rest, $filler).as_ptr());
            $sum = $add;
        }
        let [sum] = $F::sums([$sum]);
        sum
    }};
}

/// `out = x / rms(x) * weight`.
#[inline(always)]
pub unsafe fn norm<F: Floats>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    // SAFETY: the caller's; pointers are to arrays.
    let squares = unsafe { total!(F, x, 0.0, (x, sum) => x.fma(x, sum)) };
    let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

/// `x = (x - mean) / sqrt(variance + eps) * weight + bias`.
#[inline(always)]
pub unsafe fn layer_norm<F: Floats>(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let len = x.len() as f32;
    // SAFETY: the caller's; pointers are to arrays.
    let (mean, variance) = unsafe {
        let mean = total!(F, x, 0.0, (x, sum) => x.add(sum)) / len;
        let squares = total!(F, x, mean, (x, sum) => {
            let x = x.sub(F::splat(mean));
            x.fma(x, sum)
        });
        (mean, squares / len)
    };
    let scale = 1.0 / (variance + eps).sqrt();
    for ((x, weight), bias) in x.iter_mut().zip(weight).zip(bias) {
        *x = (*x - mean) * scale * weight + bias;
    }
}

/// `x * sigmoid(slope * x)`.
#[inline(always)]
unsafe fn sloped<F: Floats>(x: F, slope: F) -> F {
    // SAFETY: the caller's.
    unsafe { x.div(F::splat(1.0).add(slope.negative().mul(x).exp())) }
}

/// `gate = gate * sigmoid(gate) * up`.
#[inline(always)]
pub unsafe fn silu<F: Floats>(gate: &mut [f32], up: &[f32]) {
    // SAFETY: the caller's; pointers are to arrays.
    unsafe {
        replace!(F, gate, x, up, up => sloped(x, F::splat(1.0)).mul(up));
    }
}

/// `gate = gelu(gate) * up`, in the approximation by tanh, which is a sigmoid of twice its argument.
#[inline(always)]
pub unsafe fn gelu<F: Floats>(gate: &mut [f32], up: &[f32]) {
    // SAFETY: the caller's; pointers are to arrays.
    unsafe {
        replace!(F, gate, x, up, up => {
            let slope = x.mul(x).fma(F::splat(GELU_CUBIC), F::splat(GELU_LINEAR));
            sloped(x, slope).mul(up)
        });
    }
}

/// `x = x * (1 + erf(x / sqrt(2))) / 2`.
#[inline(always)]
pub unsafe fn gelu_of_erf<F: Floats>(x: &mut [f32]) {
    // SAFETY: the caller's; pointers are to arrays.
    unsafe {
        let one = F::splat(1.0);
        replace!(F, x, x => {
            let size = x.abs();
            let y = size.mul(F::splat(std::f32::consts::FRAC_1_SQRT_2));
            let t = one.div(y.fma(F::splat(P), one));
            let mut beyond = F::splat(0.0);
            for a in [A[4], A[3], A[2], A[1], A[0]] {
                beyond = beyond.add(F::splat(a)).mul(t);
            }
            let beyond = beyond.mul(y.mul(y).negative().exp());
            // The order of the operands lets what is no number through.
            size.mul(F::splat(0.5)).fnma(beyond, F::splat(0.0).max(x))
        });
    }
}

/// Each score becomes `exp(score - most)`; returns their sum.
#[inline(always)]
pub unsafe fn exponentials<F: Floats>(scores: &mut [f32], most: f32) -> f32 {
    // SAFETY: the caller's; pointers are to arrays.
    unsafe {
        let (whole, rest) = scores.as_chunks_mut::<LANES>();
        let mut total = F::splat(0.0);
        for scores in whole {
            let v = F::load(scores.as_ptr()).sub(F::splat(most)).exp();
            v.store(scores.as_mut_ptr());
            total = total.add(v);
        }
        if !rest.is_empty() {
            let mut scores = filled(rest, f32::NEG_INFINITY);
            let v = F::load(scores.as_ptr()).sub(F::splat(most)).exp();
            v.store(scores.as_mut_ptr());
            total = total.add(v);
            rest.copy_from_slice(&scores[..rest.len()]);
        }
        let [total] = F::sums([total]);
        total
    }
}

/// Rounds to halves.
#[inline(always)]
pub unsafe fn to_f16<F: Floats>(x: &[f32], out: &mut [f16]) {
    let (whole, rest) = x.as_chunks::<LANES>();
    let (outs, out_rest) = out.as_chunks_mut::<LANES>();
    // SAFETY: the caller's; pointers are to arrays.
    unsafe {
        for (x, out) in whole.iter().zip(outs) {
            F::load(x.as_ptr()).store_f16(out.as_mut_ptr());
        }
        let mut last = [f16::ZERO; LANES];
        F::load(filled(rest, 0.0).as_ptr()).store_f16(last.as_mut_ptr());
        out_rest.iter_mut().zip(last).for_each(|(out, last)| *out = last);
    }
}

/// The products of keys, one every `stride` numbers, with `N` queries of the same length: a row of `out` each.
///
/// # Panics
/// Where something is shorter than it should be.
#[inline(always)]
pub unsafe fn score<F: Floats, T: Element, const N: usize>(
    keys: &[T],
    stride: usize,
    queries: [&[f32]; N],
    out: [&mut [f32]; N],
) {
    let size = queries.first().map_or(0, |query| query.len());
    let queries = queries.map(|query| query[..size].as_chunks::<LANES>());
    for (k, key) in keys.chunks(stride).enumerate() {
        let (whole, rest) = key[..size].as_chunks::<LANES>();
        // SAFETY: the caller's; pointers are to arrays.
        let scores = unsafe {
            let mut sums = [F::splat(0.0); N];
            for (i, key) in whole.iter().enumerate() {
                let key = T::load::<F>(key);
                for n in 0..N {
                    sums[n] = key.fma(F::load(queries[n].0[i].as_ptr()), sums[n]);
                }
            }
            if !rest.is_empty() {
                let key = T::load::<F>(&filled(rest, T::ZERO));
                for n in 0..N {
                    sums[n] = key.fma(F::load(filled(queries[n].1, 0.0).as_ptr()), sums[n]);
                }
            }
            F::sums(sums)
        };
        for n in 0..N {
            out[n][k] = scores[n];
        }
    }
}

/// Adds to each of `N` sums the values, each weighted: a value every `stride` numbers, as long as a sum; a weight each.
///
/// # Panics
/// Where something is shorter than it should be.
#[inline(always)]
pub unsafe fn weigh<F: Floats, T: Element, const N: usize>(
    values: &[T],
    stride: usize,
    weights: [&[f32]; N],
    sums: [&mut [f32]; N],
) {
    let size = sums.first().map_or(0, |sum| sum.len());
    let whole = size / LANES * LANES;
    // Sixteen dimensions at a time, so that their sums stay in registers over all values.
    for at in (0..whole).step_by(LANES) {
        // SAFETY: the caller's; pointers are to arrays.
        unsafe {
            let mut vectors = [F::splat(0.0); N];
            for n in 0..N {
                vectors[n] = F::load(sums[n][at..at + LANES].as_ptr());
            }
            for (row, value) in values.chunks(stride).enumerate() {
                let Some(value) = value[at..].first_chunk::<LANES>() else { break };
                let value = T::load::<F>(value);
                for n in 0..N {
                    vectors[n] = value.fma(F::splat(weights[n][row]), vectors[n]);
                }
            }
            for n in 0..N {
                vectors[n].store(sums[n][at..at + LANES].as_mut_ptr());
            }
        }
    }
    if whole == size {
        return;
    }
    // SAFETY: as above.
    unsafe {
        let mut vectors = [F::splat(0.0); N];
        for n in 0..N {
            vectors[n] = F::load(filled(&sums[n][whole..], 0.0).as_ptr());
        }
        for (row, value) in values.chunks(stride).enumerate() {
            let value = T::load::<F>(&filled(&value[whole..size], T::ZERO));
            for n in 0..N {
                vectors[n] = value.fma(F::splat(weights[n][row]), vectors[n]);
            }
        }
        for n in 0..N {
            let mut last = [0.0; LANES];
            vectors[n].store(last.as_mut_ptr());
            sums[n][whole..].copy_from_slice(&last[..size - whole]);
        }
    }
}

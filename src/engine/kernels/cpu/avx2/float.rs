//! Sums, products and exponentials of floats.
//!
//! Every loop goes over whole vectors and leaves the rest to a plain one; slices that belong together are cut to the
//! shortest first, so that the pointers stay within all of them.

use half::f16;
use std::arch::x86_64::*;

use super::super::{GELU_CUBIC, GELU_LINEAR, scalar};

/// Floats in a vector.
pub const LANES: usize = 8;

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub fn sum(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

/// Eight floats from the beginning of a slice that has them.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub fn load(x: &[f32]) -> __m256 {
    assert!(x.len() >= LANES);
    // SAFETY: the slice has eight floats.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub fn store(x: &mut [f32], v: __m256) {
    assert!(x.len() >= LANES);
    // SAFETY: the slice has room for eight floats.
    unsafe { _mm256_storeu_ps(x.as_mut_ptr(), v) }
}

/// Eight halves from the beginning of a slice that has them.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_f16(x: &[f16]) -> __m256 {
    assert!(x.len() >= LANES);
    // SAFETY: the slice has eight halves, which are 16 bytes.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())) }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let (vectors, rest) = x.as_chunks::<LANES>();
    let mut squares = _mm256_setzero_ps();
    for x in vectors {
        let x = load(x);
        squares = _mm256_fmadd_ps(x, x, squares);
    }
    let squares = sum(squares) + rest.iter().map(|x| x * x).sum::<f32>();
    let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

/// e to the power of each, to within two units in the last place; what would be less than the least normal number is 0.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub fn exp(x: __m256) -> __m256 {
    let least = _mm256_set1_ps(-87.33654);
    let vanishes = _mm256_cmp_ps::<_CMP_LT_OQ>(x, least);
    // The order of the operands lets NaN through.
    let x = _mm256_min_ps(_mm256_set1_ps(88.72283), _mm256_max_ps(least, x));
    // x = n ln 2 + r, with ln 2 in two parts so that n times the first is exact.
    let n = _mm256_mul_ps(x, _mm256_set1_ps(std::f32::consts::LOG2_E));
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(n);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693_359_4), x);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.121_944_4e-4), r);
    // e^r = 1 + r + r^2 p(r) for |r| <= ln 2 / 2; the coefficients are those of Cephes' expf.
    let mut p = _mm256_set1_ps(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
    }
    let p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0));
    // 2^128 has no representation: two factors.
    let n = _mm256_cvtps_epi32(n);
    let half = _mm256_srai_epi32::<1>(n);
    let p = _mm256_mul_ps(p, power_of_two(half));
    let p = _mm256_mul_ps(p, power_of_two(_mm256_sub_epi32(n, half)));
    _mm256_andnot_ps(vanishes, p)
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn power_of_two(n: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))))
}

/// `gate * sigmoid(slope * gate) * up`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sigmoid_gate(gate: __m256, slope: __m256, up: __m256) -> __m256 {
    let one = _mm256_set1_ps(1.0);
    let exponent = _mm256_mul_ps(_mm256_xor_ps(slope, _mm256_set1_ps(-0.0)), gate);
    _mm256_mul_ps(_mm256_div_ps(gate, _mm256_add_ps(one, exp(exponent))), up)
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn silu(gate: &mut [f32], up: &[f32]) {
    let (vectors, rest) = gate.as_chunks_mut::<LANES>();
    let (ups, up_rest) = up.as_chunks::<LANES>();
    for (gate, up) in vectors.iter_mut().zip(ups) {
        let v = sigmoid_gate(load(gate), _mm256_set1_ps(1.0), load(up));
        store(gate, v);
    }
    scalar::silu(rest, up_rest);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn gelu(gate: &mut [f32], up: &[f32]) {
    let (vectors, rest) = gate.as_chunks_mut::<LANES>();
    let (ups, up_rest) = up.as_chunks::<LANES>();
    for (gate, up) in vectors.iter_mut().zip(ups) {
        let x = load(gate);
        let slope = _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(GELU_CUBIC), _mm256_set1_ps(GELU_LINEAR));
        store(gate, sigmoid_gate(x, slope, load(up)));
    }
    scalar::gelu(rest, up_rest);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn score<const N: usize>(key: &[f16], queries: [&[f32]; N]) -> [f32; N] {
    let whole = key.len() / LANES * LANES;
    let mut sums = [_mm256_setzero_ps(); N];
    for at in (0..whole).step_by(LANES) {
        let key = load_f16(&key[at..]);
        for n in 0..N {
            sums[n] = _mm256_fmadd_ps(key, load(&queries[n][at..]), sums[n]);
        }
    }
    let mut scores = [0.0; N];
    for n in 0..N {
        let rest = key[whole..].iter().zip(&queries[n][whole..]).map(|(key, query)| key.to_f32() * query);
        scores[n] = sum(sums[n]) + rest.sum::<f32>();
    }
    scores
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn weigh<const N: usize>(values: &[f16], weights: [&[f32]; N], sums: [&mut [f32]; N]) {
    let size = sums.first().map_or(0, |sum| sum.len());
    let whole = size / LANES * LANES;
    // Eight dimensions at a time, so that their sums stay in registers over all rows.
    for at in (0..whole).step_by(LANES) {
        let mut vectors = [_mm256_setzero_ps(); N];
        for n in 0..N {
            vectors[n] = load(&sums[n][at..]);
        }
        for (row, values) in values.chunks_exact(size).enumerate() {
            let value = load_f16(&values[at..]);
            for n in 0..N {
                vectors[n] = _mm256_fmadd_ps(value, _mm256_set1_ps(weights[n][row]), vectors[n]);
            }
        }
        for n in 0..N {
            store(&mut sums[n][at..], vectors[n]);
        }
    }
    for (sum, weights) in sums.into_iter().zip(weights) {
        for (values, weight) in values.chunks_exact(size.max(1)).zip(weights) {
            for (sum, value) in sum[whole..].iter_mut().zip(&values[whole..]) {
                *sum += weight * value.to_f32();
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn exponentials(scores: &mut [f32], most: f32) -> f32 {
    let (vectors, rest) = scores.as_chunks_mut::<LANES>();
    let mut total = _mm256_setzero_ps();
    for scores in vectors {
        let v = exp(_mm256_sub_ps(load(scores), _mm256_set1_ps(most)));
        store(scores, v);
        total = _mm256_add_ps(total, v);
    }
    sum(total) + scalar::exponentials(rest, most)
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn to_f16(x: &[f32], out: &mut [f16]) {
    let (vectors, rest) = x.as_chunks::<LANES>();
    let (outs, out_rest) = out.as_chunks_mut::<LANES>();
    for (x, out) in vectors.iter().zip(outs) {
        let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(load(x));
        // SAFETY: `out` is eight halves, 16 bytes.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), halves) };
    }
    scalar::to_f16(rest, out_rest);
}

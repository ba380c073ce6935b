//! The same with AVX2 and FMA. Every loop goes over whole vectors and leaves the rest to the plain one.

use super::super::avx2::float::{LANES, exp, load, store, sum};
use super::scalar;
use std::arch::x86_64::*;

#[target_feature(enable = "avx2,fma,f16c")]
pub fn gelu(x: &mut [f32]) {
    let (vectors, rest) = x.as_chunks_mut::<LANES>();
    let one = _mm256_set1_ps(1.0);
    for x in vectors {
        let v = load(x);
        let size = _mm256_andnot_ps(_mm256_set1_ps(-0.0), v);
        let y = _mm256_mul_ps(size, _mm256_set1_ps(std::f32::consts::FRAC_1_SQRT_2));
        let t = _mm256_div_ps(one, _mm256_fmadd_ps(_mm256_set1_ps(scalar::P), y, one));
        let mut beyond = _mm256_setzero_ps();
        for a in scalar::A.into_iter().rev() {
            beyond = _mm256_mul_ps(_mm256_add_ps(beyond, _mm256_set1_ps(a)), t);
        }
        beyond = _mm256_mul_ps(beyond, exp(_mm256_fnmadd_ps(y, y, _mm256_setzero_ps())));
        let half = _mm256_mul_ps(_mm256_set1_ps(0.5), size);
        // The order of the operands lets NaN through.
        store(x, _mm256_fnmadd_ps(half, beyond, _mm256_max_ps(_mm256_setzero_ps(), v)));
    }
    scalar::gelu(rest);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let len = x.len() as f32;
    let (vectors, rest) = x.as_chunks::<LANES>();
    let mut total = _mm256_setzero_ps();
    for x in vectors {
        total = _mm256_add_ps(total, load(x));
    }
    let mean = (sum(total) + rest.iter().sum::<f32>()) / len;
    let mut squares = _mm256_setzero_ps();
    for x in vectors {
        let x = _mm256_sub_ps(load(x), _mm256_set1_ps(mean));
        squares = _mm256_fmadd_ps(x, x, squares);
    }
    let variance = (sum(squares) + rest.iter().map(|x| (x - mean).powi(2)).sum::<f32>()) / len;
    let scale = 1.0 / (variance + eps).sqrt();
    for ((x, weight), bias) in x.iter_mut().zip(weight).zip(bias) {
        *x = (*x - mean) * scale * weight + bias;
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub fn score<const N: usize>(key: &[f32], queries: [&[f32]; N]) -> [f32; N] {
    let whole = key.len() / LANES * LANES;
    let mut sums = [_mm256_setzero_ps(); N];
    for at in (0..whole).step_by(LANES) {
        let key = load(&key[at..]);
        for n in 0..N {
            sums[n] = _mm256_fmadd_ps(key, load(&queries[n][at..]), sums[n]);
        }
    }
    let rest = scalar::score(&key[whole..], queries.map(|query| &query[whole..]));
    std::array::from_fn(|n| sum(sums[n]) + rest[n])
}

#[target_feature(enable = "avx2,fma,f16c")]
pub fn weigh<const N: usize>(values: &[f32], stride: usize, weights: [&[f32]; N], mut sums: [&mut [f32]; N]) {
    let whole = sums.first().map_or(0, |sum| sum.len()) / LANES * LANES;
    // Eight dimensions at a time, so that their sums stay in registers over all values.
    for at in (0..whole).step_by(LANES) {
        let mut vectors = [_mm256_setzero_ps(); N];
        for n in 0..N {
            vectors[n] = load(&sums[n][at..]);
        }
        for (row, value) in values.chunks(stride).enumerate() {
            let value = load(&value[at..]);
            for n in 0..N {
                vectors[n] = _mm256_fmadd_ps(value, _mm256_set1_ps(weights[n][row]), vectors[n]);
            }
        }
        for n in 0..N {
            store(&mut sums[n][at..], vectors[n]);
        }
    }
    if sums.iter().any(|sum| sum.len() > whole) {
        let rest = sums.each_mut().map(|sum| &mut sum[whole..]);
        scalar::weigh(&values[whole..], stride, weights, rest);
    }
}

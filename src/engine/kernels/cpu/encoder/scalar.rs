//! The reference: plain loops, on any processor.

/// erf in the form of Abramowitz and Stegun, 7.1.26: `1 - t (A[0] + t (A[1] + ...)) exp(-x^2)` with `t = 1 / (1 + P x)`
/// for positive x, within 1.5e-7.
pub const P: f32 = 0.327_591_1;
pub const A: [f32; 5] = [0.254_829_6, -0.284_496_74, 1.421_413_7, -1.453_152, 1.061_405_4];

/// `x = x * (1 + erf(x / sqrt(2))) / 2`.
pub fn gelu(x: &mut [f32]) {
    for x in x {
        let y = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
        let t = 1.0 / (1.0 + P * y);
        let beyond = A.iter().rev().fold(0.0, |sum, a| (sum + a) * t) * (-y * y).exp();
        *x = x.max(0.0) - 0.5 * x.abs() * beyond;
    }
}

/// `x = (x - mean) / sqrt(variance + eps) * weight + bias`.
pub fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let mean = x.iter().sum::<f32>() / x.len() as f32;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / x.len() as f32;
    let scale = 1.0 / (variance + eps).sqrt();
    for ((x, weight), bias) in x.iter_mut().zip(weight).zip(bias) {
        *x = (*x - mean) * scale * weight + bias;
    }
}

/// The products of a key with `N` queries.
pub fn score<const N: usize>(key: &[f32], queries: [&[f32]; N]) -> [f32; N] {
    queries.map(|query| key.iter().zip(query).map(|(key, query)| key * query).sum())
}

/// Adds to each of `N` sums the values, each weighted: a value every `stride` numbers, as long as a sum.
pub fn weigh<const N: usize>(values: &[f32], stride: usize, weights: [&[f32]; N], sums: [&mut [f32]; N]) {
    for (weights, sum) in weights.into_iter().zip(sums) {
        for (value, weight) in values.chunks(stride).zip(weights) {
            for (sum, value) in sum.iter_mut().zip(value) {
                *sum += weight * value;
            }
        }
    }
}

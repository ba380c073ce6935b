//! The reference: plain loops, on any processor.

use crate::engine::quant::Block;
use half::f16;

/// The products of a row of weights with `N` columns of activations.
pub fn dot<B: Block, const N: usize>(row: &[B], columns: [&[B::X]; N]) -> [f32; N] {
    columns.map(|x| row.iter().zip(x).map(|(w, x)| w.dot(x)).sum())
}

/// `out = x / rms(x) * weight`.
pub fn norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let squares: f32 = x.iter().map(|x| x * x).sum();
    let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

/// `gate = gate * sigmoid(gate) * up`.
pub fn silu(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + (-*gate).exp()) * up;
    }
}

/// `gate = gelu(gate) * up`, in the approximation by tanh.
pub fn gelu(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + (-gelu_slope(*gate) * *gate).exp()) * up;
    }
}

/// tanh is a sigmoid of twice its argument: `gelu(x) = x * sigmoid(gelu_slope(x) * x)`.
fn gelu_slope(x: f32) -> f32 {
    super::GELU_LINEAR + super::GELU_CUBIC * x * x
}

/// The products of a key with `N` queries.
pub fn score<const N: usize>(key: &[f16], queries: [&[f32]; N]) -> [f32; N] {
    queries.map(|query| key.iter().zip(query).map(|(key, query)| key.to_f32() * query).sum())
}

/// Adds to each of `N` sums the values, each weighted. `values` are rows as long as a sum, a row a weight.
pub fn weigh<const N: usize>(values: &[f16], weights: [&[f32]; N], sums: [&mut [f32]; N]) {
    for (weights, sum) in weights.into_iter().zip(sums) {
        for (values, weight) in values.chunks_exact(sum.len()).zip(weights) {
            for (sum, value) in sum.iter_mut().zip(values) {
                *sum += weight * value.to_f32();
            }
        }
    }
}

/// Each score becomes `exp(score - most)`; returns their sum.
pub fn exponentials(scores: &mut [f32], most: f32) -> f32 {
    for score in scores.iter_mut() {
        *score = (*score - most).exp();
    }
    scores.iter().sum()
}

/// Rounds to halves.
pub fn to_f16(x: &[f32], out: &mut [f16]) {
    for (x, out) in x.iter().zip(out) {
        *out = f16::from_f32(*x);
    }
}

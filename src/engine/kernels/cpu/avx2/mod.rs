//! AVX2 with FMA and F16C: x86 processors since 2013.
//!
//! Each function is checked against the one of the same name in [`super::scalar`].

mod blocks;
pub(super) mod float;
mod sixteens;
mod table;

use crate::engine::quant::{X8_0, X8K};
pub use blocks::Dot;
use half::f16;

/// Proof that this processor has AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx2(());

impl Avx2 {
    /// Asks the processor.
    pub fn detect() -> Option<Avx2> {
        let all =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        all.then_some(Avx2(()))
    }

    /// See [`super::scalar::dot`].
    pub fn dot<B: Dot, const N: usize>(self, row: &[B], columns: [&[B::X]; N]) -> [f32; N] {
        // SAFETY: `self` is the proof that the features are there.
        unsafe { B::dot_avx2(row, columns) }
    }

    /// Quantises a row of activations.
    pub fn quantise_x8_0(self, x: &[f32], out: &mut [X8_0]) {
        // SAFETY: as above.
        unsafe { blocks::quantise_x8_0(x, out) }
    }

    /// Quantises a row of activations.
    pub fn quantise_x8_k(self, x: &[f32], out: &mut [X8K]) {
        // SAFETY: as above.
        unsafe { blocks::quantise_x8_k(x, out) }
    }

    /// See [`super::scalar::norm`].
    pub fn norm(self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        // SAFETY: as above.
        unsafe { float::norm(x, weight, eps, out) }
    }

    /// See [`super::scalar::silu`].
    pub fn silu(self, gate: &mut [f32], up: &[f32]) {
        // SAFETY: as above.
        unsafe { float::silu(gate, up) }
    }

    /// See [`super::scalar::gelu`].
    pub fn gelu(self, gate: &mut [f32], up: &[f32]) {
        // SAFETY: as above.
        unsafe { float::gelu(gate, up) }
    }

    /// See [`super::scalar::score`].
    pub fn score<const N: usize>(self, key: &[f16], queries: [&[f32]; N]) -> [f32; N] {
        // SAFETY: as above.
        unsafe { float::score(key, queries) }
    }

    /// See [`super::scalar::weigh`].
    pub fn weigh<const N: usize>(self, values: &[f16], weights: [&[f32]; N], sums: [&mut [f32]; N]) {
        // SAFETY: as above.
        unsafe { float::weigh(values, weights, sums) }
    }

    /// See [`super::scalar::exponentials`].
    pub fn exponentials(self, scores: &mut [f32], most: f32) -> f32 {
        // SAFETY: as above.
        unsafe { float::exponentials(scores, most) }
    }

    /// See [`super::scalar::to_f16`].
    pub fn to_f16(self, x: &[f32], out: &mut [f16]) {
        // SAFETY: as above.
        unsafe { float::to_f16(x, out) }
    }
}

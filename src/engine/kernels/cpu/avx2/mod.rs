//! AVX2 with FMA and F16C, of x86 processors since 2013: activations rounded to 8 bits, and products of rows with them.
//!
//! Each product gives the same bits as that of [`crate::engine::quant`].

mod blocks;
mod groups;
mod sixteens;
mod table;

use crate::engine::quant::{X8_0, X8K};
pub use blocks::DotAvx2;

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

    /// The products of a row with `N` columns of activations.
    pub fn dot<B: DotAvx2, const N: usize>(self, row: &[B], columns: [&[B::X]; N]) -> [f32; N] {
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
}

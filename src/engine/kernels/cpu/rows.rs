//! Products of rows of weights, as files store them, with columns of activations.
//!
//! The order of a row's sum is that of its blocks, whatever the instructions: the products of a block's integers are exact,
//! and are scaled and added once a block. Rows of floats are summed as [`super::floats`] does.

use super::Isa;
use crate::engine::quant::{
    Block, BlockBF16, BlockF16, BlockF32, BlockIQ4NL, BlockIQ4XS, BlockMXFP4, BlockNVFP4, BlockQ2K, BlockQ3K,
    BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};

/// Blocks that are multiplied in rows.
pub trait Dot: Block {
    /// The products of a row with `N` columns of activations.
    fn dot<const N: usize>(isa: Isa, row: &[Self], columns: [&[Self::X]; N]) -> [f32; N];
}

/// The reference.
fn plain<B: Block, const N: usize>(row: &[B], columns: [&[B::X]; N]) -> [f32; N] {
    columns.map(|x| row.iter().zip(x).fold(0.0, |sum, (w, x)| w.add_product(x, sum)))
}

macro_rules! dot {
    ($(($isa:ident, $row:ident, $columns:ident) => $dot:expr; $($block:ty),*;)*) => {$($(
        impl Dot for $block {
            #[inline]
            fn dot<const N: usize>($isa: Isa, $row: &[Self], $columns: [&[Self::X]; N]) -> [f32; N] {
                $dot
            }
        }
    )*)*};
}

dot! {
    (isa, row, columns) => {
        let mut out = [0.0; N];
        isa.score(row, row.len(), columns, out.each_mut().map(std::slice::from_mut));
        out
    };
    BlockF32, BlockF16, BlockBF16;

    (isa, row, columns) => match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(avx2) | Isa::AvxVnni(avx2) | Isa::Avx512(avx2) => avx2.dot(row, columns),
        _ => plain(row, columns),
    };
    BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockIQ4NL, BlockMXFP4, BlockNVFP4, BlockQ2K, BlockQ3K,
    BlockQ4K, BlockQ5K, BlockQ6K, BlockIQ4XS;
}

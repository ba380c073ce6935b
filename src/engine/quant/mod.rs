//! How weights are stored: one file a format, each with its block, how it becomes numbers again, and the reference of its
//! dot product.
//!
//! A row of a matrix is a sequence of [`Block`]s. Activations are quantised to 8 bits before they meet quantised
//! weights, in blocks that match ([`x8_0`], [`x8_k`]), so that the products are of integers ([`integers`]); weights that
//! are floats meet the activations as they are. Faster kernels lie in `kernels` and are checked against what is here.

mod bf16;
mod encode;
mod f16;
mod f32;
pub mod integers;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod nvfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod scales;
pub mod x8_0;
pub mod x8_k;

#[cfg(test)]
pub(super) mod tests;

pub use bf16::BlockBF16;
pub use encode::Encode;
pub use f16::BlockF16;
pub use f32::BlockF32;
pub use integers::{Integers, Packed};
pub use iq4_nl::{BlockIQ4NL, NON_LINEAR};
pub use iq4_xs::BlockIQ4XS;
pub use mxfp4::{BlockMXFP4, FLOATS_OF_4};
pub use nvfp4::BlockNVFP4;
pub use q2_k::BlockQ2K;
pub use q3_k::BlockQ3K;
pub use q4_0::BlockQ4_0;
pub use q4_1::BlockQ4_1;
pub use q4_k::BlockQ4K;
pub use q5_0::BlockQ5_0;
pub use q5_1::BlockQ5_1;
pub use q5_k::BlockQ5K;
pub use q6_k::BlockQ6K;
pub use q8_0::BlockQ8_0;
pub use scales::Scales;
pub use x8_0::X8_0;
pub use x8_k::X8K;

use super::gguf::Kind;

/// A block of weights as it lies in a file.
///
/// # Safety
/// The type is `repr(C)` with alignment 1, has no padding, and every pattern of bits is a value of it: so any bytes of
/// a file can be read as blocks.
pub unsafe trait Block: Copy + Send + Sync + 'static {
    /// Weights in a block.
    const LEN: usize;

    /// A block of as many activations.
    type X: Activation;

    /// Writes the block's `LEN` weights to `out`.
    fn dequantise(&self, out: &mut [f32]);

    /// Adds the product with a block of activations to a sum: the reference that faster ones are checked against, to the bit.
    /// Products of integers are exact; what is scaled is rounded once, as it is added.
    fn add_product(&self, x: &Self::X, sum: f32) -> f32;
}

/// A block of activations.
pub trait Activation: Copy + Send + Sync + 'static {
    /// Activations in a block.
    const LEN: usize;

    /// Of `LEN` numbers.
    fn quantise(x: &[f32]) -> Self;
}

impl Activation for f32 {
    const LEN: usize = 1;

    fn quantise(x: &[f32]) -> f32 {
        x[0]
    }
}

/// One table of all formats: name, name in files, block.
macro_rules! formats {
    ($($name:ident $kind:ident $block:ident;)*) => {
        /// The formats that are computed with.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, non_camel_case_types, reason = "the names are ggml's")]
        pub enum Format { $($name,)* }

        impl Format {
            /// All of them.
            pub const ALL: &[Format] = &[$(Format::$name,)*];

            /// What a file calls it.
            pub fn kind(self) -> Kind {
                match self { $(Format::$name => Kind::$kind,)* }
            }
        }

        /// The blocks by their formats' names, for [`with_block`].
        pub(crate) mod block_of {
            $(pub type $name = super::$block;)*
        }
    };
}

formats! {
    F32   F32    BlockF32;
    F16   F16    BlockF16;
    BF16  BF16   BlockBF16;
    Q4_0  Q4_0   BlockQ4_0;
    Q4_1  Q4_1   BlockQ4_1;
    Q5_0  Q5_0   BlockQ5_0;
    Q5_1  Q5_1   BlockQ5_1;
    Q8_0  Q8_0   BlockQ8_0;
    Q2K   Q2_K   BlockQ2K;
    Q3K   Q3_K   BlockQ3K;
    Q4K   Q4_K   BlockQ4K;
    Q5K   Q5_K   BlockQ5K;
    Q6K   Q6_K   BlockQ6K;
    IQ4NL IQ4_NL BlockIQ4NL;
    IQ4XS IQ4_XS BlockIQ4XS;
    MXFP4 MXFP4  BlockMXFP4;
    NVFP4 NVFP4  BlockNVFP4;
}

/// Runs `$body` with the type `$block` being the block of `$format`.
macro_rules! with_block {
    ($format:expr, $block:ident => $body:expr) => {
        $crate::engine::quant::with_block!(
            $format, $block => $body,
            F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K IQ4NL IQ4XS MXFP4 NVFP4
        )
    };
    ($format:expr, $block:ident => $body:expr, $($name:ident)*) => {
        match $format {
            $($crate::engine::quant::Format::$name => {
                type $block = $crate::engine::quant::block_of::$name;
                $body
            })*
        }
    };
}
pub(crate) use with_block;

impl Format {
    /// The format of a file's tensors of `kind`, where that is one that is computed with.
    pub fn of(kind: Kind) -> Option<Format> {
        Format::ALL.iter().copied().find(|format| format.kind() == kind)
    }

    /// Weights in a block.
    pub fn block_len(self) -> usize {
        with_block!(self, B => B::LEN)
    }

    /// Bytes of a row of `cols` weights, which is a whole number of blocks.
    pub fn row_bytes(self, cols: usize) -> usize {
        debug_assert!(cols.is_multiple_of(self.block_len()));
        with_block!(self, B => cols / B::LEN * size_of::<B>())
    }

    /// Writes the weights of a row to `out`.
    pub fn dequantise(self, row: &[u8], out: &mut [f32]) {
        with_block!(self, B => {
            for (block, out) in blocks::<B>(row).iter().zip(out.chunks_exact_mut(B::LEN)) {
                block.dequantise(out);
            }
        });
    }
}

/// Bytes as the blocks that they hold; a broken last block is left out.
pub fn blocks<B: Block>(bytes: &[u8]) -> &[B] {
    const { assert!(align_of::<B>() == 1 && size_of::<B>() > 0) };
    // SAFETY: a block has alignment 1 and any bits are a value of it (the contract of `Block`); the length is that of
    // the whole blocks in `bytes`, whose lifetime the result keeps.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<B>()) }
}

/// Quantises a row of activations.
pub fn quantise<X: Activation>(x: &[f32], out: &mut [X]) {
    for (x, out) in x.chunks_exact(X::LEN).zip(out) {
        *out = X::quantise(x);
    }
}

/// An IEEE half as it lies in a file, at any address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Half(pub [u8; 2]);

impl Half {
    /// Its bits.
    pub fn bits(self) -> u16 {
        u16::from_le_bytes(self.0)
    }

    /// The number.
    pub fn to_f32(self) -> f32 {
        half::f16::from_bits(self.bits()).to_f32()
    }
}

//! Numbers to blocks: the way into a file.
//!
//! The plain formats follow from their definitions, and give ggml's bytes. The others leave a choice of scales, and are
//! searched for the least squared error ([`affine`], [`symmetric`]).

mod affine;
mod fp4;
mod iq4;
mod packing;
mod plain;
mod symmetric;

#[cfg(test)]
mod tests;

use super::{Block, BlockBF16, BlockF16, BlockF32, Format, Half, with_block};

/// A block that can be made of numbers.
pub trait Encode: Block {
    /// The block that comes nearest to `LEN` numbers.
    fn encode(x: &[f32]) -> Self;
}

impl Format {
    /// Stores a row of numbers, a whole number of blocks.
    pub fn encode(self, x: &[f32], out: &mut [u8]) {
        with_block!(self, B => {
            for (x, out) in x.chunks_exact(B::LEN).zip(out.chunks_exact_mut(size_of::<B>())) {
                out.copy_from_slice(bytes(&B::encode(x)));
            }
        });
    }
}

/// A block as it lies in a file.
fn bytes<B: Block>(block: &B) -> &[u8] {
    // SAFETY: a block has no padding (the contract of `Block`), so that all its bytes are initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(block).cast(), size_of::<B>()) }
}

impl Half {
    /// The nearest to a number.
    pub fn of(x: f32) -> Half {
        Half(half::f16::from_f32(x).to_le_bytes())
    }
}

impl Encode for BlockF32 {
    fn encode(x: &[f32]) -> Self {
        BlockF32(x[0].to_le_bytes())
    }
}

impl Encode for BlockF16 {
    fn encode(x: &[f32]) -> Self {
        BlockF16(Half::of(x[0]))
    }
}

impl Encode for BlockBF16 {
    fn encode(x: &[f32]) -> Self {
        BlockBF16(half::bf16::from_f32(x[0]).to_le_bytes())
    }
}

/// A slice as the array that it is.
fn array<const N: usize>(x: &[f32]) -> &[f32; N] {
    x.as_array().unwrap_or_else(|| panic!("{N} numbers make a block, not {}", x.len()))
}

/// Rounds to the nearest integer, ties to even, for magnitudes below 2^22: what processors without a rounding instruction
/// do at once too.
#[inline]
fn round(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23
    (x + MAGIC) - MAGIC
}

/// The sum of what `term` gives for `0..N`, in eight lanes that a processor adds at once.
#[inline]
fn sum<const N: usize>(term: impl Fn(usize) -> f32) -> f32 {
    const { assert!(N.is_multiple_of(8)) };
    let mut lanes = [0.0_f32; 8];
    for i in (0..N).step_by(8) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(i + lane);
        }
    }
    lanes.iter().sum()
}

/// The number of the largest magnitude, the first of such.
fn extreme(x: &[f32]) -> f32 {
    x.iter().copied().fold(0.0, |most: f32, x| if x.abs() > most.abs() { x } else { most })
}

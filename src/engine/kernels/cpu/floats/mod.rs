//! What is computed with floats: norms, gates, attention. Written once, over sixteen floats in whatever registers the
//! instructions have ([`Floats`]); [`operations`] are compiled for each set of them.
//!
//! So there is one order of all sums: number `i` of a row goes to lane `i % 16`, and the lanes meet in a tree. With the
//! same roundings at the same places, every set of instructions gives the same bits, the plain one included. That matters
//! beyond tidiness: activations are rounded to 8 bits behind these operations, and a difference in the last bit before that
//! can be a whole step behind it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod operations;
mod plain;

#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
pub use avx2::Ymm;
#[cfg(target_arch = "x86_64")]
pub use avx512::Zmm;
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use plain::Plain;

use crate::engine::quant::{BlockBF16, BlockF16, BlockF32, Half};
use half::f16;

/// How many floats are computed with at once.
pub const LANES: usize = 16;

/// Sixteen floats. Each operation rounds once, to the nearest, of two to the even one.
///
/// # Safety
/// All functions need a processor that has the instructions; pointers are to sixteen numbers, at any address.
pub trait Floats: Copy {
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(at: *const f32) -> Self;
    unsafe fn store(self, at: *mut f32);
    /// From halves.
    unsafe fn load_f16(at: *const f16) -> Self;
    /// Rounded to halves.
    unsafe fn store_f16(self, at: *mut f16);
    /// From the upper halves of floats.
    unsafe fn load_bf16(at: *const u16) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * by + to`, rounded once.
    unsafe fn fma(self, by: Self, to: Self) -> Self;
    /// `to - self * by`, rounded once.
    unsafe fn fnma(self, by: Self, to: Self) -> Self;
    /// The larger ones; `other` where either is no number or both are zero.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller ones; `other` where either is no number or both are zero.
    unsafe fn min(self, other: Self) -> Self;
    unsafe fn abs(self) -> Self;
    /// To whole numbers.
    unsafe fn round(self) -> Self;
    /// Times 2 to the power of whole numbers from -127 to 128.
    unsafe fn times_two_to(self, n: Self) -> Self;
    /// Zeros where `x` is less than `least`.
    unsafe fn zero_where_less(self, x: Self, least: Self) -> Self;
    /// The sum of each one's lanes: 0 to 7 are added to 8 to 15, of these 0 to 3 to 4 to 7, and so on.
    unsafe fn sums<const N: usize>(all: [Self; N]) -> [f32; N];

    /// The opposite.
    #[inline(always)]
    unsafe fn negative(self) -> Self {
        // SAFETY: the caller's.
        unsafe { self.mul(Self::splat(-1.0)) }
    }

    /// e to the power of each, to within two units in the last place; what would be less than the least normal number is
    /// 0.
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let least = Self::splat(-87.33654);
            // The order of the operands lets what is no number through.
            let x = Self::splat(88.72283).min(least.max(self));
            // x = n ln 2 + r, with ln 2 in two parts so that n times the first is exact.
            let n = x.mul(Self::splat(std::f32::consts::LOG2_E)).round();
            let r = n.fnma(Self::splat(0.693_359_4), x);
            let r = n.fnma(Self::splat(-2.121_944_4e-4), r);
            // e^r = 1 + r + r^2 p(r) for |r| <= ln 2 / 2; the coefficients are those of Cephes' expf.
            let mut p = Self::splat(1.987_569_1e-4);
            for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
                p = p.fma(r, Self::splat(c));
            }
            let p = p.fma(r.mul(r), r).add(Self::splat(1.0));
            p.times_two_to(n).zero_where_less(self, least)
        }
    }
}

/// Numbers that are computed with as floats.
pub trait Element: Copy {
    /// None of them.
    const ZERO: Self;

    /// Sixteen.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn load<F: Floats>(x: &[Self; LANES]) -> F;
}

macro_rules! elements {
    ($($type:ty, $zero:expr, $load:ident;)*) => {$(
        impl Element for $type {
            const ZERO: $type = $zero;

            #[inline(always)]
            unsafe fn load<F: Floats>(x: &[$type; LANES]) -> F {
                // SAFETY: sixteen numbers; the caller has the instructions.
                unsafe { F::$load(x.as_ptr().cast()) }
            }
        }
    )*};
}

elements! {
    f32, 0.0, load;
    f16, f16::ZERO, load_f16;
    BlockF32, BlockF32([0; 4]), load;
    BlockF16, BlockF16(Half([0; 2])), load_f16;
    BlockBF16, BlockBF16([0; 2]), load_bf16;
}

//! Products of blocks of 256 in groups of 16, whose integers are of two bits, or two and one.

use super::blocks::{DotAvx2, bytes, float, shortest, sums, sums_of};
use crate::engine::quant::{BlockQ2K, BlockQ3K, X8K};
use std::arch::x86_64::*;

/// The `i`th pairs of bits of 32 bytes, `i` within 0..4.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pairs(qs: __m256i, i: usize) -> __m256i {
    let shifted = _mm256_srl_epi16(qs, _mm_cvtsi32_si128(2 * i as i32));
    _mm256_and_si256(shifted, _mm256_set1_epi8(3))
}

/// Scales of 8 bits as sixteen numbers of 16 bits.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn widen<T>(scales: &[T; 16]) -> __m256i {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: 16 bytes.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(scales.as_ptr().cast()) })
}

/// Rows in blocks of unsigned bytes. Of a block, `$scales` makes its scale, the groups' scales and their minima, of 16 bits
/// each, and that of the minima; without it the minima are in units of the scale. `$unpack` makes the bytes of the groups
/// `2 * $i` and `2 * $i + 1`.
macro_rules! dot_of_sixteens {
    ($block:ty, $w:ident => $scales:expr, $i:ident => $unpack:expr) => {
        impl DotAvx2 for $block {
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn dot_avx2<const N: usize>(row: &[Self], columns: [&[X8K]; N]) -> [f32; N] {
                let mut totals = [0.0_f32; N];
                for i in 0..shortest(row, &columns) {
                    let $w = &row[i];
                    let (d, scales, mins, dmin) = $scales;
                    let (mut products, mut minima) = ([_mm256_setzero_si256(); N], [_mm256_setzero_si256(); N]);
                    for $i in 0..8 {
                        let q = $unpack;
                        // Both scales are in the lower half of what the permutation leaves, or in its upper one.
                        let both = _mm256_permutevar8x32_epi32(scales, _mm256_set1_epi32($i as i32));
                        let which = _mm256_set_m128i(_mm_set1_epi16(0x0302), _mm_set1_epi16(0x0100));
                        let scale = _mm256_shuffle_epi8(both, which);
                        for n in 0..N {
                            // Two products of at most 7 * 127 fit 16 bits.
                            let pairs = _mm256_maddubs_epi16(q, bytes(&columns[n][i].qs, 32 * $i));
                            products[n] = _mm256_add_epi32(products[n], _mm256_madd_epi16(pairs, scale));
                        }
                    }
                    for n in 0..N {
                        minima[n] = _mm256_madd_epi16(mins, sums_of(&columns[n][i]));
                        if dmin.is_none() {
                            products[n] = _mm256_sub_epi32(products[n], minima[n]);
                        }
                    }
                    let (products, minima) = (sums(products), sums(minima));
                    for n in 0..N {
                        let x = columns[n][i].d;
                        totals[n] = (products[n] as f32).mul_add(d * x, totals[n]);
                        if let Some(dmin) = dmin {
                            totals[n] = (-minima[n] as f32).mul_add(dmin * x, totals[n]);
                        }
                    }
                }
                totals
            }
        }
    };
}

dot_of_sixteens!(BlockQ2K, w => {
    let both = widen(&w.scales);
    let nibble = _mm256_set1_epi16(15);
    let mins = _mm256_and_si256(_mm256_srli_epi16::<4>(both), nibble);
    (float(w.d), _mm256_and_si256(both, nibble), mins, Some(float(w.dmin)))
}, i => pairs(bytes(&w.qs, i / 4 * 32), i % 4));

dot_of_sixteens!(BlockQ3K, w => {
    let scales = widen(&w.scales());
    // The bytes below are four too large: as if that were a minimum.
    (float(w.d), scales, _mm256_slli_epi16::<2>(scales), None::<f32>)
}, i => {
    let bit = _mm256_set1_epi8((1_u8 << i).cast_signed());
    let high = _mm256_cmpeq_epi8(_mm256_and_si256(bytes(&w.hmask, 0), bit), bit);
    _mm256_or_si256(pairs(bytes(&w.qs, i / 4 * 32), i % 4), _mm256_and_si256(high, _mm256_set1_epi8(4)))
});

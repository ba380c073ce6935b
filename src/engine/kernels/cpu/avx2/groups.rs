//! Products of blocks of 256 in groups with scales of their own.

use super::blocks::{DotAvx2, bytes, float, shortest, sums, sums_of};
use crate::engine::quant::{BlockQ4K, BlockQ5K, BlockQ6K, Scales, X8K};
use std::arch::x86_64::*;

/// Scales and minima of Q4_K and Q5_K as eight numbers of 16 bits each.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn unpack(scales: &Scales) -> (__m128i, __m128i) {
    let unpacked = scales.unpack();
    // SAFETY: 16 bytes.
    let all = _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(unpacked.as_ptr().cast()) });
    (_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all))
}

/// The `i`th number of both halves, sixteen times.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pick(numbers: __m256i, i: usize) -> __m256i {
    _mm256_shuffle_epi8(numbers, _mm256_set1_epi16(0x0100 + 0x0202 * i as i16))
}

/// Rows in blocks of eight groups of 32 with scale and minimum: `$unpack` makes the unsigned bytes of a group of a block.
macro_rules! dot_of_groups {
    ($block:ty, ($w:ident, $pair:ident) => $unpack:expr) => {
        impl DotAvx2 for $block {
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn dot_avx2<const N: usize>(row: &[Self], columns: [&[X8K]; N]) -> [f32; N] {
                let mut totals = [0.0_f32; N];
                for i in 0..shortest(row, &columns) {
                    let $w = &row[i];
                    let (d, dmin) = (float($w.d), float($w.dmin));
                    let (scales, mins) = unpack(&$w.scales);
                    let scales = _mm256_broadcastsi128_si256(scales);
                    let mut minima = [_mm256_setzero_si256(); N];
                    for n in 0..N {
                        let x = sums_of(&columns[n][i]);
                        let x = _mm_hadd_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
                        minima[n] = _mm256_zextsi128_si256(_mm_madd_epi16(mins, x));
                    }
                    let mut products = [_mm256_setzero_si256(); N];
                    for $pair in 0..4 {
                        let [low, high] = $unpack;
                        let (scale_low, scale_high) = (pick(scales, 2 * $pair), pick(scales, 2 * $pair + 1));
                        for n in 0..N {
                            let qs = &columns[n][i].qs;
                            // Two products of at most 31 * 127 fit 16 bits.
                            let low = _mm256_maddubs_epi16(low, bytes(qs, 64 * $pair));
                            let high = _mm256_maddubs_epi16(high, bytes(qs, 64 * $pair + 32));
                            let low = _mm256_madd_epi16(low, scale_low);
                            let high = _mm256_madd_epi16(high, scale_high);
                            products[n] = _mm256_add_epi32(products[n], _mm256_add_epi32(low, high));
                        }
                    }
                    let (products, minima) = (sums(products), sums(minima));
                    for n in 0..N {
                        let x = columns[n][i].d;
                        totals[n] = (products[n] as f32).mul_add(d * x, totals[n]);
                        totals[n] = (-minima[n] as f32).mul_add(dmin * x, totals[n]);
                    }
                }
                totals
            }
        }
    };
}

/// The low and the high nibbles of 32 bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn both_nibbles(qs: __m256i) -> [__m256i; 2] {
    let mask = _mm256_set1_epi8(15);
    [_mm256_and_si256(qs, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(qs), mask)]
}

/// 16 in each byte whose bit `i` is set.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn fifth_bit(qh: __m256i, i: usize) -> __m256i {
    let bit = _mm256_set1_epi8((1_u8 << i).cast_signed());
    _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(qh, bit), bit), _mm256_set1_epi8(16))
}

dot_of_groups!(BlockQ4K, (w, pair) => both_nibbles(bytes(&w.qs, 32 * pair)));
dot_of_groups!(BlockQ5K, (w, pair) => {
    let qh = bytes(&w.qh, 0);
    let [low, high] = both_nibbles(bytes(&w.qs, 32 * pair));
    [_mm256_or_si256(low, fifth_bit(qh, 2 * pair)), _mm256_or_si256(high, fifth_bit(qh, 2 * pair + 1))]
});

impl DotAvx2 for BlockQ6K {
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn dot_avx2<const N: usize>(row: &[Self], columns: [&[X8K]; N]) -> [f32; N] {
        let mut totals = [0.0_f32; N];
        for i in 0..shortest(row, &columns) {
            let w = &row[i];
            let d = float(w.d);
            // SAFETY: 16 bytes.
            let scales = _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(w.scales.as_ptr().cast()) });
            let mut products = [_mm256_setzero_si256(); N];
            for n in 0..N {
                // The bytes below are 32 too large: it is taken away from the sums.
                let excess = _mm256_madd_epi16(scales, sums_of(&columns[n][i]));
                products[n] = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32::<5>(excess));
            }
            for half in 0..2 {
                let [q0, q2] = both_nibbles(bytes(&w.ql, 64 * half));
                let [q1, q3] = both_nibbles(bytes(&w.ql, 64 * half + 32));
                let high = bytes(&w.qh, 32 * half);
                let quarter = |shifted: __m256i| _mm256_and_si256(shifted, _mm256_set1_epi8(0x30));
                let q = [
                    _mm256_or_si256(q0, quarter(_mm256_slli_epi16::<4>(high))),
                    _mm256_or_si256(q1, quarter(_mm256_slli_epi16::<2>(high))),
                    _mm256_or_si256(q2, quarter(high)),
                    _mm256_or_si256(q3, quarter(_mm256_srli_epi16::<2>(high))),
                ];
                let scales = match half {
                    0 => _mm256_permute4x64_epi64::<0b01_00_01_00>(scales),
                    _ => _mm256_permute4x64_epi64::<0b11_10_11_10>(scales),
                };
                for k in 0..4 {
                    // The scale of the first sixteen in the lower half, of the others in the upper.
                    let first = 0x0100 + 0x0404 * k as i16;
                    let which = _mm256_set_m128i(_mm_set1_epi16(first + 0x0202), _mm_set1_epi16(first));
                    let scale = _mm256_shuffle_epi8(scales, which);
                    for n in 0..N {
                        // Two products of at most 63 * 127 fit 16 bits.
                        let pairs = _mm256_maddubs_epi16(q[k], bytes(&columns[n][i].qs, 128 * half + 32 * k));
                        products[n] = _mm256_add_epi32(products[n], _mm256_madd_epi16(pairs, scale));
                    }
                }
            }
            let products = sums(products);
            for n in 0..N {
                totals[n] = (products[n] as f32).mul_add(d * columns[n][i].d, totals[n]);
            }
        }
        totals
    }
}

//! Products of blocks whose bits stand for numbers of a table.

use super::blocks::{DotAvx2, bytes, float, halves_sums, shortest, signed, sums};
use crate::engine::quant::{self, BlockIQ4XS, BlockNVFP4, X8_0, X8K};
use std::arch::x86_64::*;

pub(super) use quant::{FLOATS_OF_4, NON_LINEAR};

/// What 32 integers of 4 bits stand for.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn lookup(table: &[i8; 16], nibbles: __m256i) -> __m256i {
    // SAFETY: 16 bytes.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles)
}

/// The low and the high nibbles of 16 bytes from `at` on.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn halves<const LEN: usize>(qs: &[u8; LEN], at: usize) -> [__m128i; 2] {
    assert!(at + 16 <= LEN);
    // SAFETY: they are within the array.
    let qs = unsafe { _mm_loadu_si128(qs.as_ptr().add(at).cast()) };
    let mask = _mm_set1_epi8(15);
    [_mm_and_si128(qs, mask), _mm_and_si128(_mm_srli_epi16::<4>(qs), mask)]
}

impl DotAvx2 for BlockIQ4XS {
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn dot_avx2<const N: usize>(row: &[Self], columns: [&[X8K]; N]) -> [f32; N] {
        let mut totals = [0.0_f32; N];
        for i in 0..shortest(row, &columns) {
            let w = &row[i];
            let (d, scales) = (float(w.d), w.scales());
            let mut products = [_mm256_setzero_si256(); N];
            for group in 0..8 {
                let [low, high] = halves(&w.qs, 16 * group);
                let q = lookup(&NON_LINEAR, _mm256_set_m128i(high, low));
                let scale = _mm256_set1_epi32(i32::from(scales[group]));
                for n in 0..N {
                    let product = signed(q, bytes(&columns[n][i].qs, 32 * group));
                    products[n] = _mm256_add_epi32(products[n], _mm256_mullo_epi32(product, scale));
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

impl DotAvx2 for BlockNVFP4 {
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn dot_avx2<const N: usize>(row: &[Self], columns: [&[[X8_0; 2]]; N]) -> [f32; N] {
        let mut totals = [0.0_f32; N];
        for i in 0..shortest(row, &columns) {
            let w = &row[i];
            let scales = w.scales();
            for half in 0..2 {
                // Two groups of 16, of each eight in the low halves, then eight in the high halves.
                let [low, high] = halves(&w.qs, 16 * half);
                let q = _mm256_set_m128i(_mm_unpackhi_epi64(low, high), _mm_unpacklo_epi64(low, high));
                let q = lookup(&FLOATS_OF_4, q);
                let mut products = [_mm256_setzero_si256(); N];
                for n in 0..N {
                    products[n] = signed(q, bytes(&columns[n][i][half].qs, 0));
                }
                let [first, second] = halves_sums(products);
                for n in 0..N {
                    let x = columns[n][i][half].d;
                    totals[n] = (first[n] as f32).mul_add(scales[2 * half] * x, totals[n]);
                    totals[n] = (second[n] as f32).mul_add(scales[2 * half + 1] * x, totals[n]);
                }
            }
        }
        totals
    }
}

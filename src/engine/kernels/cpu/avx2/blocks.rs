//! Products of blocks of 32. A row is unpacked into registers once and meets `N` columns of activations there.
//!
//! All pointers are to fields of blocks, at offsets that the loops keep below the fields' lengths.

use super::table::{FLOATS_OF_4, NON_LINEAR, lookup};
use crate::engine::quant::{
    Block, BlockIQ4NL, BlockMXFP4, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, Half, X8_0, X8K,
};
use std::arch::x86_64::*;

/// Blocks that AVX2 multiplies.
pub trait DotAvx2: Block {
    /// The products of a row with `N` columns of activations. What is longer than the shortest of them is left out.
    ///
    /// # Safety
    /// The processor has AVX2, FMA and F16C.
    unsafe fn dot_avx2<const N: usize>(row: &[Self], columns: [&[Self::X]; N]) -> [f32; N];
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn float(half: Half) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(half.bits()))))
}

/// 32 bytes of `bytes` from `at` on.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn bytes<T, const LEN: usize>(bytes: &[T; LEN], at: usize) -> __m256i {
    const { assert!(size_of::<T>() == 1) };
    assert!(at + 32 <= LEN);
    // SAFETY: they are within the array.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().add(at).cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn sums_of(x: &X8K) -> __m256i {
    // SAFETY: sixteen numbers of 16 bits are 32 bytes.
    unsafe { _mm256_loadu_si256(x.sums.as_ptr().cast()) }
}

/// The sums of the lower and of the upper halves of at most four registers.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn halves_sums<const N: usize>(v: [__m256i; N]) -> [[i32; 4]; 2] {
    const { assert!(N <= 4) };
    let mut four = [_mm256_setzero_si256(); 4];
    four[..N].copy_from_slice(&v);
    let [a, b, c, d] = four;
    let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let mut out = [[0; 4]; 2];
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), sums) };
    out
}

/// The sums of at most four registers.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn sums<const N: usize>(v: [__m256i; N]) -> [i32; 4] {
    let [low, high] = halves_sums(v);
    std::array::from_fn(|n| low[n] + high[n])
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn shortest<A, B, const N: usize>(row: &[A], columns: &[&[B]; N]) -> usize {
    let mut shortest = row.len();
    for n in 0..N {
        shortest = shortest.min(columns[n].len());
    }
    shortest
}

/// 32 nibbles: the low ones of 16 bytes, then the high ones.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn nibbles(qs: &[u8; 16]) -> __m256i {
    // SAFETY: 16 bytes.
    let qs = unsafe { _mm_loadu_si128(qs.as_ptr().cast()) };
    _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(qs), qs), _mm256_set1_epi8(15))
}

/// 32 bytes, all ones where the bit is set.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn spread(bits: [u8; 4]) -> __m256i {
    let bits = _mm256_set1_epi32(i32::from_le_bytes(bits));
    let byte_of = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let bit_of = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(bits, byte_of), bit_of), bit_of)
}

/// The products of 32 signed bytes with as many, each at least -127, summed by fours.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn signed(q: __m256i, x: __m256i) -> __m256i {
    // The instruction multiplies unsigned by signed bytes: the sign goes over to the activations. Two products of at
    // most 128 * 127 fit 16 bits.
    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q));
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

/// The products of 32 unsigned bytes of at most 127 with as many signed ones, summed by fours.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn unsigned(q: __m256i, x: __m256i) -> __m256i {
    _mm256_madd_epi16(_mm256_maddubs_epi16(q, x), _mm256_set1_epi16(1))
}

/// Rows in blocks of 32 signed bytes with one scale: `$unpack` makes both of a block.
macro_rules! dot_of_32 {
    ($block:ty, $w:ident => $unpack:expr) => {
        impl DotAvx2 for $block {
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn dot_avx2<const N: usize>(row: &[Self], columns: [&[X8_0]; N]) -> [f32; N] {
                let mut totals = [0.0_f32; N];
                for i in 0..shortest(row, &columns) {
                    let $w = &row[i];
                    let (d, q) = $unpack;
                    let mut products = [_mm256_setzero_si256(); N];
                    for n in 0..N {
                        products[n] = signed(q, bytes(&columns[n][i].qs, 0));
                    }
                    let products = sums(products);
                    for n in 0..N {
                        totals[n] = (products[n] as f32).mul_add(d * columns[n][i].d, totals[n]);
                    }
                }
                totals
            }
        }
    };
}

dot_of_32!(BlockQ8_0, w => (float(w.d), bytes(&w.qs, 0)));
dot_of_32!(BlockQ4_0, w => (float(w.d), _mm256_sub_epi8(nibbles(&w.qs), _mm256_set1_epi8(8))));
dot_of_32!(BlockQ5_0, w => {
    // A fifth bit that is not set takes 16 away: the offset of the format.
    let absent = _mm256_andnot_si256(spread(w.qh), _mm256_set1_epi8(-16));
    (float(w.d), _mm256_or_si256(nibbles(&w.qs), absent))
});
dot_of_32!(BlockIQ4NL, w => (float(w.d), lookup(&NON_LINEAR, nibbles(&w.qs))));
dot_of_32!(BlockMXFP4, w => (w.scale(), lookup(&FLOATS_OF_4, nibbles(&w.qs))));

/// Rows in blocks of 32 unsigned bytes with a scale and a minimum: `$unpack` makes the bytes of a block.
macro_rules! dot_of_32_and_minimum {
    ($block:ty, $w:ident => $unpack:expr) => {
        impl DotAvx2 for $block {
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn dot_avx2<const N: usize>(row: &[Self], columns: [&[X8_0]; N]) -> [f32; N] {
                let mut totals = [0.0_f32; N];
                for i in 0..shortest(row, &columns) {
                    let $w = &row[i];
                    let (d, m, q) = (float($w.d), float($w.m), $unpack);
                    let (mut products, mut whole) = ([_mm256_setzero_si256(); N], [_mm256_setzero_si256(); N]);
                    for n in 0..N {
                        let x = bytes(&columns[n][i].qs, 0);
                        products[n] = unsigned(q, x);
                        whole[n] = unsigned(_mm256_set1_epi8(1), x);
                    }
                    let (products, whole) = (sums(products), sums(whole));
                    for n in 0..N {
                        let x = columns[n][i].d;
                        totals[n] = (products[n] as f32).mul_add(d * x, totals[n]);
                        totals[n] = (whole[n] as f32).mul_add(m * x, totals[n]);
                    }
                }
                totals
            }
        }
    };
}

dot_of_32_and_minimum!(BlockQ4_1, w => nibbles(&w.qs));
dot_of_32_and_minimum!(BlockQ5_1, w => {
    _mm256_or_si256(nibbles(&w.qs), _mm256_and_si256(spread(w.qh), _mm256_set1_epi8(16)))
});

/// The largest magnitude among floats.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn most(x: &[f32]) -> f32 {
    let mut most = _mm256_setzero_ps();
    for x in x.as_chunks::<8>().0 {
        // SAFETY: eight floats.
        let x = unsafe { _mm256_loadu_ps(x.as_ptr()) };
        most = _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0), x), most);
    }
    let most = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps::<1>(most));
    let most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)))
}

/// 32 floats, times `scale`, rounded to bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn round(x: &[f32; 32], scale: f32) -> __m256i {
    let scale = _mm256_set1_ps(scale);
    let mut v = [_mm256_setzero_si256(); 4];
    for i in 0..4 {
        // SAFETY: eight of the 32.
        let x = unsafe { _mm256_loadu_ps(x[8 * i..8 * (i + 1)].as_ptr()) };
        v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(x, scale));
    }
    let v = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    // Packing works in halves of the register and leaves the fours of bytes interleaved.
    _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantise_x8_0(x: &[f32], out: &mut [X8_0]) {
    for (x, out) in x.as_chunks::<32>().0.iter().zip(out) {
        let most = most(x);
        let v = round(x, if most == 0.0 { 0.0 } else { 127.0 / most });
        out.d = half::f16::from_f32(most / 127.0).to_f32();
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(out.qs.as_mut_ptr().cast(), v) };
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantise_x8_k(x: &[f32], out: &mut [X8K]) {
    for (x, out) in x.as_chunks::<256>().0.iter().zip(out) {
        let most = most(x);
        let inverse = if most == 0.0 { 0.0 } else { 127.0 / most };
        out.d = if most == 0.0 { 0.0 } else { 1.0 / inverse };
        for (i, x) in x.as_chunks::<32>().0.iter().enumerate() {
            let v = round(x, inverse);
            // SAFETY: 32 bytes, of which there are eight times as many.
            unsafe { _mm256_storeu_si256(out.qs[32 * i..32 * (i + 1)].as_mut_ptr().cast(), v) };
            // Sums of pairs, of fours, of eights, and of sixteens: one in each half of the register.
            let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), v);
            let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            let eights = _mm256_hadd_epi32(fours, fours);
            let sixteens = _mm256_hadd_epi32(eights, eights);
            out.sums[2 * i] = _mm256_extract_epi32::<0>(sixteens) as i16;
            out.sums[2 * i + 1] = _mm256_extract_epi32::<4>(sixteens) as i16;
        }
    }
}

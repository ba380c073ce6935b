//! Products of blocks. A row is unpacked into registers once and meets `N` columns of activations there.
//!
//! All pointers are to fields of blocks, at offsets that the loops keep below the fields' lengths.

use super::float::{load, sum};
use super::table::{FLOATS_OF_4, NON_LINEAR, lookup};
use crate::engine::quant::{
    Block, BlockBF16, BlockF16, BlockF32, BlockIQ4NL, BlockMXFP4, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1,
    BlockQ5K, BlockQ6K, BlockQ8_0, Half, Scales, X8_0, X8K,
};
use std::arch::x86_64::*;

/// Blocks that AVX2 multiplies.
pub trait Dot: Block {
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
pub(super) fn sums(x: &X8K) -> __m256i {
    // SAFETY: sixteen numbers of 16 bits are 32 bytes.
    unsafe { _mm256_loadu_si256(x.sums.as_ptr().cast()) }
}

/// Adds `d * v` to `total`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn add(total: __m256, d: f32, v: __m256i) -> __m256 {
    _mm256_fmadd_ps(_mm256_set1_ps(d), _mm256_cvtepi32_ps(v), total)
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

/// Rows of floats: `$load` widens eight blocks at a pointer.
macro_rules! dot_of_floats {
    ($block:ty, $pointer:ident => $load:expr) => {
        impl Dot for $block {
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn dot_avx2<const N: usize>(row: &[Self], columns: [&[f32]; N]) -> [f32; N] {
                let len = shortest(row, &columns);
                let whole = len / 8 * 8;
                let mut totals = [_mm256_setzero_ps(); N];
                for at in (0..whole).step_by(8) {
                    let $pointer = row[at..at + 8].as_ptr();
                    // SAFETY: there are eight blocks from `at` on.
                    let w = unsafe { $load };
                    for n in 0..N {
                        totals[n] = _mm256_fmadd_ps(w, load(&columns[n][at..]), totals[n]);
                    }
                }
                let mut out = [0.0; N];
                for n in 0..N {
                    let rest = row[whole..len].iter().zip(&columns[n][whole..len]).map(|(w, x)| w.dot(x));
                    out[n] = sum(totals[n]) + rest.sum::<f32>();
                }
                out
            }
        }
    };
}

dot_of_floats!(BlockF32, at => _mm256_loadu_ps(at.cast()));
dot_of_floats!(BlockF16, at => _mm256_cvtph_ps(_mm_loadu_si128(at.cast())));
dot_of_floats!(BlockBF16, at => {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()))))
});

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
        impl Dot for $block {
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn dot_avx2<const N: usize>(row: &[Self], columns: [&[X8_0]; N]) -> [f32; N] {
                let mut totals = [_mm256_setzero_ps(); N];
                for i in 0..shortest(row, &columns) {
                    let $w = &row[i];
                    let (d, q) = $unpack;
                    for n in 0..N {
                        let x = &columns[n][i];
                        totals[n] = add(totals[n], d * x.d, signed(q, bytes(&x.qs, 0)));
                    }
                }
                let mut out = [0.0; N];
                for n in 0..N {
                    out[n] = sum(totals[n]);
                }
                out
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
        impl Dot for $block {
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn dot_avx2<const N: usize>(row: &[Self], columns: [&[X8_0]; N]) -> [f32; N] {
                let mut totals = [_mm256_setzero_ps(); N];
                for i in 0..shortest(row, &columns) {
                    let $w = &row[i];
                    let (d, m, q) = (float($w.d), float($w.m), $unpack);
                    for n in 0..N {
                        let x = &columns[n][i];
                        let qs = bytes(&x.qs, 0);
                        totals[n] = add(totals[n], d * x.d, unsigned(q, qs));
                        totals[n] = add(totals[n], m * x.d, unsigned(_mm256_set1_epi8(1), qs));
                    }
                }
                let mut out = [0.0; N];
                for n in 0..N {
                    out[n] = sum(totals[n]);
                }
                out
            }
        }
    };
}

dot_of_32_and_minimum!(BlockQ4_1, w => nibbles(&w.qs));
dot_of_32_and_minimum!(BlockQ5_1, w => {
    _mm256_or_si256(nibbles(&w.qs), _mm256_and_si256(spread(w.qh), _mm256_set1_epi8(16)))
});

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
        impl Dot for $block {
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn dot_avx2<const N: usize>(row: &[Self], columns: [&[X8K]; N]) -> [f32; N] {
                let mut totals = [_mm256_setzero_ps(); N];
                let mut minima = [_mm_setzero_ps(); N];
                for i in 0..shortest(row, &columns) {
                    let $w = &row[i];
                    let (d, dmin) = (float($w.d), float($w.dmin));
                    let (scales, mins) = unpack(&$w.scales);
                    let scales = _mm256_broadcastsi128_si256(scales);
                    for n in 0..N {
                        let x = &columns[n][i];
                        let sums = sums(x);
                        let sums = _mm_hadd_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
                        let product = _mm_cvtepi32_ps(_mm_madd_epi16(mins, sums));
                        minima[n] = _mm_fmadd_ps(_mm_set1_ps(dmin * x.d), product, minima[n]);
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
                    for n in 0..N {
                        totals[n] = add(totals[n], d * columns[n][i].d, products[n]);
                    }
                }
                let mut out = [0.0; N];
                for n in 0..N {
                    let minima = _mm_add_ps(minima[n], _mm_movehl_ps(minima[n], minima[n]));
                    let minima = _mm_cvtss_f32(_mm_add_ss(minima, _mm_movehdup_ps(minima)));
                    out[n] = sum(totals[n]) - minima;
                }
                out
            }
        }
    };
}

/// The low and the high nibbles of 32 bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn both_nibbles(qs: __m256i) -> [__m256i; 2] {
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

impl Dot for BlockQ6K {
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn dot_avx2<const N: usize>(row: &[Self], columns: [&[X8K]; N]) -> [f32; N] {
        let mut totals = [_mm256_setzero_ps(); N];
        for i in 0..shortest(row, &columns) {
            let w = &row[i];
            let d = float(w.d);
            // SAFETY: 16 bytes.
            let scales = _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(w.scales.as_ptr().cast()) });
            let mut products = [_mm256_setzero_si256(); N];
            for n in 0..N {
                // The bytes below are 32 too large: it is taken away from the sums.
                let excess = _mm256_madd_epi16(scales, sums(&columns[n][i]));
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
            for n in 0..N {
                totals[n] = add(totals[n], d * columns[n][i].d, products[n]);
            }
        }
        let mut out = [0.0; N];
        for n in 0..N {
            out[n] = sum(totals[n]);
        }
        out
    }
}

/// The largest magnitude among floats.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn most(x: &[f32]) -> f32 {
    let mut most = _mm256_setzero_ps();
    for x in x.as_chunks::<8>().0 {
        most = _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0), load(x)), most);
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
        v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(load(&x[8 * i..]), scale));
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

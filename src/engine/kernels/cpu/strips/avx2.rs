//! AVX2: eight rows in a register. With `VNNI`, the same instruction for products of bytes as AVX-512 has, as processors
//! for notebooks and network storage know it (AVX-VNNI).

use super::columns::{X32, X256};
use super::lanes::{Groups, Lanes, Quads};
use super::layout::LINE;
use std::arch::x86_64::*;

/// The instructions.
#[derive(Clone, Copy)]
pub struct Ymm<const VNNI: bool>;

/// The dword of a column's activations from `at` on, for all rows.
#[inline(always)]
unsafe fn spread(qs: *const i8) -> __m256i {
    // SAFETY: the caller's pointer is to four bytes or more.
    unsafe { _mm256_set1_epi32(qs.cast::<i32>().read_unaligned()) }
}

impl<const VNNI: bool> Lanes for Ymm<VNNI> {
    const ROWS: usize = 8;
    const COLUMNS: usize = 4;
    type Int = __m256i;
    type Float = __m256;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> __m256i {
        // SAFETY: see the trait, here and below.
        unsafe { _mm256_loadu_si256(at.cast()) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut u8, v: __m256i) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(at.cast(), v) }
    }

    #[inline(always)]
    unsafe fn load_floats(at: *const f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store_floats(at: *mut f32, v: __m256) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(at, v) }
    }

    #[inline(always)]
    unsafe fn load_halves(at: *const u8) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }

    #[inline(always)]
    unsafe fn low_halves(v: __m256i) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
            let packed = _mm256_permute4x64_epi64::<0b00_00_10_00>(_mm256_packus_epi32(low, low));
            _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
        }
    }

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn splat_byte(v: u8) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_set1_epi8(v.cast_signed()) }
    }

    #[inline(always)]
    unsafe fn splat(v: f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_set1_ps(v) }
    }

    #[inline(always)]
    unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_and_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn merge(a: __m256i, mask: __m256i, b: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_or_si256(_mm256_and_si256(a, mask), b) }
    }

    #[inline(always)]
    unsafe fn shl(v: __m256i, by: u32) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_sll_epi32(v, _mm_cvtsi32_si128(by.cast_signed())) }
    }

    #[inline(always)]
    unsafe fn shr(v: __m256i, by: u32) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_srl_epi32(v, _mm_cvtsi32_si128(by.cast_signed())) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_sub_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn to_float(v: __m256i) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_cvtepi32_ps(v) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn fnma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }

    /// Without VNNI, twice 16 bits: the instruction that adds pairs of products multiplies them as well.
    #[inline(always)]
    unsafe fn scale(v: __m256i, which: usize) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let wide = _mm256_srai_epi32::<24>(Self::shl(v, 24 - 8 * which as u32));
            if VNNI {
                wide
            } else {
                _mm256_or_si256(_mm256_slli_epi32::<16>(wide), _mm256_and_si256(wide, _mm256_set1_epi32(0xffff)))
            }
        }
    }

    #[inline(always)]
    unsafe fn pair(v: __m256i, odd: bool) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_srai_epi16::<8>(if odd { v } else { _mm256_slli_epi16::<8>(v) }) }
    }

    #[inline(always)]
    unsafe fn dot_pairs(sum: __m256i, a: __m256i, x: i32) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, _mm256_set1_epi32(x))) }
    }

    #[inline(always)]
    unsafe fn groups<W: Quads<Self>, const N: usize>(w: &W, groups: Groups, x: *const X256, sums: &mut [__m256i; N]) {
        let Groups { pair, quads, sums: most, columns, scales } = groups;
        for group in 0..8 / quads {
            // SAFETY: as above; `x` is to `N` columns.
            unsafe {
                let [scale_a, scale_b] = scales.map(|scales| Self::load(scales.add(LINE * group)));
                let (mut first, mut second) = ([_mm256_setzero_si256(); N], [_mm256_setzero_si256(); N]);
                for i in 0..quads {
                    let at = group * quads + i;
                    let [a, b] = w.pair(pair, at);
                    for n in 0..N {
                        let x = (&raw const (*x.add(n)).qs).cast::<i8>();
                        let (x_a, x_b) = (spread(x.add(columns[0] + 4 * at)), spread(x.add(columns[1] + 4 * at)));
                        if VNNI {
                            first[n] = _mm256_dpbusd_avx_epi32(first[n], a, x_a);
                            second[n] = _mm256_dpbusd_avx_epi32(second[n], b, x_b);
                            continue;
                        }
                        let (a, b) = (_mm256_maddubs_epi16(a, x_a), _mm256_maddubs_epi16(b, x_b));
                        let begins = i % most == 0;
                        first[n] = if begins { a } else { _mm256_add_epi16(first[n], a) };
                        second[n] = if begins { b } else { _mm256_add_epi16(second[n], b) };
                        if i % most == most - 1 || i + 1 == quads {
                            sums[n] = _mm256_add_epi32(sums[n], _mm256_madd_epi16(first[n], scale_a));
                            sums[n] = _mm256_add_epi32(sums[n], _mm256_madd_epi16(second[n], scale_b));
                        }
                    }
                }
                if VNNI {
                    for n in 0..N {
                        let (a, b) = (_mm256_mullo_epi32(first[n], scale_a), _mm256_mullo_epi32(second[n], scale_b));
                        sums[n] = _mm256_add_epi32(sums[n], _mm256_add_epi32(a, b));
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn block<W: Quads<Self>, const N: usize>(w: &W, x: *const X32) -> [__m256i; N] {
        // SAFETY: as above; `x` is to `N` columns.
        unsafe {
            let mut sums = [_mm256_setzero_si256(); N];
            for n in 0..N {
                if VNNI {
                    sums[n] = _mm256_set1_epi32((*x.add(n)).bias);
                }
            }
            for i in 0..4 {
                for (half, w) in w.pair(0, i).into_iter().enumerate() {
                    // The instruction without VNNI multiplies unsigned by signed bytes and saturates beyond 16 bits: the
                    // weights' sign goes over to the activations. Two products of at most 128 * 127 fit.
                    let signed = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
                    let size = _mm256_abs_epi8(signed);
                    for n in 0..N {
                        let x = spread((&raw const (*x.add(n)).qs).cast::<i8>().add(16 * half + 4 * i));
                        sums[n] = if VNNI {
                            _mm256_dpbusd_avx_epi32(sums[n], w, x)
                        } else {
                            let products = _mm256_maddubs_epi16(size, _mm256_sign_epi8(x, signed));
                            _mm256_add_epi32(sums[n], _mm256_madd_epi16(products, _mm256_set1_epi16(1)))
                        };
                    }
                }
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: as above; nothing is read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}

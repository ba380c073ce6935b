//! AVX-512 with VNNI: sixteen rows in a register.

use super::columns::{X32, X256};
use super::lanes::{Groups, Lanes, Quads};
use super::layout::LINE;
use std::arch::x86_64::*;

/// The instructions.
#[derive(Clone, Copy)]
pub struct Zmm;

/// The dword of a column's activations from `at` on, for all rows.
#[inline(always)]
unsafe fn spread(qs: *const i8) -> __m512i {
    // SAFETY: the caller's pointer is to four bytes or more.
    unsafe { _mm512_set1_epi32(qs.cast::<i32>().read_unaligned()) }
}

impl Lanes for Zmm {
    const ROWS: usize = 16;
    const COLUMNS: usize = 8;
    type Int = __m512i;
    type Float = __m512;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> __m512i {
        // SAFETY: see the trait, here and below.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut u8, v: __m512i) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(at.cast(), v) }
    }

    #[inline(always)]
    unsafe fn load_floats(at: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store_floats(at: *mut f32, v: __m512) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(at, v) }
    }

    #[inline(always)]
    unsafe fn load_halves(at: *const u8) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }

    #[inline(always)]
    unsafe fn low_halves(v: __m512i) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn splat_byte(v: u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi8(v.cast_signed()) }
    }

    #[inline(always)]
    unsafe fn splat(v: f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(v) }
    }

    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn merge(a: __m512i, mask: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above. The truth table of `a & mask | b`.
        unsafe { _mm512_ternarylogic_epi32::<0b1110_1010>(a, mask, b) }
    }

    #[inline(always)]
    unsafe fn shl(v: __m512i, by: u32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_sll_epi32(v, _mm_cvtsi32_si128(by.cast_signed())) }
    }

    #[inline(always)]
    unsafe fn shr(v: __m512i, by: u32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_srl_epi32(v, _mm_cvtsi32_si128(by.cast_signed())) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_sub_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn to_float(v: __m512i) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(v) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn scale(v: __m512i, which: usize) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_srai_epi32::<24>(Self::shl(v, 24 - 8 * which as u32)) }
    }

    #[inline(always)]
    unsafe fn pair(v: __m512i, odd: bool) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_srai_epi16::<8>(if odd { v } else { _mm512_slli_epi16::<8>(v) }) }
    }

    #[inline(always)]
    unsafe fn dot_pairs(sum: __m512i, a: __m512i, x: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_dpwssd_epi32(sum, a, _mm512_set1_epi32(x)) }
    }

    #[inline(always)]
    unsafe fn groups<W: Quads<Self>, const N: usize>(w: &W, groups: Groups, x: *const X256, sums: &mut [__m512i; N]) {
        let Groups { pair, quads, columns, scales, .. } = groups;
        for group in 0..8 / quads {
            // SAFETY: as above; `x` is to `N` columns.
            unsafe {
                let (mut first, mut second) = ([_mm512_setzero_si512(); N], [_mm512_setzero_si512(); N]);
                for i in group * quads..(group + 1) * quads {
                    let [a, b] = w.pair(pair, i);
                    for n in 0..N {
                        let x = (&raw const (*x.add(n)).qs).cast::<i8>();
                        first[n] = _mm512_dpbusd_epi32(first[n], a, spread(x.add(columns[0] + 4 * i)));
                        second[n] = _mm512_dpbusd_epi32(second[n], b, spread(x.add(columns[1] + 4 * i)));
                    }
                }
                let [a, b] = scales.map(|scales| Self::load(scales.add(LINE * group)));
                for n in 0..N {
                    let products = _mm512_add_epi32(_mm512_mullo_epi32(first[n], a), _mm512_mullo_epi32(second[n], b));
                    sums[n] = _mm512_add_epi32(sums[n], products);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn block<W: Quads<Self>, const N: usize>(w: &W, x: *const X32) -> [__m512i; N] {
        // SAFETY: as above; `x` is to `N` columns.
        unsafe {
            let (mut first, mut second) = ([_mm512_setzero_si512(); N], [_mm512_setzero_si512(); N]);
            for n in 0..N {
                first[n] = _mm512_set1_epi32((*x.add(n)).bias);
            }
            for i in 0..4 {
                let [a, b] = w.pair(0, i);
                for n in 0..N {
                    let x = (&raw const (*x.add(n)).qs).cast::<i8>();
                    first[n] = _mm512_dpbusd_epi32(first[n], a, spread(x.add(4 * i)));
                    second[n] = _mm512_dpbusd_epi32(second[n], b, spread(x.add(16 + 4 * i)));
                }
            }
            for n in 0..N {
                first[n] = _mm512_add_epi32(first[n], second[n]);
            }
            first
        }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: as above; nothing is read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}

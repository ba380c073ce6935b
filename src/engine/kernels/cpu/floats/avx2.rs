//! AVX2 with FMA and F16C: two registers.

use super::Floats;
use half::f16;
use std::arch::x86_64::*;

/// Sixteen floats.
#[derive(Clone, Copy)]
pub struct Ymm(__m256, __m256);

/// Floats in a register.
const HALF: usize = 8;

/// The function `$name` of as many operands as there are letters, by the instruction.
macro_rules! by_instruction {
    ($($name:ident($a:ident $(, $x:ident)*) => $instruction:ident($($operand:ident),*);)*) => {$(
        #[inline(always)]
        unsafe fn $name(self, $($x: Ymm),*) -> Ymm {
            let $a = self;
            // SAFETY: see the trait.
            unsafe { Ymm($instruction($($operand.0),*), $instruction($($operand.1),*)) }
        }
    )*};
}

impl Floats for Ymm {
    by_instruction! {
        add(a, b) => _mm256_add_ps(a, b);
        sub(a, b) => _mm256_sub_ps(a, b);
        mul(a, b) => _mm256_mul_ps(a, b);
        div(a, b) => _mm256_div_ps(a, b);
        fma(a, b, c) => _mm256_fmadd_ps(a, b, c);
        fnma(a, b, c) => _mm256_fnmadd_ps(a, b, c);
        max(a, b) => _mm256_max_ps(a, b);
        min(a, b) => _mm256_min_ps(a, b);
        abs(a) => abs(a);
        round(a) => round(a);
        times_two_to(a, n) => times_two_to(a, n);
        zero_where_less(a, x, least) => zero_where_less(a, x, least);
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Ymm {
        // SAFETY: see the trait, here and below.
        unsafe { Ymm(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Ymm {
        // SAFETY: as above.
        unsafe { Ymm(_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(HALF))) }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_ps(at, self.0);
            _mm256_storeu_ps(at.add(HALF), self.1);
        }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const f16) -> Ymm {
        // SAFETY: as above.
        unsafe {
            let [low, high] = [at, at.add(HALF)].map(|at| at.cast::<__m128i>());
            Ymm(_mm256_cvtph_ps(_mm_loadu_si128(low)), _mm256_cvtph_ps(_mm_loadu_si128(high)))
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, at: *mut f16) {
        // SAFETY: as above.
        unsafe {
            _mm_storeu_si128(at.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0));
            _mm_storeu_si128(at.add(HALF).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.1));
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u16) -> Ymm {
        // SAFETY: as above.
        unsafe { Ymm(widen(at), widen(at.add(HALF))) }
    }

    #[inline(always)]
    unsafe fn sums<const N: usize>(all: [Ymm; N]) -> [f32; N] {
        let mut sums = [0.0; N];
        for n in 0..N {
            // SAFETY: as above.
            unsafe {
                let v = _mm256_add_ps(all[n].0, all[n].1);
                let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
                sums[n] = _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
            }
        }
        sums
    }
}

#[inline(always)]
unsafe fn abs(x: __m256) -> __m256 {
    // SAFETY: the caller's.
    unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), x) }
}

#[inline(always)]
unsafe fn round(x: __m256) -> __m256 {
    // SAFETY: the caller's.
    unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
}

#[inline(always)]
unsafe fn times_two_to(x: __m256, n: __m256) -> __m256 {
    // SAFETY: the caller's. 2^128 has no representation: two factors.
    unsafe {
        let n = _mm256_cvtps_epi32(n);
        let half = _mm256_srai_epi32::<1>(n);
        _mm256_mul_ps(_mm256_mul_ps(x, two_to(half)), two_to(_mm256_sub_epi32(n, half)))
    }
}

#[inline(always)]
unsafe fn two_to(n: __m256i) -> __m256 {
    // SAFETY: the caller's.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127)))) }
}

#[inline(always)]
unsafe fn zero_where_less(a: __m256, x: __m256, least: __m256) -> __m256 {
    // SAFETY: the caller's.
    unsafe { _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, least), a) }
}

/// The upper halves of eight floats.
#[inline(always)]
unsafe fn widen(at: *const u16) -> __m256 {
    // SAFETY: the caller's.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast())))) }
}

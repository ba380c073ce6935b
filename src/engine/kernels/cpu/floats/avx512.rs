//! AVX-512: one register.

use super::Floats;
use half::f16;
use std::arch::x86_64::*;

/// Sixteen floats.
#[derive(Clone, Copy)]
pub struct Zmm(__m512);

/// The function `$name` of as many operands as there are letters, by the instruction.
macro_rules! by_instruction {
    ($($name:ident($a:ident $(, $x:ident)*) => $instruction:ident($($operand:ident),*);)*) => {$(
        #[inline(always)]
        unsafe fn $name(self, $($x: Zmm),*) -> Zmm {
            let $a = self;
            // SAFETY: see the trait.
            unsafe { Zmm($instruction($($operand.0),*)) }
        }
    )*};
}

impl Floats for Zmm {
    by_instruction! {
        add(a, b) => _mm512_add_ps(a, b);
        sub(a, b) => _mm512_sub_ps(a, b);
        mul(a, b) => _mm512_mul_ps(a, b);
        div(a, b) => _mm512_div_ps(a, b);
        fma(a, b, c) => _mm512_fmadd_ps(a, b, c);
        fnma(a, b, c) => _mm512_fnmadd_ps(a, b, c);
        max(a, b) => _mm512_max_ps(a, b);
        min(a, b) => _mm512_min_ps(a, b);
        abs(a) => _mm512_abs_ps(a);
        times_two_to(a, n) => _mm512_scalef_ps(a, n);
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Zmm {
        // SAFETY: see the trait, here and below.
        unsafe { Zmm(_mm512_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Zmm {
        // SAFETY: as above.
        unsafe { Zmm(_mm512_loadu_ps(at)) }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(at, self.0) }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const f16) -> Zmm {
        // SAFETY: as above.
        unsafe { Zmm(_mm512_cvtph_ps(_mm256_loadu_si256(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, at: *mut f16) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(at.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u16) -> Zmm {
        // SAFETY: as above.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            Zmm(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }

    #[inline(always)]
    unsafe fn round(self) -> Zmm {
        // SAFETY: as above.
        unsafe { Zmm(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)) }
    }

    #[inline(always)]
    unsafe fn zero_where_less(self, x: Zmm, least: Zmm) -> Zmm {
        // SAFETY: as above. What is no number is not less.
        unsafe { Zmm(_mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x.0, least.0), self.0)) }
    }

    #[inline(always)]
    unsafe fn sums<const N: usize>(all: [Zmm; N]) -> [f32; N] {
        let mut sums = [0.0; N];
        for (all, sums) in all.chunks(4).zip(sums.chunks_mut(4)) {
            let of = |n: usize| all[n.min(all.len() - 1)].0;
            // SAFETY: as above.
            let four = unsafe { sums_of_four([of(0), of(1), of(2), of(3)]) };
            sums.copy_from_slice(&four[..all.len()]);
        }
        sums
    }
}

/// The sums of four registers' lanes: each step halves them and puts two side by side.
#[inline(always)]
unsafe fn sums_of_four([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
    // SAFETY: the caller's.
    unsafe {
        let halves = |a, b| {
            _mm512_add_ps(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b))
        };
        let (ab, cd) = (halves(a, b), halves(c, d));
        let quarters =
            _mm512_add_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd), _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd));
        let pairs = _mm512_add_ps(quarters, _mm512_permute_ps::<0b11_10_11_10>(quarters));
        let whole = _mm512_add_ps(pairs, _mm512_permute_ps::<0b01_01_01_01>(pairs));
        let mut sums = [0.0; 4];
        _mm_storeu_ps(sums.as_mut_ptr(), _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, whole)));
        sums
    }
}

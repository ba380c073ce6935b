//! NEON: four registers.

use super::Floats;
use half::f16;
use std::arch::aarch64::*;
use std::array::from_fn;

/// Sixteen floats.
#[derive(Clone, Copy)]
pub struct Neon([float32x4_t; 4]);

/// Floats in a register.
const QUARTER: usize = 4;

/// The function `$name` of as many operands as there are letters, by the instruction.
macro_rules! by_instruction {
    ($($name:ident($a:ident $(, $x:ident)*) => $instruction:ident($($operand:ident),*);)*) => {$(
        #[inline(always)]
        unsafe fn $name(self, $($x: Neon),*) -> Neon {
            let $a = self;
            // SAFETY: see the trait.
            unsafe {
                Neon([
                    $instruction($($operand.0[0]),*),
                    $instruction($($operand.0[1]),*),
                    $instruction($($operand.0[2]),*),
                    $instruction($($operand.0[3]),*),
                ])
            }
        }
    )*};
}

impl Floats for Neon {
    by_instruction! {
        add(a, b) => vaddq_f32(a, b);
        sub(a, b) => vsubq_f32(a, b);
        mul(a, b) => vmulq_f32(a, b);
        div(a, b) => vdivq_f32(a, b);
        fma(a, b, c) => vfmaq_f32(c, a, b);
        fnma(a, b, c) => vfmsq_f32(c, a, b);
        max(a, b) => max(a, b);
        min(a, b) => min(a, b);
        abs(a) => vabsq_f32(a);
        round(a) => vrndnq_f32(a);
        times_two_to(a, n) => times_two_to(a, n);
        zero_where_less(a, x, least) => zero_where_less(a, x, least);
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Neon {
        // SAFETY: see the trait, here and below.
        unsafe { Neon([vdupq_n_f32(x); 4]) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Neon {
        // SAFETY: as above.
        Neon(from_fn(|i| unsafe { vld1q_f32(at.add(QUARTER * i)) }))
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        for i in 0..4 {
            // SAFETY: as above.
            unsafe { vst1q_f32(at.add(QUARTER * i), self.0[i]) }
        }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const f16) -> Neon {
        // SAFETY: as above.
        Neon(from_fn(|i| unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at.add(QUARTER * i).cast()))) }))
    }

    #[inline(always)]
    unsafe fn store_f16(self, at: *mut f16) {
        for i in 0..4 {
            // SAFETY: as above.
            unsafe { vst1_u16(at.add(QUARTER * i).cast(), vreinterpret_u16_f16(vcvt_f16_f32(self.0[i]))) }
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u16) -> Neon {
        // SAFETY: as above.
        Neon(from_fn(|i| unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(at.add(QUARTER * i)))) }))
    }

    #[inline(always)]
    unsafe fn sums<const N: usize>(all: [Neon; N]) -> [f32; N] {
        // SAFETY: as above.
        all.map(|Neon([a, b, c, d])| unsafe {
            let four = vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(vpadd_f32(two, two))
        })
    }
}

/// Unlike the instruction of this name, the second where one is no number.
#[inline(always)]
unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's.
    unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
}

#[inline(always)]
unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's.
    unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
}

#[inline(always)]
unsafe fn times_two_to(x: float32x4_t, n: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's. 2^128 has no representation: two factors.
    unsafe {
        let n = vcvtnq_s32_f32(n);
        let half = vshrq_n_s32::<1>(n);
        vmulq_f32(vmulq_f32(x, two_to(half)), two_to(vsubq_s32(n, half)))
    }
}

#[inline(always)]
unsafe fn two_to(n: int32x4_t) -> float32x4_t {
    // SAFETY: the caller's.
    unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127)))) }
}

#[inline(always)]
unsafe fn zero_where_less(a: float32x4_t, x: float32x4_t, least: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's.
    unsafe { vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a), vcltq_f32(x, least))) }
}

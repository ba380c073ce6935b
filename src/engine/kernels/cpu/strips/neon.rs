//! NEON: four rows in a register. With `DOT`, the instruction for products of bytes that processors since ARMv8.2 have.

use super::columns::{X32, X256};
use super::lanes::{Groups, Lanes, Quads};
use super::layout::LINE;
use std::arch::aarch64::*;
use std::arch::asm;

/// The instructions.
#[derive(Clone, Copy)]
pub struct Neon<const DOT: bool>;

/// The dword of a column's activations from `at` on, for all rows.
#[inline(always)]
unsafe fn spread(qs: *const i8) -> int8x16_t {
    // SAFETY: the caller's pointer is to four bytes or more.
    unsafe { vreinterpretq_s8_s32(vdupq_n_s32(qs.cast::<i32>().read_unaligned())) }
}

/// Adds the products of bytes to sums of 16 bits: of the lower halves, and of the upper ones.
#[inline(always)]
unsafe fn products([low, high]: [int16x8_t; 2], w: int8x16_t, x: int8x16_t) -> [int16x8_t; 2] {
    // SAFETY: the caller's.
    unsafe { [vmlal_s8(low, vget_low_s8(w), vget_low_s8(x)), vmlal_high_s8(high, w, x)] }
}

impl<const DOT: bool> Neon<DOT> {
    /// Adds the products of signed bytes to a row's sum. Products of at most 128 * 127 are added by twos in 16 bits.
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: see the trait; with `DOT` the processor has the instruction, whose name Rust does not give away yet.
        unsafe {
            if DOT {
                let mut sum = sum;
                asm!(
                    ".arch_extension dotprod",
                    "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
                    sum = inout(vreg) sum,
                    w = in(vreg) w,
                    x = in(vreg) x,
                    options(pure, nomem, nostack, preserves_flags),
                );
                return sum;
            }
            let (low, high) = (vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x));
            vpadalq_s16(sum, vpaddq_s16(low, high))
        }
    }
}

impl<const DOT: bool> Lanes for Neon<DOT> {
    const ROWS: usize = 4;
    const COLUMNS: usize = if DOT { 8 } else { 4 };
    type Int = int32x4_t;
    type Float = float32x4_t;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> int32x4_t {
        // SAFETY: see the trait, here and below.
        unsafe { vreinterpretq_s32_u8(vld1q_u8(at)) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut u8, v: int32x4_t) {
        // SAFETY: as above.
        unsafe { vst1q_u8(at, vreinterpretq_u8_s32(v)) }
    }

    #[inline(always)]
    unsafe fn load_floats(at: *const f32) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vld1q_f32(at) }
    }

    #[inline(always)]
    unsafe fn store_floats(at: *mut f32, v: float32x4_t) {
        // SAFETY: as above.
        unsafe { vst1q_f32(at, v) }
    }

    #[inline(always)]
    unsafe fn load_halves(at: *const u8) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(at))) }
    }

    #[inline(always)]
    unsafe fn low_halves(v: int32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(vreinterpretq_u32_s32(v)))) }
    }

    #[inline(always)]
    unsafe fn zero() -> int32x4_t {
        // SAFETY: as above.
        unsafe { vdupq_n_s32(0) }
    }

    #[inline(always)]
    unsafe fn splat_byte(v: u8) -> int32x4_t {
        // SAFETY: as above.
        unsafe { vreinterpretq_s32_u8(vdupq_n_u8(v)) }
    }

    #[inline(always)]
    unsafe fn splat(v: f32) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vdupq_n_f32(v) }
    }

    #[inline(always)]
    unsafe fn and(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: as above.
        unsafe { vandq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn merge(a: int32x4_t, mask: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: as above.
        unsafe { vorrq_s32(vandq_s32(a, mask), b) }
    }

    #[inline(always)]
    unsafe fn shl(v: int32x4_t, by: u32) -> int32x4_t {
        // SAFETY: as above.
        unsafe { vshlq_s32(v, vdupq_n_s32(by.cast_signed())) }
    }

    #[inline(always)]
    unsafe fn shr(v: int32x4_t, by: u32) -> int32x4_t {
        // SAFETY: as above. To the right is to the left by less than nothing.
        unsafe { vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(v), vdupq_n_s32(-by.cast_signed()))) }
    }

    #[inline(always)]
    unsafe fn sub(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: as above.
        unsafe { vsubq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn to_float(v: int32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vcvtq_f32_s32(v) }
    }

    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn fnma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vfmsq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn scale(v: int32x4_t, which: usize) -> int32x4_t {
        // SAFETY: as above.
        unsafe { vshrq_n_s32::<24>(Self::shl(v, 24 - 8 * which as u32)) }
    }

    #[inline(always)]
    unsafe fn pair(v: int32x4_t, odd: bool) -> int32x4_t {
        // SAFETY: as above.
        unsafe {
            let v = vreinterpretq_s16_s32(v);
            vreinterpretq_s32_s16(vshrq_n_s16::<8>(if odd { v } else { vshlq_n_s16::<8>(v) }))
        }
    }

    #[inline(always)]
    unsafe fn dot_pairs(sum: int32x4_t, a: int32x4_t, x: i32) -> int32x4_t {
        // SAFETY: as above.
        unsafe {
            let (a, x) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(vdupq_n_s32(x)));
            let (low, high) = (vmull_s16(vget_low_s16(a), vget_low_s16(x)), vmull_high_s16(a, x));
            vaddq_s32(sum, vpaddq_s32(low, high))
        }
    }

    #[inline(always)]
    unsafe fn groups<W: Quads<Self>, const N: usize>(w: &W, groups: Groups, x: *const X256, sums: &mut [int32x4_t; N]) {
        let Groups { pair, quads, sums: most, columns, scales } = groups;
        for group in 0..8 / quads {
            // SAFETY: as above; `x` is to `N` columns. Weights are below 64, so that they are the same with a sign.
            unsafe {
                let (mut first, mut second) = ([vdupq_n_s32(0); N], [vdupq_n_s32(0); N]);
                for begin in (0..quads).step_by(most) {
                    let [mut a_sums, mut b_sums] = [[[vdupq_n_s16(0); 2]; N]; 2];
                    for i in (begin..quads.min(begin + most)).map(|i| group * quads + i) {
                        let [a, b] = w.pair(pair, i).map(|w| vreinterpretq_s8_s32(w));
                        for n in 0..N {
                            let x = (&raw const (*x.add(n)).qs).cast::<i8>();
                            let (x_a, x_b) = (spread(x.add(columns[0] + 4 * i)), spread(x.add(columns[1] + 4 * i)));
                            if DOT {
                                first[n] = Self::dot(first[n], a, x_a);
                                second[n] = Self::dot(second[n], b, x_b);
                            } else {
                                a_sums[n] = products(a_sums[n], a, x_a);
                                b_sums[n] = products(b_sums[n], b, x_b);
                            }
                        }
                    }
                    for n in 0..N {
                        if !DOT {
                            first[n] = vpadalq_s16(first[n], vpaddq_s16(a_sums[n][0], a_sums[n][1]));
                            second[n] = vpadalq_s16(second[n], vpaddq_s16(b_sums[n][0], b_sums[n][1]));
                        }
                    }
                }
                let [a, b] = scales.map(|scales| Self::load(scales.add(LINE * group)));
                for n in 0..N {
                    sums[n] = vmlaq_s32(vmlaq_s32(sums[n], first[n], a), second[n], b);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn block<W: Quads<Self>, const N: usize>(w: &W, x: *const X32) -> [int32x4_t; N] {
        // SAFETY: as above; `x` is to `N` columns.
        unsafe {
            let mut sums = [vdupq_n_s32(0); N];
            for i in 0..4 {
                for (half, w) in w.pair(0, i).into_iter().enumerate() {
                    // Bytes that are 128 too large are right with the other sign.
                    let w = vreinterpretq_s8_s32(veorq_s32(w, Self::splat_byte(0x80)));
                    for n in 0..N {
                        let x = (&raw const (*x.add(n)).qs).cast::<i8>();
                        sums[n] = Self::dot(sums[n], w, spread(x.add(16 * half + 4 * i)));
                    }
                }
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: as above; nothing is read.
        unsafe { asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly)) }
    }
}

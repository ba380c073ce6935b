//! The reference: an array, on any processor.

use super::{Floats, LANES};
use half::f16;

/// Sixteen floats.
#[derive(Clone, Copy)]
pub struct Plain([f32; LANES]);

impl Plain {
    fn each(self, other: Plain, f: impl Fn(f32, f32) -> f32) -> Plain {
        Plain(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

/// 2 to the power of a whole number from -126 to 127.
fn two_to(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

impl Floats for Plain {
    unsafe fn splat(x: f32) -> Plain {
        Plain([x; LANES])
    }

    unsafe fn load(at: *const f32) -> Plain {
        // SAFETY: see the trait, here and below.
        Plain(unsafe { at.cast::<[f32; LANES]>().read_unaligned() })
    }

    unsafe fn store(self, at: *mut f32) {
        // SAFETY: as above.
        unsafe { at.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    unsafe fn load_f16(at: *const f16) -> Plain {
        // SAFETY: as above.
        Plain(unsafe { at.cast::<[f16; LANES]>().read_unaligned() }.map(f16::to_f32))
    }

    unsafe fn store_f16(self, at: *mut f16) {
        // SAFETY: as above.
        unsafe { at.cast::<[f16; LANES]>().write_unaligned(self.0.map(f16::from_f32)) }
    }

    unsafe fn load_bf16(at: *const u16) -> Plain {
        // SAFETY: as above.
        let halves = unsafe { at.cast::<[[u8; 2]; LANES]>().read_unaligned() };
        Plain(halves.map(|half| f32::from_bits(u32::from(u16::from_le_bytes(half)) << 16)))
    }

    unsafe fn add(self, other: Plain) -> Plain {
        self.each(other, |a, b| a + b)
    }

    unsafe fn sub(self, other: Plain) -> Plain {
        self.each(other, |a, b| a - b)
    }

    unsafe fn mul(self, other: Plain) -> Plain {
        self.each(other, |a, b| a * b)
    }

    unsafe fn div(self, other: Plain) -> Plain {
        self.each(other, |a, b| a / b)
    }

    unsafe fn fma(self, by: Plain, to: Plain) -> Plain {
        Plain(std::array::from_fn(|i| self.0[i].mul_add(by.0[i], to.0[i])))
    }

    unsafe fn fnma(self, by: Plain, to: Plain) -> Plain {
        Plain(std::array::from_fn(|i| (-self.0[i]).mul_add(by.0[i], to.0[i])))
    }

    unsafe fn max(self, other: Plain) -> Plain {
        self.each(other, |a, b| if a > b { a } else { b })
    }

    unsafe fn min(self, other: Plain) -> Plain {
        self.each(other, |a, b| if a < b { a } else { b })
    }

    unsafe fn abs(self) -> Plain {
        Plain(self.0.map(f32::abs))
    }

    unsafe fn round(self) -> Plain {
        Plain(self.0.map(f32::round_ties_even))
    }

    unsafe fn times_two_to(self, n: Plain) -> Plain {
        // 2^128 has no representation: two factors.
        self.each(n, |x, n| {
            let (n, half) = (n as i32, n as i32 >> 1);
            x * two_to(half) * two_to(n - half)
        })
    }

    unsafe fn zero_where_less(self, x: Plain, least: Plain) -> Plain {
        Plain(std::array::from_fn(|i| if x.0[i] < least.0[i] { 0.0 } else { self.0[i] }))
    }

    unsafe fn sums<const N: usize>(all: [Plain; N]) -> [f32; N] {
        all.map(|Plain(mut lanes)| {
            let mut half = LANES / 2;
            while half > 0 {
                for i in 0..half {
                    lanes[i] += lanes[i + half];
                }
                half /= 2;
            }
            lanes[0]
        })
    }
}

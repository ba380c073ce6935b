//! How many operations a second the processor's instructions give when their operands lie in registers: what no model that
//! computes with them can exceed.

use super::together::seconds;
use serde::{Deserialize, Serialize};
use std::hint::black_box;

/// Operations a second of all threads together, each multiplication and each addition being one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Of integers of 8 bits, with which quantised weights are computed.
    pub int8: f64,
    /// Of floats of 32 bits.
    pub float32: f64,
}

/// The best of so many counts.
const COUNTS: usize = 5;
/// Instructions of each accumulator.
const ROUNDS: usize = 1 << 23;

impl Peak {
    /// What so many threads reach with the instructions that the engine takes; absent where it is not known how to count.
    pub fn measure(threads: usize) -> Option<Peak> {
        let [int8, float32] = instructions()?;
        let best = |count: Count| {
            let work = || {
                // SAFETY: `instructions` has asked the processor for those that it gives.
                black_box(unsafe { (count.run)(black_box(ROUNDS)) });
            };
            let taken = (0..COUNTS).map(|_| seconds((0..threads.max(1)).map(|_| work)));
            (count.operations * ROUNDS * threads.max(1)) as f64 / taken.fold(f64::INFINITY, f64::min)
        };
        Some(Peak { int8: best(int8), float32: best(float32) })
    }
}

/// A loop over instructions that wait for nothing but themselves.
#[derive(Clone, Copy)]
struct Count {
    run: unsafe fn(usize) -> f32,
    /// In a round.
    operations: usize,
}

/// Those for integers and for floats.
#[cfg(target_arch = "x86_64")]
fn instructions() -> Option<[Count; 2]> {
    use x86::*;
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        return Some([
            Count { run: int8_512, operations: 128 * LANES },
            Count { run: float_512, operations: 32 * LANES },
        ]);
    }
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
        return None;
    }
    let float = Count { run: float_256, operations: 16 * LANES };
    match is_x86_feature_detected!("avxvnni") {
        true => Some([Count { run: int8_vnni_256, operations: 64 * LANES }, float]),
        false => Some([Count { run: int8_256, operations: 64 * LANES }, float]),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn instructions() -> Option<[Count; 2]> {
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Accumulators: more than the latency of an instruction times how many begin at once.
    pub const LANES: usize = 12;

    macro_rules! count {
        ($name:ident, $features:literal, $zero:ident, $one:expr, |$sum:ident, $x:ident| $step:expr, |$end:ident| $last:expr) => {
            #[target_feature(enable = $features)]
            pub unsafe fn $name(rounds: usize) -> f32 {
                let $x = black_box($one);
                let [mut a, mut b, mut c, mut d] = [$zero(); 4];
                let [mut e, mut f, mut g, mut h] = [$zero(); 4];
                let [mut i, mut j, mut k, mut l] = [$zero(); 4];
                for _ in 0..rounds {
                    a = {
                        let $sum = a;
                        $step
                    };
                    b = {
                        let $sum = b;
                        $step
                    };
                    c = {
                        let $sum = c;
                        $step
                    };
                    d = {
                        let $sum = d;
                        $step
                    };
                    e = {
                        let $sum = e;
                        $step
                    };
                    f = {
                        let $sum = f;
                        $step
                    };
                    g = {
                        let $sum = g;
                        $step
                    };
                    h = {
                        let $sum = h;
                        $step
                    };
                    i = {
                        let $sum = i;
                        $step
                    };
                    j = {
                        let $sum = j;
                        $step
                    };
                    k = {
                        let $sum = k;
                        $step
                    };
                    l = {
                        let $sum = l;
                        $step
                    };
                }
                let ends = [a, b, c, d, e, f, g, h, i, j, k, l];
                ends.into_iter().map(|$end| $last).sum()
            }
        };
    }

    count!(
        int8_512,
        "avx512f,avx512vnni",
        _mm512_setzero_si512,
        _mm512_set1_epi8(1),
        |sum, x| _mm512_dpbusd_epi32(sum, x, x),
        |end| _mm512_reduce_add_epi32(end) as f32
    );
    count!(float_512, "avx512f", _mm512_setzero_ps, _mm512_set1_ps(0.5), |sum, x| _mm512_fmadd_ps(sum, x, x), |end| {
        _mm512_reduce_add_ps(end)
    });
    count!(
        int8_vnni_256,
        "avx2,avxvnni",
        _mm256_setzero_si256,
        _mm256_set1_epi8(1),
        |sum, x| _mm256_dpbusd_avx_epi32(sum, x, x),
        |end| _mm256_extract_epi32::<0>(end) as f32
    );
    // The products depend on the sum, so that they cannot be taken before the loop.
    count!(
        int8_256,
        "avx2",
        _mm256_setzero_si256,
        _mm256_set1_epi8(1),
        |sum, x| _mm256_add_epi32(x, _mm256_madd_epi16(_mm256_maddubs_epi16(sum, x), x)),
        |end| _mm256_extract_epi32::<0>(end) as f32
    );
    count!(float_256, "avx2,fma", _mm256_setzero_ps, _mm256_set1_ps(0.5), |sum, x| _mm256_fmadd_ps(sum, x, x), |end| {
        _mm256_cvtss_f32(end)
    });
}

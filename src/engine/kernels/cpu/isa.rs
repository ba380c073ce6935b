use super::scalar;
use crate::engine::quant::{self, X8_0, X8K};
use half::f16;

#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, strips};

/// Instructions to compute with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// What every processor has: the reference.
    Scalar,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// The same, and AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni(Avx2),
    /// The same, and AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx2),
}

/// Calls the function of this name for the instructions.
macro_rules! with_isa {
    ($isa:expr, $function:ident($($argument:expr),*)) => {
        match $isa {
            Isa::Scalar => scalar::$function($($argument),*),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(avx2) | Isa::AvxVnni(avx2) | Isa::Avx512(avx2) => avx2.$function($($argument),*),
        }
    };
}

impl Isa {
    /// All that this processor has, the best last.
    pub fn all() -> Vec<Isa> {
        let mut all = vec![Isa::Scalar];
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = Avx2::detect() {
            all.push(Isa::Avx2(avx2));
            if is_x86_feature_detected!("avxvnni") {
                all.push(Isa::AvxVnni(avx2));
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Isa::Avx512(avx2));
            }
        }
        all
    }

    /// The best that this processor has.
    pub fn detect() -> Isa {
        Isa::all().pop().unwrap_or(Isa::Scalar)
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni(_) => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "avx512",
        }
    }

    /// What matrices in strips are multiplied with.
    #[cfg(target_arch = "x86_64")]
    pub fn of_strips(self) -> Option<strips::Instructions> {
        match self {
            Isa::Scalar => None,
            Isa::Avx2(_) => Some(strips::Instructions::Avx2),
            Isa::AvxVnni(_) => Some(strips::Instructions::AvxVnni),
            Isa::Avx512(_) => Some(strips::Instructions::Avx512),
        }
    }

    /// Quantises a row of activations.
    pub fn quantise_x8_0(self, x: &[f32], out: &mut [X8_0]) {
        match self {
            Isa::Scalar => quant::quantise(x, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(avx2) | Isa::AvxVnni(avx2) | Isa::Avx512(avx2) => avx2.quantise_x8_0(x, out),
        }
    }

    /// Quantises a row of activations.
    pub fn quantise_x8_k(self, x: &[f32], out: &mut [X8K]) {
        match self {
            Isa::Scalar => quant::quantise(x, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(avx2) | Isa::AvxVnni(avx2) | Isa::Avx512(avx2) => avx2.quantise_x8_k(x, out),
        }
    }

    /// `out = x / rms(x) * weight`.
    pub fn norm(self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        with_isa!(self, norm(x, weight, eps, out))
    }

    /// `gate = gate * sigmoid(gate) * up`.
    pub fn silu(self, gate: &mut [f32], up: &[f32]) {
        with_isa!(self, silu(gate, up))
    }

    /// `gate = gelu(gate) * up`.
    pub fn gelu(self, gate: &mut [f32], up: &[f32]) {
        with_isa!(self, gelu(gate, up))
    }

    /// The products of a key with `N` queries.
    pub fn score<const N: usize>(self, key: &[f16], queries: [&[f32]; N]) -> [f32; N] {
        with_isa!(self, score(key, queries))
    }

    /// Adds to each of `N` sums the values, each weighted.
    pub fn weigh<const N: usize>(self, values: &[f16], weights: [&[f32]; N], sums: [&mut [f32]; N]) {
        with_isa!(self, weigh(values, weights, sums))
    }

    /// Each score becomes `exp(score - most)`; returns their sum.
    pub fn exponentials(self, scores: &mut [f32], most: f32) -> f32 {
        with_isa!(self, exponentials(scores, most))
    }

    /// Rounds to halves.
    pub fn to_f16(self, x: &[f32], out: &mut [f16]) {
        with_isa!(self, to_f16(x, out))
    }
}

use super::floats::{Element, Plain, operations};
use super::strips::Instructions;
use crate::engine::quant::{self, X8_0, X8K};
use half::f16;

#[cfg(target_arch = "aarch64")]
use super::floats::Neon;
#[cfg(target_arch = "x86_64")]
use super::{
    avx2::Avx2,
    floats::{Ymm, Zmm},
};

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
    /// NEON, which every such processor has.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// The same, and products of bytes by fours (ARMv8.2).
    #[cfg(target_arch = "aarch64")]
    NeonDot(DotProducts),
}

/// Proof that this processor multiplies bytes by fours.
#[cfg(target_arch = "aarch64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DotProducts(());

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
        #[cfg(target_arch = "aarch64")]
        {
            all.push(Isa::Neon);
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                all.push(Isa::NeonDot(DotProducts(())));
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
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot(_) => "neon-dotprod",
        }
    }

    /// What matrices in strips are multiplied with.
    pub fn of_strips(self) -> Option<Instructions> {
        match self {
            Isa::Scalar => None,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => Some(Instructions::Avx2),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni(_) => Some(Instructions::AvxVnni),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => Some(Instructions::Avx512),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Some(Instructions::Neon),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot(_) => Some(Instructions::NeonDot),
        }
    }

    /// Whether rows of all formats are multiplied by more than plain loops.
    pub fn multiplies_rows(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) | Isa::AvxVnni(_) | Isa::Avx512(_) => true,
            _ => false,
        }
    }

    /// Quantises a row of activations.
    pub fn quantise_x8_0(self, x: &[f32], out: &mut [X8_0]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(avx2) | Isa::AvxVnni(avx2) | Isa::Avx512(avx2) => avx2.quantise_x8_0(x, out),
            _ => quant::quantise(x, out),
        }
    }

    /// Quantises a row of activations.
    pub fn quantise_x8_k(self, x: &[f32], out: &mut [X8K]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(avx2) | Isa::AvxVnni(avx2) | Isa::Avx512(avx2) => avx2.quantise_x8_k(x, out),
            _ => quant::quantise(x, out),
        }
    }
}

/// Functions of [`operations`], compiled for each set of instructions.
macro_rules! compiled {
    ($(
        $(#[$doc:meta])*
        fn $name:ident $(<$element:ident, const $n:ident>)? ($($x:ident: $type:ty),*) $(-> $result:ty)?;
    )*) => {
        impl Isa {$(
            $(#[$doc])*
            pub fn $name $(<$element: Element, const $n: usize>)? (self, $($x: $type),*) $(-> $result)? {
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2,fma,f16c")]
                unsafe fn avx2 $(<$element: Element, const $n: usize>)? ($($x: $type),*) $(-> $result)? {
                    // SAFETY: the caller has the instructions.
                    unsafe { operations::$name::<Ymm $(, $element, $n)?>($($x),*) }
                }
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
                unsafe fn avx512 $(<$element: Element, const $n: usize>)? ($($x: $type),*) $(-> $result)? {
                    // SAFETY: as above.
                    unsafe { operations::$name::<Zmm $(, $element, $n)?>($($x),*) }
                }
                // SAFETY: the variant is the proof that the processor has the instructions; every one has the plain ones.
                unsafe {
                    match self {
                        Isa::Scalar => operations::$name::<Plain $(, $element, $n)?>($($x),*),
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx2(_) | Isa::AvxVnni(_) => avx2($($x),*),
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx512(_) => avx512($($x),*),
                        #[cfg(target_arch = "aarch64")]
                        Isa::Neon | Isa::NeonDot(_) => operations::$name::<Neon $(, $element, $n)?>($($x),*),
                    }
                }
            }
        )*}
    };
}

compiled! {
    /// `out = x / rms(x) * weight`.
    fn norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);

    /// `x = (x - mean) / sqrt(variance + eps) * weight + bias`.
    fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32);

    /// `gate = gate * sigmoid(gate) * up`.
    fn silu(gate: &mut [f32], up: &[f32]);

    /// `gate = gelu(gate) * up`, in the approximation by tanh.
    fn gelu(gate: &mut [f32], up: &[f32]);

    /// `x = x * (1 + erf(x / sqrt(2))) / 2`: GELU itself.
    fn gelu_of_erf(x: &mut [f32]);

    /// The products of keys, one every `stride` numbers, with `N` queries of the same length: a row of `out` each.
    fn score<T, const N>(keys: &[T], stride: usize, queries: [&[f32]; N], out: [&mut [f32]; N]);

    /// Adds to each of `N` sums the values, one every `stride` numbers and as long as a sum, each weighted.
    fn weigh<T, const N>(values: &[T], stride: usize, weights: [&[f32]; N], sums: [&mut [f32]; N]);

    /// Each score becomes `exp(score - most)`; returns their sum.
    fn exponentials(scores: &mut [f32], most: f32) -> f32;

    /// Rounds to halves.
    fn to_f16(x: &[f32], out: &mut [f16]);
}

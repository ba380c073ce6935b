//! Activations that meet weights in blocks of 32.

use super::Activation;
use half::f16;

/// 32 activations `d * q` with q of 8 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct X8_0 {
    /// The scale, a number that an IEEE half can hold: the same as llama.cpp stores, so that results agree with its.
    pub d: f32,
    /// The activations, from -127 to 127.
    pub qs: [i8; 32],
}

impl Activation for X8_0 {
    const LEN: usize = 32;

    fn quantise(x: &[f32]) -> X8_0 {
        let most = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let inverse = if most == 0.0 { 0.0 } else { 127.0 / most };
        X8_0 {
            d: f16::from_f32(most / 127.0).to_f32(),
            qs: std::array::from_fn(|i| (x[i] * inverse).round_ties_even() as i8),
        }
    }
}

/// Two, for weights in blocks of 64.
impl Activation for [X8_0; 2] {
    const LEN: usize = 64;

    fn quantise(x: &[f32]) -> [X8_0; 2] {
        [X8_0::quantise(&x[..32]), X8_0::quantise(&x[32..])]
    }
}

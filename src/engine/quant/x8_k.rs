//! Activations that meet weights in blocks of 256.

use super::Activation;

/// 256 activations `d * q` with q of 8 bits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct X8K {
    /// The scale.
    pub d: f32,
    /// The activations, from -127 to 127.
    pub qs: [i8; 256],
    /// Their sums by sixteens: what the weights' offsets are multiplied with.
    pub sums: [i16; 16],
}

impl Activation for X8K {
    const LEN: usize = 256;

    fn quantise(x: &[f32]) -> X8K {
        let most = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        if most == 0.0 {
            return X8K { d: 0.0, qs: [0; 256], sums: [0; 16] };
        }
        let inverse = 127.0 / most;
        let qs: [i8; 256] = std::array::from_fn(|i| (x[i] * inverse).round_ties_even() as i8);
        let sums = std::array::from_fn(|i| qs[i * 16..(i + 1) * 16].iter().map(|&q| i16::from(q)).sum());
        X8K { d: 1.0 / inverse, qs, sums }
    }
}

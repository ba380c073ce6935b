//! Activations as strips meet them: all columns of a block lie together, so that a tile reaches them at fixed distances.

use crate::engine::quant::{Activation, X8_0, X8K};

/// 256 activations of a column.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct X256 {
    /// The scale.
    pub d: f32,
    /// Sums of 32 as pairs of 16 bits: of the groups 0 and 2, 1 and 3, 4 and 6, 5 and 7.
    pub by_32: [i32; 4],
    /// Sums of 16 as pairs of 16 bits, in the same order.
    pub by_16: [i32; 8],
    /// The activations.
    pub qs: [i8; 256],
}

/// 32 activations of a column.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct X32 {
    /// The scale.
    pub d: f32,
    /// What weights that are 128 too large add too much, to be added: -128 times the sum of the activations.
    pub bias: i32,
    /// The activations.
    pub qs: [i8; 32],
}

/// Activations of a block.
pub trait Column: Copy + Send + Sync + 'static {
    /// As rows of weights meet them.
    type Plain: Activation;
    /// Of nothing.
    const ZERO: Self;
    /// The same as rows of weights meet it.
    const PLAIN_ZERO: Self::Plain;

    /// The same activations.
    fn of(x: &Self::Plain) -> Self;
}

impl Column for X256 {
    type Plain = X8K;
    const ZERO: X256 = X256 { d: 0.0, by_32: [0; 4], by_16: [0; 8], qs: [0; 256] };
    const PLAIN_ZERO: X8K = X8K { d: 0.0, qs: [0; 256], sums: [0; 16] };

    fn of(x: &X8K) -> X256 {
        let pair = |a: i16, b: i16| i32::from(a) & 0xffff | i32::from(b) << 16;
        let s = &x.sums;
        let by_16 = std::array::from_fn(|i| {
            let first = i / 2 * 4 + i % 2;
            pair(s[first], s[first + 2])
        });
        let by_32 = std::array::from_fn(|i| {
            let first = i / 2 * 8 + i % 2 * 2;
            pair(s[first] + s[first + 1], s[first + 4] + s[first + 5])
        });
        X256 { d: x.d, by_32, by_16, qs: x.qs }
    }
}

impl Column for X32 {
    type Plain = X8_0;
    const ZERO: X32 = X32 { d: 0.0, bias: 0, qs: [0; 32] };
    const PLAIN_ZERO: X8_0 = X8_0 { d: 0.0, qs: [0; 32] };

    fn of(x: &X8_0) -> X32 {
        X32 { d: x.d, bias: -128 * x.qs.iter().map(|&q| i32::from(q)).sum::<i32>(), qs: x.qs }
    }
}

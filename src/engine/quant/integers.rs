//! What packed blocks unpack to, whatever their packing: integers of 8 bits and the scales of groups of them. The reference
//! products are computed from this, and a kernel may repack a matrix by way of it.

use super::{Activation, Block, X8_0, X8K};

/// A block whose weights are integers with scales.
///
/// # Safety
/// As for [`Block`].
pub unsafe trait Packed: Copy + Send + Sync + 'static {
    /// What it unpacks to.
    type Integers: Integers;

    /// Its integers and scales.
    fn unpack(&self) -> Self::Integers;
}

/// Integers and their scales.
pub trait Integers {
    /// As many activations as there are integers.
    type X: Activation;

    /// Writes the weights to `out`, in ggml's order of operations, so that they are its to the bit.
    fn dequantise(&self, out: &mut [f32]);

    /// Adds the product with a block of activations to a sum.
    fn add_product(&self, x: &Self::X, sum: f32) -> f32;
}

// SAFETY: `Packed` has the same contract.
unsafe impl<P: Packed> Block for P {
    const LEN: usize = <P::Integers as Integers>::X::LEN;
    type X = <P::Integers as Integers>::X;

    fn dequantise(&self, out: &mut [f32]) {
        self.unpack().dequantise(out);
    }

    fn add_product(&self, x: &Self::X, sum: f32) -> f32 {
        self.unpack().add_product(x, sum)
    }
}

/// 32 weights `d * q - min`.
#[derive(Debug, Clone, Copy)]
pub struct Thirty2 {
    /// The scale.
    pub d: f32,
    /// What is taken off each weight.
    pub min: f32,
    /// The integers.
    pub qs: [i8; 32],
}

impl Integers for Thirty2 {
    type X = X8_0;

    fn dequantise(&self, out: &mut [f32]) {
        for (out, q) in out.iter_mut().zip(self.qs) {
            *out = self.d * f32::from(q) - self.min;
        }
    }

    fn add_product(&self, x: &X8_0, sum: f32) -> f32 {
        let sum = (dot(&x.qs, &self.qs) as f32).mul_add(self.d * x.d, sum);
        if self.min == 0.0 {
            return sum;
        }
        let whole: i32 = x.qs.iter().map(|&x| i32::from(x)).sum();
        (-whole as f32).mul_add(self.min * x.d, sum)
    }
}

/// 64 weights `d * q` in four groups of 16.
#[derive(Debug, Clone, Copy)]
pub struct Sixty4 {
    /// The groups' scales.
    pub d: [f32; 4],
    /// The integers.
    pub qs: [i8; 64],
}

impl Integers for Sixty4 {
    type X = [X8_0; 2];

    fn dequantise(&self, out: &mut [f32]) {
        for (i, (out, q)) in out.iter_mut().zip(self.qs).enumerate() {
            *out = self.d[i / 16] * f32::from(q);
        }
    }

    fn add_product(&self, x: &[X8_0; 2], sum: f32) -> f32 {
        (0..4).fold(sum, |sum, i| {
            let x = &x[i / 2];
            let product = dot(&x.qs[i % 2 * 16..][..16], &self.qs[16 * i..][..16]);
            (product as f32).mul_add(self.d[i] * x.d, sum)
        })
    }
}

/// 256 weights `d * scale * q - dmin * min` in sixteen groups of 16. Formats with eight groups have each twice.
#[derive(Debug, Clone, Copy)]
pub struct Super {
    /// The scale of the scales.
    pub d: f32,
    /// The scale of the minima; zero in formats that have none.
    pub dmin: f32,
    /// The groups' scales.
    pub scales: [i8; 16],
    /// The groups' minima.
    pub mins: [u8; 16],
    /// The integers.
    pub qs: [i8; 256],
}

impl Integers for Super {
    type X = X8K;

    fn dequantise(&self, out: &mut [f32]) {
        for (i, (out, qs)) in out.chunks_exact_mut(16).zip(self.qs.as_chunks::<16>().0).enumerate() {
            let (scale, min) = (self.d * f32::from(self.scales[i]), self.dmin * f32::from(self.mins[i]));
            for (out, &q) in out.iter_mut().zip(qs) {
                *out = scale * f32::from(q) - min;
            }
        }
    }

    fn add_product(&self, x: &X8K, sum: f32) -> f32 {
        let (mut product, mut mins) = (0, 0);
        for i in 0..16 {
            product += i32::from(self.scales[i]) * dot(&x.qs[16 * i..][..16], &self.qs[16 * i..][..16]);
            mins += i32::from(self.mins[i]) * i32::from(x.sums[i]);
        }
        let sum = (product as f32).mul_add(self.d * x.d, sum);
        if self.dmin == 0.0 { sum } else { (-mins as f32).mul_add(self.dmin * x.d, sum) }
    }
}

fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}

/// 32 integers of 4 bits: the low halves of 16 bytes, then the high ones.
pub(super) fn nibbles(qs: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 })
}

/// 32 integers of 5 bits, the fifth of integer i in bit i of `high`.
pub(super) fn fives(qs: &[u8; 16], high: [u8; 4]) -> [u8; 32] {
    let (low, high) = (nibbles(qs), u32::from_le_bytes(high));
    std::array::from_fn(|i| low[i] | ((high >> i & 1) << 4) as u8)
}

/// 256 integers of 4 bits: of 64 in 32 bytes the first 32 are in the low halves, the others in the high halves.
pub(super) fn nibbles_by_64(qs: &[u8; 128]) -> [u8; 256] {
    std::array::from_fn(|i| qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15)
}

/// 256 integers of 2 bits: of 128 in 32 bytes each 32 have a pair of bits, the first the lowest.
pub(super) fn pairs_by_128(qs: &[u8; 64]) -> [u8; 256] {
    std::array::from_fn(|i| qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3)
}

/// Each of eight numbers twice.
pub(super) fn doubled<T: Copy>(eight: [T; 8]) -> [T; 16] {
    std::array::from_fn(|i| eight[i / 2])
}

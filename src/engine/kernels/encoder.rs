//! What encoders need besides: they look at a whole text at once, back and forth, and remember nothing of it.

use super::{Kernels, Step};

/// A device that computes encoders.
pub trait EncoderKernels: Kernels {
    /// `x[row] = (x[row] - mean) / sqrt(variance + eps) * weight + bias`
    fn layer_norm(&self, x: &mut Self::Buffer, weight: &Self::Buffer, bias: &Self::Buffer, eps: f32, rows: usize);

    /// `x = x * (1 + erf(x / sqrt(2))) / 2`, for the first `len` numbers: GELU itself.
    fn gelu(&self, x: &mut Self::Buffer, len: usize);

    /// `out[row, head] = softmax(scale * q[row, head] * keys) * values`, over all rows of the same slot. Every head of
    /// queries has keys and values of its own. [rows, heads, size]
    fn attend_all(
        &self,
        qkv: [&Self::Buffer; 3],
        step: &Step,
        heads: usize,
        size: usize,
        scale: f32,
        out: &mut Self::Buffer,
    );
}

//! Products of blocks as bad as they come: the largest scales, zeros, subnormal numbers, either sign.

use super::*;
use crate::engine::quant::tests::{Random, ggml};
use std::sync::Arc;

/// Activations that 8 bits hold exactly where a block has a 127 (`most` in all): those that are whole multiples.
fn activations(random: &mut Random, most: f32) -> Vec<f32> {
    let mut whole = || (random.next() % 255) as f32 - 127.0;
    (0..256).map(|i| if i % 32 == 0 { 127.0 } else { whole() } * most).collect()
}

#[test]
fn products() {
    let mut random = Random(7);
    // The scales of activations are halves in some formats: powers of two are exact there, down to subnormal ones.
    for most in [0.0, (-24_f32).exp2(), (-10_f32).exp2(), 1.0, 16.0] {
        let x = activations(&mut random, most);
        for &format in &Format::ALL[1..] {
            let bytes = ggml(format.kind().name());
            let rows = bytes.len() / format.row_bytes(256);
            let bytes = &bytes[..rows * format.row_bytes(256)];
            for isa in Isa::all() {
                let cpu = Cpu::with_isa(1, isa);
                let matrix = cpu.matrix(Arc::new(bytes.to_vec()), format, rows, 256).unwrap();
                let mut out = cpu.buffer(rows).unwrap();
                cpu.matmul(&x, 1, &mut [Product { matrix: &matrix, bias: None, out: &mut out }]);
                let mut weights = vec![0.0; 256];
                for (row, &found) in out.iter().enumerate() {
                    matrix.dequantise(row, &mut weights);
                    let terms = || weights.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x));
                    let (expected, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                    let error = (f64::from(found) - expected).abs();
                    // What no float can hold is infinite, or no number where two of that meet.
                    let beyond = !found.is_finite() && size > f64::from(f32::MAX);
                    assert!(
                        beyond || error <= 3e-6 * size + 1e-38,
                        "{format:?}, {isa:?}, activations up to {most}, row {row}: {found} and not {expected}"
                    );
                }
            }
        }
    }
}

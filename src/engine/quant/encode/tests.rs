use super::*;
use crate::engine::quant::tests::{Random, ggml, ggml_floats};
use proptest::prelude::*;

fn round_trip(format: Format, x: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = vec![0; format.row_bytes(x.len())];
    format.encode(x, &mut bytes);
    let mut found = vec![0.0; x.len()];
    format.dequantise(&bytes, &mut found);
    (bytes, found)
}

fn error(found: &[f32], x: &[f32]) -> f64 {
    found.iter().zip(x).map(|(&found, &x)| (f64::from(found) - f64::from(x)).powi(2)).sum()
}

#[test]
fn plain_formats_are_ggmls_bytes() {
    let x = ggml_floats("source");
    for format in [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0] {
        let (bytes, _) = round_trip(format, &x);
        assert!(bytes == ggml(&format!("{}.quantised", format.kind().name())), "{format:?}");
    }
}

/// Row by row: no kind of numbers is stored worse than ggml does, in any format.
#[test]
fn errors_are_not_above_ggmls() {
    let source = ggml_floats("source");
    for &format in Format::ALL.iter().filter(|format| format.block_len() > 1) {
        let theirs = ggml(&format!("{}.quantised", format.kind().name()));
        for (row, (x, theirs)) in source.chunks(256).zip(theirs.chunks(format.row_bytes(256))).enumerate() {
            let mut expected = vec![0.0; 256];
            format.dequantise(theirs, &mut expected);
            let (found, expected) = (error(&round_trip(format, x).1, x), error(&expected, x));
            assert!(found <= expected * 1.000_001, "{format:?}, row {row}: {found:e}, ggml {expected:e}");
        }
    }
}

proptest! {
    /// What a block stands for is stored as what stands for the same.
    #[test]
    fn numbers_of_a_format_stay(seed in any::<u64>()) {
        for format in [Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::MXFP4] {
            let x: Vec<f32> = Random(seed).floats(256);
            let (_, once) = round_trip(format, &x);
            let (_, twice) = round_trip(format, &once);
            prop_assert!(error(&twice, &once) <= 1e-6 * error(&once, &vec![0.0; 256]), "{format:?}");
        }
    }

    /// Whatever the numbers are, what is stored are numbers, and not far off.
    #[test]
    fn extremes(seed in any::<u64>(), scale in -30_i32..15, zeros in 0_usize..256) {
        let mut x: Vec<f32> = Random(seed).floats(256).iter().map(|x| x * (scale as f32).exp2()).collect();
        x[..zeros].fill(0.0);
        for &format in Format::ALL {
            let (_, found) = round_trip(format, &x);
            prop_assert!(found.iter().all(|found| found.is_finite()), "{format:?}");
            // Smaller scales are no normal halves.
            let near = scale < -10 || error(&found, &x) <= 1.01 * error(&vec![0.0; 256], &x);
            prop_assert!(near, "{format:?}");
        }
    }
}

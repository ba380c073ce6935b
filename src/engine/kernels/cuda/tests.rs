//! Every kernel against the processor's plain ones, over random shapes. Without a card they say so and pass.

mod attention;

use super::*;
use crate::engine::kernels::KvKind;
use crate::engine::kernels::cpu::tests::scattered;
use crate::engine::kernels::cpu::{Cpu, Isa};
use crate::engine::quant::tests::{Random, nmse, random_row};
use proptest::prelude::*;
use std::sync::OnceLock;

/// Products and attention round what they multiply to halves.
const HALVES: f64 = 1e-6;
/// What is left when floats are added in another order, and functions differ in the last bits.
const FLOATS: f64 = 1e-11;

/// The card, opened once. None where there is none, which is said once.
pub(in crate::engine) fn cuda() -> Option<&'static Cuda> {
    static CUDA: OnceLock<Option<Cuda>> = OnceLock::new();
    opened(&CUDA, None)
}

/// The same as if it had so few multiprocessors that each has much to do.
fn narrow() -> Option<&'static Cuda> {
    static CUDA: OnceLock<Option<Cuda>> = OnceLock::new();
    opened(&CUDA, Some(2))
}

fn opened(once: &'static OnceLock<Option<Cuda>>, multiprocessors: Option<usize>) -> Option<&'static Cuda> {
    let open = || match Cuda::new(Which::Number(0), multiprocessors, None, None) {
        Ok(cuda) => Some(cuda),
        Err(error @ (Error::NoDriver(_) | Error::NoKernels)) => {
            eprintln!("SKIPPED: the CUDA kernels are not tested: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    };
    once.get_or_init(open).as_ref()
}

#[test]
fn a_card_that_fails_is_remembered() {
    let Some(cuda) = cuda() else { return };
    // What a kernel that goes astray leaves behind.
    let astray = || cuda.device().must(700, || "computing".into());
    let error = std::panic::catch_unwind(std::panic::AssertUnwindSafe(astray)).unwrap_err();
    let text = error.downcast_ref::<String>().unwrap();
    assert!(text.contains("CUDA_ERROR_ILLEGAL_ADDRESS") && failed(), "{text}");
}

fn plain() -> Cpu {
    Cpu::with_isa(2, Isa::Scalar)
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn near(found: &[f32], expected: &[f64], error: f64, what: &str) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), expected.len());
    let nmse = nmse(found, expected);
    // Not the other way round: nothing is less than a NaN.
    prop_assert!(nmse < error, "{what}: nmse {nmse}");
    Ok(())
}

fn buffer(cuda: &Cuda, values: &[f32]) -> Buffer {
    cuda.upload(values).unwrap()
}

/// The same for products: a sum of few numbers may be small by chance, so what counts is the error against the terms'.
fn near_sums(found: &[f32], (sums, squares): &(Vec<f64>, f64), error: f64, what: &str) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), sums.len());
    let errors: f64 = found.iter().zip(sums).map(|(&found, sum)| (f64::from(found) - sum).powi(2)).sum();
    prop_assert!(errors / squares < error, "{what}: squared errors of {errors} in terms of {squares}");
    Ok(())
}

/// A buffer whose every number must be overwritten.
fn poisoned(cuda: &Cuda, len: usize) -> Buffer {
    buffer(cuda, &vec![f32::NAN; len])
}

/// Random weights, as a file has them and as numbers.
struct Case {
    format: Format,
    rows: usize,
    cols: usize,
    bytes: Arc<Vec<u8>>,
    bias: Vec<f32>,
    weights: Vec<f32>,
}

impl Case {
    fn new(format: Format, rows: usize, cols: usize, random: &mut Random) -> Case {
        let bytes: Vec<u8> = (0..rows).flat_map(|_| random_row(format, cols, random.next())).collect();
        let mut weights = vec![0.0; rows * cols];
        let row_bytes = format.row_bytes(cols);
        for (row, out) in bytes.chunks_exact(row_bytes).zip(weights.chunks_exact_mut(cols)) {
            format.dequantise(row, out);
        }
        Case { format, rows, cols, bytes: Arc::new(bytes), bias: random.floats(rows), weights }
    }

    fn expected(&self, x: &[f32], with_bias: bool) -> Vec<f64> {
        self.sums(x, with_bias).0
    }

    /// The products, and the sum of the squares of all their terms.
    fn sums(&self, x: &[f32], with_bias: bool) -> (Vec<f64>, f64) {
        let mut squares = 0.0;
        let mut sums = Vec::new();
        for x in x.chunks_exact(self.cols) {
            for (weights, bias) in self.weights.chunks_exact(self.cols).zip(&self.bias) {
                let mut sum = if with_bias { f64::from(*bias) } else { 0.0 };
                for (&w, &x) in weights.iter().zip(x) {
                    let term = f64::from(w) * f64::from(x);
                    sum += term;
                    squares += term * term;
                }
                sums.push(sum);
            }
        }
        (sums, squares)
    }
}

fn product(
    cuda: &Cuda,
    format: Format,
    rows: usize,
    cols: usize,
    count: usize,
    seed: u64,
) -> Result<(), TestCaseError> {
    let mut random = Random(seed);
    let case = Case::new(format, rows, cols, &mut random);
    let x = random.floats(count * cols);
    let matrix = cuda.matrix(case.bytes.clone(), format, rows, cols).unwrap();
    let (input, bias) = (buffer(cuda, &x), buffer(cuda, &case.bias));
    let mut out = poisoned(cuda, count * rows);
    cuda.matmul(&input, count, &mut [Product { matrix: &matrix, bias: Some(&bias), out: &mut out }]);
    let expected = case.sums(&x, true);
    let what = format!("{format:?}, {rows} x {cols}, {count} columns");
    near_sums(&cuda.download(&out, count * rows), &expected, HALVES, &what)?;

    // Added to what is there; and the same rows again, which are halves already.
    let (before, mut scratch) = (random.floats(count * rows), poisoned(cuda, count * rows));
    let mut sum = buffer(cuda, &before);
    let again = Product { matrix: &matrix, bias: None, out: &mut scratch };
    cuda.matmul_add(&input, count, again, count * rows, &mut sum);
    let mut expected = case.sums(&x, false);
    expected.0.iter_mut().zip(&before).for_each(|(sum, &before)| *sum += f64::from(before));
    near_sums(&cuda.download(&sum, count * rows), &expected, HALVES, &format!("{what}, added"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn products(
        seed in any::<u64>(),
        rows in 1_usize..90,
        blocks in 1_usize..90,
        count in prop_oneof![1_usize..10, 10_usize..140, 129_usize..300],
    ) {
        let Some(cuda) = cuda() else { return Ok(()) };
        for format in matrix::FORMATS {
            let cols = match format.block_len() {
                1 => 19 * blocks,
                len => (32 * blocks).next_multiple_of(len),
            };
            product(cuda, format, rows, cols, count, seed)?;
        }
    }

    #[test]
    fn large_products(seed in any::<u64>(), rows in 1000_usize..5000, count in prop_oneof![1_usize..5, 5_usize..600]) {
        let Some(cuda) = cuda() else { return Ok(()) };
        // The reference takes as long as the product of these.
        let rows = rows / (1 + count / 20);
        for format in [Format::Q4K, Format::Q6K, Format::Q8_0, Format::F16] {
            product(cuda, format, rows, 1024, count, seed)?;
        }
    }

    #[test]
    fn products_of_few_multiprocessors(
        seed in any::<u64>(),
        rows in 500_usize..2000,
        count in prop_oneof![1_usize..5, 5_usize..17, 17_usize..33],
        blocks in 1_usize..9,
    ) {
        let Some(cuda) = narrow() else { return Ok(()) };
        for format in [Format::Q4K, Format::Q6K, Format::Q5_0, Format::NVFP4] {
            product(cuda, format, rows, 256 * blocks, count, seed)?;
        }
    }

    #[test]
    fn products_of_several_formats(seed in any::<u64>(), rows in 1_usize..700, count in 1_usize..40) {
        let Some(cuda) = cuda() else { return Ok(()) };
        let mut random = Random(seed);
        let formats = [Format::Q4K, Format::Q4K, Format::Q6K, Format::Q8_0, Format::Q5K];
        let cases: Vec<Case> = (0..5).map(|i| Case::new(formats[i], rows / (i + 1) + 1, 512, &mut random)).collect();
        let x = random.floats(count * 512);
        let matrix = |case: &Case| cuda.matrix(case.bytes.clone(), case.format, case.rows, case.cols).unwrap();
        let matrices: Vec<Matrix> = cases.iter().map(matrix).collect();
        let mut outs: Vec<Buffer> = cases.iter().map(|case| poisoned(cuda, count * case.rows)).collect();
        let of = |(matrix, out)| Product { matrix, bias: None, out };
        let mut products: Vec<_> = matrices.iter().zip(&mut outs).map(of).collect();
        cuda.matmul(&buffer(cuda, &x), count, &mut products);
        for (case, out) in cases.iter().zip(&outs) {
            near_sums(&cuda.download(out, count * case.rows), &case.sums(&x, false), HALVES, "one of five")?;
        }
    }

    #[test]
    fn normalised_products(
        seed in any::<u64>(),
        rows in 16_usize..60,
        tiles in prop_oneof![1_usize..5, 15_usize..40],
        count in prop_oneof![1_usize..9, 9_usize..40, 129_usize..140],
    ) {
        let Some(cuda) = cuda() else { return Ok(()) };
        let cpu = plain();
        let mut random = Random(seed);
        let cols = 256 * tiles;
        let formats = [Format::Q4K, Format::Q6K, Format::Q8_0];
        let cases: Vec<Case> = formats.iter().map(|&format| Case::new(format, rows, cols, &mut random)).collect();
        let matrix = |case: &Case| cuda.matrix(case.bytes.clone(), case.format, case.rows, case.cols).unwrap();
        let matrices: Vec<Matrix> = cases.iter().map(matrix).collect();
        let (x, weight) = (random.floats(count * cols), random.floats(cols));
        let mut normed = vec![0.0; count * cols];
        cpu.norm(&x, &weight, 1e-5, count, &mut normed);
        let (input, norm) = (buffer(cuda, &x), buffer(cuda, &weight));
        let mut h = poisoned(cuda, count * cols);
        let mut outs: Vec<Buffer> = cases.iter().map(|_| poisoned(cuda, count * rows)).collect();
        let biases: Vec<Buffer> = cases.iter().map(|case| buffer(cuda, &case.bias)).collect();
        let of = |((matrix, out), bias)| Product { matrix, bias: Some(bias), out };
        let mut products: Vec<_> = matrices.iter().zip(&mut outs).zip(&biases).map(of).collect();
        cuda.norm_matmul(&input, (&norm, 1e-5), count, &mut h, &mut products);
        for (case, out) in cases.iter().zip(&outs) {
            let expected = case.sums(&normed, true);
            near_sums(&cuda.download(out, count * rows), &expected, HALVES, &format!("{:?}, {tiles} tiles", case.format))?;
        }

        for function in [Gate::Silu, Gate::Gelu] {
            let [a, b] = [0, 1].map(|i| cases[i].expected(&normed, i == 1));
            let mut expected: Vec<f32> = a.iter().map(|&x| x as f32).collect();
            let up: Vec<f32> = b.iter().map(|&x| x as f32).collect();
            cpu.gate(function, &mut expected, &up, count * rows);
            let (mut gate, mut up) = (poisoned(cuda, count * rows), poisoned(cuda, count * rows));
            let products = [
                Product { matrix: &matrices[0], bias: None, out: &mut gate },
                Product { matrix: &matrices[1], bias: Some(&biases[1]), out: &mut up },
            ];
            cuda.norm_gate(&input, (&norm, 1e-5), count, &mut h, function, products, count * rows);
            // A gate's function is steep: what is rounded before it counts more.
            near(&cuda.download(&gate, count * rows), &wide(&expected), 1e-5, &format!("{function:?}, {tiles} tiles"))?;
        }
    }

    #[test]
    fn activations_of_any_size(seed in any::<u64>(), exponent in -30_i32..30) {
        let Some(cuda) = cuda() else { return Ok(()) };
        let mut random = Random(seed);
        for (format, count) in [(Format::Q4K, 1), (Format::Q8_0, 3), (Format::Q6K, 200)] {
            let case = Case::new(format, 40, 768, &mut random);
            // Neighbouring blocks differ by a lot.
            let scale = |i: usize| 2_f32.powi(exponent) * if (i / 256).is_multiple_of(2) { 1.0 } else { 1e-3 };
            let x: Vec<f32> = random.floats(count * 768).iter().enumerate().map(|(i, x)| x * scale(i)).collect();
            let matrix = cuda.matrix(case.bytes.clone(), format, 40, 768).unwrap();
            let mut out = poisoned(cuda, count * 40);
            cuda.matmul(&buffer(cuda, &x), count, &mut [Product { matrix: &matrix, bias: None, out: &mut out }]);
            near_sums(&cuda.download(&out, count * 40), &case.sums(&x, false), HALVES, "scaled")?;
        }
    }

    #[test]
    fn embeddings(seed in any::<u64>(), blocks in 1_usize..4, count in 1_usize..50) {
        let Some(cuda) = cuda() else { return Ok(()) };
        let cpu = plain();
        let mut random = Random(seed);
        for format in matrix::FORMATS {
            let cols = 256 * blocks;
            let case = Case::new(format, 37, cols, &mut random);
            let tokens: Vec<u32> = (0..count).map(|_| (random.next() % 37) as u32).collect();
            let (mut found, mut expected) = (poisoned(cuda, count * cols), vec![0.0; count * cols]);
            let table = cuda.table(case.bytes.clone(), format, 37, cols).unwrap();
            cuda.embed(&table, &tokens, 1.5, &mut found);
            cpu.embed(&cpu.table(case.bytes, format, 37, cols).unwrap(), &tokens, 1.5, &mut expected);
            near(&cuda.download(&found, count * cols), &wide(&expected), FLOATS, &format!("{format:?}"))?;
        }
    }

    #[test]
    fn norms(seed in any::<u64>(), width in 1_usize..5000, rows in prop_oneof![1_usize..10, 129_usize..140]) {
        let Some(cuda) = cuda() else { return Ok(()) };
        let cpu = plain();
        let mut random = Random(seed);
        let (x, weight) = (random.floats(rows * width), random.floats(width));
        let (mut found, mut expected) = (poisoned(cuda, rows * width), vec![0.0; rows * width]);
        cuda.norm(&buffer(cuda, &x), &buffer(cuda, &weight), 1e-5, rows, &mut found);
        cpu.norm(&x, &weight, 1e-5, rows, &mut expected);
        near(&cuda.download(&found, rows * width), &wide(&expected), FLOATS, "norm")?;

        // The halves that were made on the way.
        let case = Case::new(Format::F32, 5, width, &mut random);
        let matrix = cuda.matrix(case.bytes.clone(), Format::F32, 5, width).unwrap();
        let mut out = poisoned(cuda, rows * 5);
        cuda.matmul(&found, rows, &mut [Product { matrix: &matrix, bias: None, out: &mut out }]);
        near_sums(&cuda.download(&out, rows * 5), &case.sums(&expected, false), HALVES, "product of norm")?;
    }

    #[test]
    fn gates(seed in any::<u64>(), width in 1_usize..3000, rows in prop_oneof![1_usize..10, 129_usize..140]) {
        let Some(cuda) = cuda() else { return Ok(()) };
        let cpu = plain();
        let mut random = Random(seed);
        let case = Case::new(Format::F32, width, 8, &mut random);
        let matrix = cuda.matrix(case.bytes.clone(), Format::F32, width, 8).unwrap();
        let down = Case::new(Format::F32, 5, width, &mut random);
        let down_matrix = cuda.matrix(down.bytes.clone(), Format::F32, 5, width).unwrap();
        let (x, up) = (random.floats(rows * 8), random.floats(rows * width));
        for function in [Gate::Silu, Gate::Gelu] {
            // What a product wrote is known to have rows.
            let mut found = poisoned(cuda, rows * width);
            cuda.matmul(&buffer(cuda, &x), rows, &mut [Product { matrix: &matrix, bias: None, out: &mut found }]);
            let mut expected = cuda.download(&found, rows * width);
            cuda.gate(function, &mut found, &buffer(cuda, &up), rows * width);
            cpu.gate(function, &mut expected, &up, rows * width);
            near(&cuda.download(&found, rows * width), &wide(&expected), FLOATS, "gate")?;
            let mut out = poisoned(cuda, rows * 5);
            cuda.matmul(&found, rows, &mut [Product { matrix: &down_matrix, bias: None, out: &mut out }]);
            near_sums(&cuda.download(&out, rows * 5), &down.sums(&expected, false), HALVES, "product of gate")?;
        }
    }

    #[test]
    fn elementwise(seed in any::<u64>(), width in 1_usize..500, rows in 1_usize..10) {
        let Some(cuda) = cuda() else { return Ok(()) };
        let cpu = plain();
        let mut random = Random(seed);
        let len = rows * width;
        let (mut x, y) = (random.floats(len), random.floats(len));
        let mut found = buffer(cuda, &x);
        cuda.add(&mut found, &buffer(cuda, &y), len);
        cpu.add(&mut x, &y, len);
        near(&cuda.download(&found, len), &wide(&x), FLOATS, "add")?;
        cuda.softcap(&mut found, 0.3, len);
        cpu.softcap(&mut x, 0.3, len);
        near(&cuda.download(&found, len), &wide(&x), FLOATS, "softcap")?;
        let picked: Vec<usize> = (0..7).map(|_| random.next() as usize % rows).collect();
        let (mut out, mut expected) = (poisoned(cuda, 7 * width), vec![0.0; 7 * width]);
        cuda.gather(&found, &picked, width, &mut out);
        cpu.gather(&x, &picked, width, &mut expected);
        near(&cuda.download(&out, 7 * width), &wide(&expected), FLOATS, "gather")?;
    }

    #[test]
    fn rotations(seed in any::<u64>(), heads in 1_usize..9, half in 1_usize..130, rows in 1_usize..20) {
        let Some(cuda) = cuda() else { return Ok(()) };
        let cpu = plain();
        let mut random = Random(seed);
        let size = 2 * half;
        let positions: Vec<usize> = (0..rows).map(|_| random.next() as usize % 100_000).collect();
        let frequencies: Vec<f64> = (0..half).map(|i| 5e5_f64.powf(-(i as f64) / half as f64)).collect();
        let (mut angles, mut expected_angles) = (poisoned(cuda, rows * size), vec![0.0; rows * size]);
        cuda.angles(&positions, &frequencies, &mut angles);
        cpu.angles(&positions, &frequencies, &mut expected_angles);
        near(&cuda.download(&angles, rows * size), &wide(&expected_angles), FLOATS, "angles")?;
        let (x, weight) = (random.floats(rows * heads * size), random.floats(size));
        let weight_there = buffer(cuda, &weight);
        for (pairs, normed) in [(Pairs::Adjacent, false), (Pairs::Halves, true), (Pairs::Halves, false)] {
            let (mut found, mut expected) = (buffer(cuda, &x), x.clone());
            let norm = normed.then_some((&weight_there, 1e-5));
            cuda.rotate(&mut found, rows, &Rotation { heads, size, pairs, angles: &angles, norm });
            let norm = normed.then_some((&weight, 1e-5));
            cpu.rotate(&mut expected, rows, &Rotation { heads, size, pairs, angles: &expected_angles, norm });
            near(&cuda.download(&found, x.len()), &wide(&expected), FLOATS, "rotate")?;
        }
    }
}

use super::*;
use crate::engine::gguf::Header;
use proptest::prelude::*;

/// Bytes of a row of weights around zero, of the size that keeps a product with some hundred activations near one.
pub(in crate::engine) fn random_row(format: Format, cols: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut row: Vec<u8> = (0..format.row_bytes(cols)).map(|_| random.next() as u8).collect();
    let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
    for block in row.chunks_exact_mut(format.row_bytes(format.block_len())) {
        let (float, size) = (random.float() * 0.1, 0.5 + random.float().abs());
        match format {
            Format::F32 => block.copy_from_slice(&float.to_le_bytes()),
            Format::F16 => block.copy_from_slice(&half(float)),
            Format::BF16 => block.copy_from_slice(&half::bf16::from_f32(float).to_le_bytes()),
            Format::Q4_0 => block[..2].copy_from_slice(&half(size * 0.013)),
            Format::Q5_0 => block[..2].copy_from_slice(&half(size * 0.0065)),
            Format::Q8_0 => block[..2].copy_from_slice(&half(size * 8e-4)),
            // The minima are scaled to the middle of what the others reach.
            Format::Q4K => {
                block[..2].copy_from_slice(&half(size * 2.5e-4));
                block[2..4].copy_from_slice(&half(size * 7.5 * 2.5e-4));
            }
            Format::Q5K => {
                block[..2].copy_from_slice(&half(size * 1.2e-4));
                block[2..4].copy_from_slice(&half(size * 15.5 * 1.2e-4));
            }
            Format::Q6K => block[208..].copy_from_slice(&half(size * 4.6e-5)),
            Format::Q4_1 | Format::Q5_1 => {
                let levels = if format == Format::Q4_1 { 15.0 } else { 31.0 };
                block[..2].copy_from_slice(&half(size * 0.2 / levels));
                block[2..4].copy_from_slice(&half(size * -0.1));
            }
            Format::IQ4NL => block[..2].copy_from_slice(&half(size * 1.6e-3)),
            Format::IQ4XS => block[..2].copy_from_slice(&half(size * 6e-5)),
            Format::MXFP4 => block[0] = 120 + (size > 1.0) as u8 * 2,
            Format::NVFP4 => block[..4].iter_mut().for_each(|d| *d = 8 + *d % 16),
            Format::Q2K => {
                block[80..82].copy_from_slice(&half(size * 8e-3));
                block[82..].copy_from_slice(&half(size * 1.5 * 8e-3));
            }
            Format::Q3K => block[108..].copy_from_slice(&half(size * 1e-3)),
        }
    }
    row
}

/// A small generator, so that a failure is told by its seed.
pub(in crate::engine) struct Random(pub u64);

impl Random {
    pub(in crate::engine) fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Within -1..1.
    pub(in crate::engine) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(in crate::engine) fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }
}

/// Mean of the squared errors over the mean of the squares.
pub(in crate::engine) fn nmse(found: &[f32], expected: &[f64]) -> f64 {
    let errors: f64 = found.iter().zip(expected).map(|(&found, expected)| (f64::from(found) - expected).powi(2)).sum();
    errors / expected.iter().map(|expected| expected * expected).sum::<f64>().max(1e-30)
}

fn check(format: Format, block: &[u8], expected: &[(usize, f32)]) {
    let mut out = vec![0.0; format.block_len()];
    format.dequantise(block, &mut out);
    for &(at, value) in expected {
        assert_eq!(out[at], value, "{format:?}, weight {at}");
    }
}

/// What ggml makes of blocks and of floats: see `tests/parity/formats.py`.
const GGML: &[u8] = include_bytes!("../../../tests/fixtures/parity/formats.gguf");

/// The bytes of one of its tensors.
pub(in crate::engine) fn ggml(name: &str) -> &'static [u8] {
    let header = Header::read(std::io::Cursor::new(GGML), "formats.gguf".as_ref()).unwrap();
    let tensor = header.tensor(name).unwrap_or_else(|| panic!("{name} is missing"));
    &GGML[tensor.offset as usize..][..tensor.bytes as usize]
}

/// The numbers of one of its tensors of floats.
pub(in crate::engine) fn ggml_floats(name: &str) -> Vec<f32> {
    blocks::<BlockF32>(ggml(name)).iter().map(|block| f32::from_le_bytes(block.0)).collect()
}

#[test]
fn blocks_stand_for_ggmls_numbers() {
    for &format in &Format::ALL[1..] {
        let name = format.kind().name();
        let expected = ggml_floats(&format!("{name}.numbers"));
        let mut found = vec![0.0; expected.len()];
        format.dequantise(ggml(name), &mut found);
        let differs = |(found, expected): (&f32, &f32)| found.to_bits() != expected.to_bits();
        let at = found.iter().zip(&expected).position(differs);
        assert_eq!(at, None, "{name}: {:?} and not {:?}", at.map(|at| found[at]), at.map(|at| expected[at]));
    }
}

const ONE: [u8; 2] = [0x00, 0x3c];
const HALF: [u8; 2] = [0x00, 0x38];

#[test]
fn floats() {
    check(Format::F32, &1.5_f32.to_le_bytes(), &[(0, 1.5)]);
    check(Format::F16, &HALF, &[(0, 0.5)]);
    check(Format::BF16, &[0xc0, 0x3f], &[(0, 1.5)]);
}

#[test]
fn q4_0_counts_from_minus_eight() {
    let mut block = [0x88; 18];
    block[..2].copy_from_slice(&HALF);
    block[2] = 0xf0;
    check(Format::Q4_0, &block, &[(0, -4.0), (16, 3.5), (1, 0.0), (31, 0.0)]);
}

#[test]
fn q5_0_has_its_fifth_bits_apart() {
    let mut block = [0; 22];
    block[..2].copy_from_slice(&ONE);
    block[2..6].copy_from_slice(&0x8000_0001_u32.to_le_bytes());
    block[6] = 0x01;
    check(Format::Q5_0, &block, &[(0, 1.0), (1, -16.0), (31, 0.0), (16, -16.0)]);
}

#[test]
fn q8_0_is_plain() {
    let mut block = [0; 34];
    block[..2].copy_from_slice(&HALF);
    block[2] = 0x80;
    block[33] = 3;
    check(Format::Q8_0, &block, &[(0, -64.0), (1, 0.0), (31, 1.5)]);
}

#[test]
fn q4_k_has_scales_and_minima() {
    let mut block = [0; 144];
    block[..2].copy_from_slice(&ONE);
    block[2..4].copy_from_slice(&HALF);
    // Group 0: scale 3, minimum 4. Group 5: scale 0x2f, minimum 0x1a, split over two bytes each.
    block[4] = 3;
    block[4 + 4] = 4;
    block[4 + 9] = 0xaf;
    block[4 + 1] = 0b10 << 6;
    block[4 + 5] = 0b01 << 6;
    block[16] = 7;
    block[16 + 64] = 0x90;
    check(Format::Q4K, &block, &[(0, 3.0 * 7.0 - 2.0), (1, -2.0), (160, 47.0 * 9.0 - 13.0), (161, -13.0)]);
}

#[test]
fn q5_k_has_a_fifth_bit_a_group() {
    let mut block = [0; 176];
    block[..2].copy_from_slice(&ONE);
    block[4] = 2;
    block[4 + 1] = 3;
    block[16] = 0b11;
    block[16 + 32] = 0x51;
    check(Format::Q5K, &block, &[(0, 2.0 * 17.0), (32, 3.0 * 21.0), (1, 0.0)]);
}

#[test]
fn q6_k_is_split_in_four_and_two_bits() {
    let mut block = [0; 210];
    block[208..].copy_from_slice(&HALF);
    block[192] = 2;
    block[192 + 2] = 0xff;
    block[192 + 14] = 4;
    block[0] = 0x05;
    block[128] = 0b01_00_00_11;
    block[64 + 32] = 0x70;
    block[128 + 32] = 0b10_00_00_00;
    check(Format::Q6K, &block, &[(0, 21.0), (1, -32.0), (32, 16.0), (224, 2.0 * (39.0 - 32.0)), (96, 0.0)]);
}

proptest! {
    #[test]
    fn scales_unpack_to_what_they_are(bytes in any::<[u8; 12]>()) {
        let scales = Scales(bytes);
        let (found, mins) = scales.both();
        for i in 0..8 {
            // The low four bits of the last four share a byte; the high two are the spare bits of the first four.
            let expected = match i {
                0..4 => (bytes[i] & 63, bytes[i + 4] & 63),
                _ => (bytes[i + 4] & 15 | bytes[i - 4] >> 6 << 4, bytes[i + 4] >> 4 | bytes[i] >> 6 << 4),
            };
            prop_assert_eq!((found[i], mins[i]), expected);
        }
    }

    #[test]
    fn activations_keep_their_value(seed in any::<u64>(), scale in 1e-3_f32..1e3) {
        let x: Vec<f32> = Random(seed).floats(256).iter().map(|x| x * scale).collect();
        let expected: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let q = X8K::quantise(&x);
        prop_assert!(nmse(&q.qs.map(|v| q.d * f32::from(v)), &expected) < 1e-4);
        prop_assert!((0..16).all(|i| q.qs[16 * i..][..16].iter().map(|&q| i16::from(q)).sum::<i16>() == q.sums[i]));
        let q = X8_0::quantise(&x[..32]);
        prop_assert!(nmse(&q.qs.map(|v| q.d * f32::from(v)), &expected[..32]) < 1e-4);
    }

    /// The reference against the numbers that the weights and the quantised activations stand for.
    #[test]
    fn products_are_those_of_the_dequantised(seed in any::<u64>()) {
        for &format in Format::ALL {
            with_block!(format, B => {
                let row = random_row(format, 512, seed);
                let mut weights = vec![0.0; 512];
                format.dequantise(&row, &mut weights);
                let x = Random(!seed).floats(512);
                let mut columns = vec![<B as Block>::X::quantise(&x[..B::LEN]); 512 / B::LEN];
                quantise(&x, &mut columns);
                let pairs = blocks::<B>(&row).iter().zip(&columns);
                let found = pairs.fold(0.0, |sum, (w, x)| w.add_product(x, sum));
                let expected: f64 = weights.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
                let size: f64 = weights.iter().zip(&x).map(|(&w, &x)| (f64::from(w) * f64::from(x)).powi(2)).sum();
                prop_assert!((f64::from(found) - expected).abs() < 0.05 * size.sqrt(), "{:?}: {} is not {}", format, found, expected);
            });
        }
    }
}

//! Every fast kernel against the plain one, and products against floats of 64 bits.

use super::*;
use crate::engine::kernels::Bytes;
use crate::engine::quant::tests::{Random, nmse, random_row};
use crate::engine::quant::{Format, X8_0, X8K};
use half::f16;
use proptest::prelude::*;
use std::sync::Arc;

fn fast() -> Isa {
    Isa::detect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Tables of blocks for conversations of `context` tokens, which lie anywhere.
pub(in crate::engine::kernels) fn scattered(slots: usize, context: usize, seed: u64) -> Vec<Vec<u32>> {
    let mut random = Random(seed);
    let each = context.div_ceil(BLOCK);
    let mut blocks: Vec<u32> = (0..(slots * each) as u32).collect();
    blocks.sort_by_cached_key(|_| random.next());
    blocks.chunks(each).map(<[u32]>::to_vec).collect()
}

/// Products of random weights with random activations: found, and in 64 bits from the dequantised weights.
fn product(cpu: &Cpu, format: Format, rows: usize, cols: usize, count: usize, seed: u64) -> (Vec<f32>, Vec<f64>) {
    let mut random = Random(seed);
    let bytes: Vec<u8> = (0..rows).flat_map(|_| random_row(format, cols, random.next())).collect();
    let (x, bias) = (random.floats(count * cols), random.floats(rows));
    let mut expected = vec![0.0; count * rows];
    let mut weights = vec![0.0; cols];
    for row in 0..rows {
        format.dequantise(&bytes[row * format.row_bytes(cols)..][..format.row_bytes(cols)], &mut weights);
        for column in 0..count {
            let x = &x[column * cols..][..cols];
            let sum: f64 = weights.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
            expected[column * rows + row] = sum + f64::from(bias[row]);
        }
    }
    // In strips, where there are some, and in rows.
    let weights: Weights = Arc::new(bytes);
    let strips = cpu.matrix(weights.clone(), format, rows, cols).unwrap();
    let [found, in_rows] = [strips, Matrix::in_place(weights, format, rows, cols)].map(|matrix| {
        let mut out = cpu.buffer(count * rows).unwrap();
        cpu.matmul(&x, count, &mut [Product { matrix: &matrix, bias: Some(&bias), out: &mut out }]);
        out
    });
    assert!(found == in_rows, "{format:?}, {}, seed {seed}", cpu.isa().name());
    (found, expected)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn products(seed in any::<u64>(), rows in 16_usize..40, blocks in 1_usize..4, count in 1_usize..20) {
        let plain = Cpu::with_isa(1, Isa::Scalar);
        for &format in Format::ALL {
            let (reference, expected) = product(&plain, format, rows, 256 * blocks, count, seed);
            for isa in Isa::all() {
                let (found, _) = product(&Cpu::with_isa(2, isa), format, rows, 256 * blocks, count, seed);
                prop_assert_eq!(&found, &reference, "{:?}, {}", format, isa.name());
                // All differ from the truth by the rounding of activations.
                let error = nmse(&found, &expected);
                prop_assert!(error < 1e-3, "{format:?}, {}: nmse {error}", isa.name());
            }
        }
    }

    #[test]
    fn a_column_is_the_same_in_any_company(seed in any::<u64>(), rows in 1_usize..70, count in 2_usize..40) {
        for (format, isa) in Format::ALL.iter().flat_map(|&format| Isa::all().into_iter().map(move |isa| (format, isa))) {
            let mut random = Random(seed);
            let cpu = Cpu::with_isa(2, isa);
            let bytes: Vec<u8> = (0..rows).flat_map(|_| random_row(format, 512, random.next())).collect();
            let matrix = cpu.matrix(Arc::new(bytes), format, rows, 512).unwrap();
            let x = random.floats(count * 512);
            let together = products_of(&cpu, &matrix, &x, count);
            for column in 0..count {
                let alone = products_of(&cpu, &matrix, &x[column * 512..][..512].to_vec(), 1);
                prop_assert_eq!(&alone, &together[column * rows..][..rows], "{:?}, {}", format, isa.name());
            }
        }
    }

    #[test]
    fn rows_can_be_looked_up(seed in any::<u64>(), rows in 1_usize..40) {
        for &format in Format::ALL {
            let bytes: Vec<u8> = (0..rows).flat_map(|row| random_row(format, 256, seed ^ row as u64)).collect();
            let mut expected = vec![0.0; 256];
            for isa in Isa::all() {
                let matrix = Cpu::with_isa(1, isa).matrix(Arc::new(bytes.clone()), format, rows, 256).unwrap();
                let mut found = vec![0.0; 256];
                for row in 0..rows {
                    format.dequantise(&bytes[row * format.row_bytes(256)..][..format.row_bytes(256)], &mut expected);
                    matrix.dequantise(row, &mut found);
                    prop_assert_eq!(&found, &expected, "{:?}, {}, row {}", format, isa.name(), row);
                }
            }
        }
    }

    #[test]
    fn floats_of_any_length(seed in any::<u64>(), cols in 1_usize..70) {
        for format in [Format::F32, Format::F16, Format::BF16] {
            let (found, expected) = product(&Cpu::new(1), format, 3, cols, 5, seed);
            let error = nmse(&found, &expected);
            prop_assert!(error < 1e-12, "{format:?}: nmse {error}");
        }
    }

    #[test]
    fn quantised_activations(seed in any::<u64>(), scale in 1e-6_f32..1e6) {
        let x: Vec<f32> = Random(seed).floats(512).iter().map(|x| x * scale).collect();
        let mut a = [X8K { d: 0.0, qs: [0; 256], sums: [0; 16] }; 2];
        let mut b = a;
        Isa::Scalar.quantise_x8_k(&x, &mut a);
        fast().quantise_x8_k(&x, &mut b);
        for (a, b) in a.iter().zip(&b) {
            prop_assert_eq!((a.d, a.qs, a.sums), (b.d, b.qs, b.sums));
        }
        let mut a = [X8_0 { d: 0.0, qs: [0; 32] }; 16];
        let mut b = a;
        Isa::Scalar.quantise_x8_0(&x, &mut a);
        fast().quantise_x8_0(&x, &mut b);
        for (a, b) in a.iter().zip(&b) {
            prop_assert_eq!((a.d, a.qs), (b.d, b.qs));
        }
    }

    #[test]
    fn attention(
        seed in any::<u64>(), group in 1_usize..10, kv_heads in 1_usize..3, size in 1_usize..40, threads in 1_usize..4,
        window in proptest::option::of(1_usize..100), softcap in proptest::option::of(1.0_f32..20.0),
        kind in proptest::sample::select(KvKind::ALL.to_vec()),
    ) {
        let size = if kind == KvKind::Q4 { size.next_multiple_of(32) } else { size };
        let mut random = Random(seed);
        let isas = Isa::all();
        let cpu = Cpu::with_isa(threads, isas[seed as usize % isas.len()]);
        let (slots, context, heads) = (2, 150, group * kv_heads);
        let tables = &scattered(slots, context, seed);
        let mut cache = cpu.cache(CacheShape { layers: 1, blocks: tables.concat().len(), heads: kv_heads, size, kind }).unwrap();
        // Both conversations are full to different heights; then some tokens of each ask.
        let mut step = Step { tables, ..Step::default() };
        for slot in 0..slots {
            for position in 0..context - 60 * slot {
                step.tokens.push(0);
                step.slots.push(slot);
                step.positions.push(position);
            }
        }
        let (k, v) = (random.floats(step.rows() * kv_heads * size), random.floats(step.rows() * kv_heads * size));
        cpu.store(&k, &v, &step, 0, &mut cache);
        let asking = Step { adapted: Vec::new(), tokens: vec![0; 7], slots: vec![0, 0, 0, 1, 1, 0, 1],
            positions: vec![0, 64, 65, 3, 89, 149, 63], wanted: vec![], tables };
        let q = random.floats(7 * heads * size);
        let mut out = cpu.buffer(7 * heads * size).unwrap();
        let attention = Attention { heads, scale: 0.7, window, softcap };
        cpu.attend(&q, &cache, 0, &asking, &attention, &mut out);

        let mut expected = Vec::new();
        for row in 0..7 {
            for head in 0..heads {
                let q = &q[(row * heads + head) * size..][..size];
                let sees = |stored: &usize| step.slots[*stored] == asking.slots[row]
                    && step.positions[*stored] <= asking.positions[row]
                    && window.is_none_or(|window| asking.positions[row] - step.positions[*stored] < window);
                let seen: Vec<usize> = (0..step.rows()).filter(sees).collect();
                let of = |x: &[f32], stored: usize, i: usize| {
                    f64::from(f16::from_f32(x[(stored * kv_heads + head / group) * size + i]).to_f32())
                };
                let scores: Vec<f64> = seen.iter().map(|&stored| {
                    let score: f64 = (0..size).map(|i| f64::from(q[i]) * of(&k, stored, i)).sum::<f64>() * f64::from(0.7_f32);
                    softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                }).collect();
                let total: f64 = scores.iter().map(|score| score.exp()).sum();
                expected.extend((0..size).map(|i| {
                    seen.iter().zip(&scores).map(|(&stored, score)| score.exp() * of(&v, stored, i)).sum::<f64>() / total
                }));
            }
        }
        let error = nmse(&out, &expected);
        // Fewer bits are the only difference.
        let most = match kind { KvKind::F16 => 1e-10, KvKind::Fp8 => 1e-2, KvKind::Q4 => 5e-2 };
        prop_assert!(error < most, "{kind:?}: nmse {error}");
    }
}

fn products_of(cpu: &Cpu, matrix: &Matrix, x: &Vec<f32>, count: usize) -> Vec<f32> {
    let mut out = cpu.buffer(count * matrix.rows()).unwrap();
    cpu.matmul(x, count, &mut [Product { matrix, bias: None, out: &mut out }]);
    out
}

/// As if they lay in a mapped file.
struct Mapped(Vec<u8>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Bytes for Mapped {
    fn is_mapped(&self) -> bool {
        true
    }
}

#[test]
fn a_matrix_is_computed_with_while_it_is_packed() {
    const ROWS: usize = 1 << 13;
    for (isa, format) in Isa::all().into_iter().flat_map(|isa| [Format::Q4K, Format::Q8_0].map(|format| (isa, format)))
    {
        let mut random = Random(5);
        let weights: Weights =
            Arc::new(Mapped((0..ROWS).flat_map(|_| random_row(format, 256, random.next())).collect()));
        let x = random.floats(64 * 256);
        let cpu = Cpu::with_isa(2, isa);
        let expected = products_of(&cpu, &Matrix::in_place(weights.clone(), format, ROWS, 256), &x, 64);
        for many_first in [true, false] {
            let matrix = cpu.matrix(weights.clone(), format, ROWS, 256).unwrap();
            let many = || assert!(products_of(&cpu, &matrix, &x, 64) == expected, "{format:?}, {}", isa.name());
            if many_first {
                many();
            }
            assert!(products_of(&cpu, &matrix, &x, 1) == expected[..ROWS], "{format:?}, {}", isa.name());
            cpu.settle();
            many();
        }
    }
    // Nobody waits for what nobody needs any more.
    let weights: Weights = Arc::new(Mapped(vec![0; Format::Q4K.row_bytes(256) * ROWS]));
    let cpu = Cpu::new(1);
    drop(cpu.matrix(weights, Format::Q4K, ROWS, 256).unwrap());
    cpu.pass(&Step::default(), 0, || {});
}

#[test]
fn rotations() {
    let cpu = Cpu::new(1);
    let angles = [0.6_f32, 0.8, 0.0, 1.0].to_vec();
    let check = |pairs: Pairs, expected: [f32; 4]| {
        let mut x = vec![1.0, 2.0, 3.0, 4.0];
        cpu.rotate(&mut x, 1, &Rotation { heads: 1, size: 4, pairs, angles: &angles, norm: None });
        assert!(nmse(&x, &wide(&expected)) < 1e-12, "{x:?}");
    };
    check(Pairs::Adjacent, [0.6 - 1.6, 0.8 + 1.2, -4.0, 3.0]);
    check(Pairs::Halves, [0.6 - 2.4, -4.0, 0.8 + 1.8, 2.0]);
}

#[test]
fn a_cache_beyond_all_memory_is_refused() {
    let shape = CacheShape { layers: 1 << 20, blocks: 1 << 36, heads: 1 << 10, size: 128, kind: KvKind::F16 };
    assert!(Cpu::new(1).cache(shape).is_err());
    let shape = CacheShape { layers: 1, blocks: 1 << 46, heads: 1, size: 128, kind: KvKind::F16 };
    assert!(Cpu::new(1).cache(shape).is_err());
}

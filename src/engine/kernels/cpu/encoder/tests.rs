//! Each against the plain one, and both against floats of 64 bits.

use super::*;
use crate::engine::kernels::Kernels;
use crate::engine::kernels::cpu::Isa;
use crate::engine::quant::tests::{Random, nmse};
use proptest::prelude::*;

/// What both sets of instructions make of a buffer.
fn both(x: &[f32], apply: impl Fn(&Cpu, &mut Vec<f32>)) -> [Vec<f32>; 2] {
    [Cpu::with_isa(2, Isa::Scalar), Cpu::new(2)].map(|cpu| {
        let mut x = x.to_vec();
        apply(&cpu, &mut x);
        x
    })
}

fn near(found: [Vec<f32>; 2], expected: &[f64], error: f64) -> Result<(), TestCaseError> {
    for found in found {
        let nmse = nmse(&found, expected);
        prop_assert!(nmse < error, "nmse {nmse}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn layer_norms(seed in any::<u64>(), rows in 1_usize..9, width in 2_usize..70, offset in -20.0_f32..20.0) {
        let mut random = Random(seed);
        let x: Vec<f32> = random.floats(rows * width).iter().map(|x| x + offset).collect();
        let (weight, bias) = (random.floats(width), random.floats(width));
        let mut expected = Vec::new();
        for row in x.chunks(width) {
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64;
            let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / width as f64;
            let scale = (variance + f64::from(1e-5_f32)).sqrt().recip();
            let each = row.iter().zip(&weight).zip(&bias);
            expected.extend(each.map(|((&x, &w), &b)| (f64::from(x) - mean) * scale * f64::from(w) + f64::from(b)));
        }
        near(both(&x, |cpu, x| cpu.layer_norm(x, &weight, &bias, 1e-5, rows)), &expected, 1e-9)?;
    }

    #[test]
    fn attention_back_and_forth(
        seed in any::<u64>(), heads in 1_usize..4, size in 1_usize..40, lengths in proptest::collection::vec(1_usize..20, 1..4),
    ) {
        let mut random = Random(seed);
        let slots: Vec<usize> = lengths.iter().enumerate().flat_map(|(slot, &len)| vec![slot; len]).collect();
        let step = Step { tokens: vec![0; slots.len()], slots, ..Step::default() };
        let rows = step.rows();
        let [q, k, v] = std::array::from_fn(|_| random.floats(rows * heads * size));
        let mut expected = Vec::new();
        for row in 0..rows {
            for head in 0..heads {
                let of = |x: &[f32], row: usize, i: usize| f64::from(x[(row * heads + head) * size + i]);
                let seen: Vec<usize> = (0..rows).filter(|&other| step.slots[other] == step.slots[row]).collect();
                let dot = |other: usize| (0..size).map(|i| of(&q, row, i) * of(&k, other, i)).sum::<f64>();
                let scores: Vec<f64> = seen.iter().map(|&other| (dot(other) * f64::from(0.7_f32)).exp()).collect();
                let total: f64 = scores.iter().sum();
                let sum = |i| seen.iter().zip(&scores).map(|(&other, score)| score * of(&v, other, i)).sum::<f64>();
                expected.extend((0..size).map(|i| sum(i) / total));
            }
        }
        near(both(&q, |cpu, q| {
            let mut out = cpu.buffer(q.len()).unwrap();
            cpu.attend_all([q, &k, &v], &step, heads, size, 0.7, &mut out);
            *q = out;
        }), &expected, 1e-11)?;
    }
}

#[test]
fn gelu_is_exact() {
    // Of x and of -x: they add up to x, and those of a table from C's erf are there.
    let table =
        [(0.5, 0.345_731_23), (1.0, 0.841_344_8), (2.0, 1.954_499_7), (-1.0, -0.158_655_25), (-4.0, -1.266_850_3e-4)];
    let x: Vec<f32> = table.iter().map(|pair| pair.0).chain((-90..90).map(|x| x as f32 / 9.0)).collect();
    for found in both(&x, |cpu, x| cpu.gelu(x, x.len())) {
        for (found, (x, expected)) in found.iter().zip(table) {
            assert!((found - expected).abs() < 3e-7, "gelu({x}) = {found}, not {expected}");
        }
    }
    let mirrored: Vec<f32> = x.iter().map(|x| -x).collect();
    let [_, found] = both(&x, |cpu, x| cpu.gelu(x, x.len()));
    let [_, others] = both(&mirrored, |cpu, x| cpu.gelu(x, x.len()));
    for ((x, found), other) in x.iter().zip(found).zip(others) {
        assert!((found - other - x).abs() < 2e-6, "gelu({x}) - gelu(-{x}) = {}", found - other);
    }
}

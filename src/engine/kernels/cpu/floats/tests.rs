//! The same bits by all instructions, and of their operations those that are not single instructions against floats of 64
//! bits.

use crate::engine::kernels::cpu::Isa;
use crate::engine::quant::tests::Random;
use crate::engine::quant::{BlockBF16, BlockF16, BlockF32, blocks};
use half::f16;
use proptest::prelude::*;

/// What each set of instructions makes of something; the first is the plain one.
fn all<T>(apply: impl Fn(Isa) -> T) -> (T, Vec<T>) {
    let mut all = Isa::all().into_iter().map(apply);
    (all.next().unwrap(), all.collect())
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #[test]
    fn of_rows(seed in any::<u64>(), len in 1_usize..100, scale in 0.01_f32..30.0) {
        let mut random = Random(seed);
        let x: Vec<f32> = random.floats(len).iter().map(|x| x * scale).collect();
        let (y, z) = (random.floats(len), random.floats(len));
        let check = |apply: &dyn Fn(Isa, &mut [f32])| {
            let (plain, others) = all(|isa| {
                let mut x = x.clone();
                apply(isa, &mut x);
                bits(&x)
            });
            others.iter().all(|other| *other == plain)
        };
        prop_assert!(check(&|isa, out| isa.norm(&x, &y, 1e-6, out)));
        prop_assert!(check(&|isa, out| isa.layer_norm(out, &y, &z, 1e-6)));
        prop_assert!(check(&|isa, out| isa.silu(out, &y)));
        prop_assert!(check(&|isa, out| isa.gelu(out, &y)));
        prop_assert!(check(&Isa::gelu_of_erf));
        let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        prop_assert!(check(&|isa, out| out[0] = isa.exponentials(out, most)));
        prop_assert!(check(&|isa, out| _ = isa.exponentials(out, most)));
    }

    #[test]
    fn of_keys_and_values(seed in any::<u64>(), size in 1_usize..100, gap in 0_usize..9, keys in 1_usize..9) {
        let mut random = Random(seed);
        let stride = size + gap;
        let floats = random.floats(stride * (keys - 1) + size);
        let mut halves = vec![f16::ZERO; floats.len()];
        Isa::Scalar.to_f16(&floats, &mut halves);
        let halves = &halves;
        let (plain, others) = all(|isa| {
            let mut halves = vec![f16::ZERO; floats.len()];
            isa.to_f16(&floats, &mut halves);
            halves
        });
        prop_assert!(others.iter().all(|other| *other == plain));
        let q: [Vec<f32>; 5] = std::array::from_fn(|_| random.floats(size));
        let weights: [Vec<f32>; 5] = std::array::from_fn(|_| random.floats(keys));
        macro_rules! check {
            ($n:literal) => {
                let (plain, others) = all(|isa| {
                    let mut scores: [Vec<f32>; $n] = std::array::from_fn(|_| vec![0.0; keys]);
                    let q = std::array::from_fn(|n| &q[n][..]);
                    isa.score(halves, stride, q, scores.each_mut().map(Vec::as_mut_slice));
                    isa.score(&floats, stride, q, scores.each_mut().map(Vec::as_mut_slice));
                    let mut sums: [Vec<f32>; $n] = std::array::from_fn(|n| q[n].to_vec());
                    let weights = std::array::from_fn(|n| &weights[n][..]);
                    isa.weigh(halves, stride, weights, sums.each_mut().map(Vec::as_mut_slice));
                    isa.weigh(&floats, stride, weights, sums.each_mut().map(Vec::as_mut_slice));
                    bits(&[scores.concat(), sums.concat()].concat())
                });
                prop_assert!(others.iter().all(|other| *other == plain));
            };
        }
        check!(1);
        check!(3);
        check!(5);
    }

    #[test]
    fn of_weights(seed in any::<u64>(), len in 1_usize..100) {
        let mut random = Random(seed);
        let (bytes, x) = ((0..4 * len).map(|_| random.next() as u8 & 0x3f).collect::<Vec<u8>>(), random.floats(len));
        let (plain, others) = all(|isa| {
            let mut out = [0.0; 3];
            let [a, b, c] = &mut out;
            isa.score(&blocks::<BlockF32>(&bytes)[..len], len, [&x], [std::slice::from_mut(a)]);
            isa.score(&blocks::<BlockF16>(&bytes)[..len], len, [&x], [std::slice::from_mut(b)]);
            isa.score(&blocks::<BlockBF16>(&bytes)[..len], len, [&x], [std::slice::from_mut(c)]);
            bits(&out)
        });
        prop_assert!(others.iter().all(|other| *other == plain));
    }
}

#[test]
fn exponentials_at_the_edges() {
    let near: Vec<f32> = (-87_600..-86_900).map(|x| x as f32 / 1e3).collect();
    let x = [&[0.0, -1e-8, -87.0, -88.0, -1000.0, f32::NEG_INFINITY, -0.5, -20.0, 88.5, 88.8, 1e9], &near[..]].concat();
    for isa in Isa::all() {
        let mut found = x.clone();
        isa.exponentials(&mut found, 0.0);
        assert_eq!((found[0], found[4], found[5]), (1.0, 0.0, 0.0));
        for (&found, &x) in found.iter().zip(&x).filter(|&(_, &x)| x > -87.3 && x < 88.7) {
            let expected = f64::from(x).exp();
            assert!((f64::from(found) - expected).abs() <= 2e-7 * expected, "exp({x}) = {found}, not {expected}");
        }
        let mut plain = x.clone();
        Isa::Scalar.exponentials(&mut plain, 0.0);
        assert_eq!(bits(&found), bits(&plain), "{}", isa.name());
    }
}

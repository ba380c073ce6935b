//! What adapters add to products: a short vector between two narrow matrices, for some of the rows.

use super::{Isa, LowRank, Parts, Pool};

/// Rows of activations that share what is read of a matrix.
const TILE: usize = 4;
/// Products of numbers that are worth a task.
const WORTH_A_TASK: usize = 1 << 15;
/// Out features of a task.
const OUTPUTS: usize = 1024;

/// An expression with the count of a tile's rows as a constant.
macro_rules! with_count {
    ($tile:expr, $n:ident => $work:expr) => {
        match $tile.len() {
            TILE.. => {
                const $n: usize = TILE;
                $work
            }
            3 => {
                const $n: usize = 3;
                $work
            }
            2 => {
                const $n: usize = 2;
                $work
            }
            _ => {
                const $n: usize = 1;
                $work
            }
        }
    };
}

/// `out[row] += b * (a * x[row])` for these `rows`, each of which is there once.
pub fn add(
    pool: &Pool,
    isa: Isa,
    between: &mut Vec<f32>,
    x: &[f32],
    low: &LowRank<Vec<f32>>,
    rows: &[usize],
    out: &mut [f32],
) {
    let &LowRank { rank, ref a, ref b } = low;
    let (inputs, outputs) = (a.len() / rank, b.len() / rank);
    if between.len() < rows.len() * rank {
        between.resize(rows.len() * rank, 0.0);
    }
    // The numbers in between. [rows, rank]
    let at_once = (WORTH_A_TASK / (TILE * inputs)).clamp(1, rank);
    let parts = Parts::new(between);
    each_tile(pool, rows, rank.div_ceil(at_once), |first, tile, cut| {
        let from = cut * at_once;
        let len = at_once.min(rank - from);
        with_count!(tile, N => {
            let columns: [&[f32]; N] = std::array::from_fn(|n| &x[tile[n] * inputs..][..inputs]);
            let out: [&mut [f32]; N] = std::array::from_fn(|n| {
                // SAFETY: a part of a row belongs to one task, and a task runs once.
                unsafe { parts.range((first + n) * rank + from, len) }
            });
            isa.score(&a[from * inputs..][..len * inputs], inputs, columns, out);
        });
    });
    let (between, parts) = (&*between, Parts::new(out));
    each_tile(pool, rows, outputs.div_ceil(OUTPUTS), |first, tile, cut| {
        let from = cut * OUTPUTS;
        let len = OUTPUTS.min(outputs - from);
        with_count!(tile, N => {
            let weights: [&[f32]; N] = std::array::from_fn(|n| &between[(first + n) * rank..][..rank]);
            let sums: [&mut [f32]; N] = std::array::from_fn(|n| {
                // SAFETY: the rows are different ones, a part of a row belongs to one task, and a task runs once.
                unsafe { parts.range(tile[n] * outputs + from, len) }
            });
            isa.weigh(&b[from..], outputs, weights, sums);
        });
    });
}

/// Does something for every [`TILE`] of the rows, in `cuts` tasks each. `work` gets the number of the tile's first row, its
/// rows and the number of the cut.
fn each_tile(pool: &Pool, rows: &[usize], cuts: usize, work: impl Fn(usize, &[usize], usize) + Sync) {
    pool.run(rows.len().div_ceil(TILE) * cuts, |task| {
        let first = task / cuts * TILE;
        work(first, &rows[first..rows.len().min(first + TILE)], task % cuts);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::quant::tests::{Random, nmse};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn adds_what_floats_of_64_bits_do(
            seed in any::<u64>(),
            rank in 1_usize..40,
            inputs in 1_usize..300,
            outputs in 1_usize..2200,
            count in 1_usize..14,
        ) {
            let mut random = Random(seed);
            let low = LowRank { rank, a: random.floats(rank * inputs), b: random.floats(rank * outputs) };
            let (x, before) = (random.floats(count * inputs), random.floats(count * outputs));
            let rows: Vec<usize> = (0..count).filter(|_| !random.next().is_multiple_of(3)).collect();
            let mut expected: Vec<f64> = before.iter().map(|&x| x.into()).collect();
            for &row in &rows {
                for r in 0..rank {
                    let dot = |(&a, &x): (&f32, &f32)| f64::from(a) * f64::from(x);
                    let between: f64 = low.a[r * inputs..][..inputs].iter().zip(&x[row * inputs..]).map(dot).sum();
                    let sums = &mut expected[row * outputs..][..outputs];
                    sums.iter_mut().zip(&low.b[r * outputs..]).for_each(|(sum, &b)| *sum += between * f64::from(b));
                }
            }
            for isa in Isa::all() {
                let mut out = before.clone();
                add(&Pool::new(3), isa, &mut Vec::new(), &x, &low, &rows, &mut out);
                let nmse = nmse(&out, &expected);
                prop_assert!(nmse < 1e-12, "{isa:?}: nmse {nmse}");
                // The same bits, whoever is beside.
                for &row in &rows {
                    let mut alone = before.clone();
                    add(&Pool::new(1), isa, &mut Vec::new(), &x, &low, &[row], &mut alone);
                    let range = row * outputs..(row + 1) * outputs;
                    prop_assert_eq!(&alone[range.clone()], &out[range]);
                }
            }
        }
    }
}

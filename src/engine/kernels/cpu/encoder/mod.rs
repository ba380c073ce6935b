//! Encoders' operations. Queries, keys and values lie as the products left them, in floats, and are read once a layer.

#[cfg(test)]
mod tests;

use super::{Cpu, Parts, Step, WORTH_A_TASK};
use crate::engine::kernels::encoder::EncoderKernels;

/// Queries that look through the same keys together.
const ROWS: usize = 4;

impl EncoderKernels for Cpu {
    fn layer_norm(&self, x: &mut Vec<f32>, weight: &Vec<f32>, bias: &Vec<f32>, eps: f32, rows: usize) {
        self.each_row(&mut x[..rows * weight.len()], rows, |_, x| self.isa.layer_norm(x, weight, bias, eps));
    }

    fn gelu(&self, x: &mut Vec<f32>, len: usize) {
        let parts = Parts::new(&mut x[..len]);
        self.pool.run(len.div_ceil(WORTH_A_TASK), |task| {
            let from = task * WORTH_A_TASK;
            // SAFETY: the ranges of the tasks lie side by side, and a task runs once.
            let x = unsafe { parts.range(from, WORTH_A_TASK.min(len - from)) };
            self.isa.gelu_of_erf(x);
        });
    }

    fn attend_all(
        &self,
        [q, k, v]: [&Vec<f32>; 3],
        step: &Step,
        heads: usize,
        size: usize,
        scale: f32,
        out: &mut Vec<f32>,
    ) {
        let width = heads * size;
        let tasks = tasks(step, heads);
        let parts = Parts::new(&mut out[..step.rows() * width]);
        self.pool.run(tasks.len(), |task| {
            let Task { text: (first, end), head, row } = tasks[task];
            let rows = ROWS.min(end - row);
            // What is beyond the text's rows looks like its last one, and is not kept.
            let at = |row: usize| row.min(end - 1) * width + head * size;
            let queries: [&[f32]; ROWS] = std::array::from_fn(|n| &q[at(row + n)..][..size]);
            let mut scores: [Vec<f32>; ROWS] = std::array::from_fn(|_| vec![0.0; end - first]);
            let lying = at(first)..at(end - 1) + size;
            self.isa.score(&k[lying.clone()], width, queries, scores.each_mut().map(Vec::as_mut_slice));
            let shares = scores.each_mut().map(|scores| {
                scores.iter_mut().for_each(|score| *score *= scale);
                let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                1.0 / self.isa.exponentials(scores, most)
            });
            let mut sums = [[0.0; super::MAX_HEAD]; ROWS];
            let weights = scores.each_ref().map(Vec::as_slice);
            self.isa.weigh(&v[lying], width, weights, sums.each_mut().map(|sum| &mut sum[..size]));
            for n in 0..rows {
                // SAFETY: a head of a row belongs to one task, and a task runs once.
                let out = unsafe { parts.range(at(row + n), size) };
                out.iter_mut().zip(&sums[n]).for_each(|(out, sum)| *out = sum * shares[n]);
            }
        });
    }
}

/// Some rows of a text that one head looks through.
struct Task {
    /// The text's first row, and the one after its last.
    text: (usize, usize),
    head: usize,
    row: usize,
}

fn tasks(step: &Step, heads: usize) -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut first = 0;
    for text in step.slots.chunk_by(|a, b| a == b) {
        let end = first + text.len();
        for head in 0..heads {
            tasks.extend((first..end).step_by(ROWS).map(|row| Task { text: (first, end), head, row }));
        }
        first = end;
    }
    tasks
}

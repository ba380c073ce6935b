//! The processor: a pool of threads shares the rows of weights. Those that are quantised are laid out anew for its vector
//! instructions; others stay in the mapped file.

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod cache;
mod encoder;
mod floats;
mod isa;
mod kv;
mod low_rank;
mod matmul;
mod matrix;
mod packer;
mod parts;
mod pool;
mod rows;
mod strips;

#[cfg(test)]
mod extremes;
#[cfg(test)]
pub(super) mod tests;

pub use attention::MAX_HEAD;
pub use cache::{Cache, Half, Place};
pub use isa::Isa;
pub use matrix::Matrix;
pub use pool::Pool;

use super::{
    Attention, CacheShape, Gate, Kernels, KvKind, LowRank, OutOfMemory, Pairs, Product, Rotation, Step, Weights,
};
use crate::engine::blocks::{BLOCK, Copy};
use crate::engine::quant::Format;
use matmul::Columns;
use packer::Packer;
use parts::Parts;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Numbers that a task of an elementwise operation should have at least; fewer aren't worth another thread.
const WORTH_A_TASK: usize = 2048;

/// Computes on the processor.
pub struct Cpu {
    isa: Isa,
    pool: Pool,
    packer: Packer,
    columns: Mutex<Columns>,
    /// What is between the matrices of adapters. [rows, rank]
    between: Mutex<Vec<f32>>,
    /// Kept for its memory.
    tasks: Mutex<Vec<attention::Task>>,
}

impl Cpu {
    /// With so many threads, and the best instructions that there are.
    pub fn new(threads: usize) -> Cpu {
        Cpu::with_isa(threads, Isa::detect())
    }

    /// With other instructions.
    pub fn with_isa(threads: usize, isa: Isa) -> Cpu {
        let (packer, columns, between, tasks) = Default::default();
        Cpu { isa, pool: Pool::new(threads), packer, columns, between, tasks }
    }

    /// The threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The instructions.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes that products of `rows` rows of `cols` activations hold besides their buffers.
    pub fn scratch_bytes(rows: usize, cols: usize) -> u64 {
        Columns::bytes(rows, cols)
    }

    /// Does something for each row, sharing the rows among threads where they are worth it. `work` gets the row's number
    /// and its part of `x`.
    fn each_row(&self, x: &mut [f32], rows: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        let Some(width) = x.len().checked_div(rows) else { return };
        let at_once = (WORTH_A_TASK / width.max(1)).max(1);
        let parts = Parts::new(x);
        self.pool.run(rows.div_ceil(at_once), |task| {
            for row in task * at_once..rows.min((task + 1) * at_once) {
                // SAFETY: a row belongs to one task, and a task runs once.
                work(row, unsafe { parts.range(row * width, width) });
            }
        });
    }
}

/// How many threads may run at once on cores of their own: two on one core share units that are busy already.
pub fn physical_cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let siblings = |cpu: usize| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
    };
    // Processors are numbered without gaps, save those that are switched off. Siblings name each other.
    let cores: HashSet<String> = (0..).map_while(siblings).collect();
    if cores.is_empty() { allowed } else { allowed.min(cores.len()) }
}

impl Kernels for Cpu {
    type Buffer = Vec<f32>;
    type Matrix = Matrix;
    type Cache = Cache;

    fn buffer(&self, len: usize) -> Result<Vec<f32>, OutOfMemory> {
        let mut buffer = Vec::new();
        let bytes = (len as u64).saturating_mul(4);
        buffer.try_reserve_exact(len).map_err(|_| OutOfMemory { what: "activations", bytes })?;
        buffer.resize(len, 0.0);
        Ok(buffer)
    }

    fn upload(&self, values: &[f32]) -> Result<Vec<f32>, OutOfMemory> {
        Ok(values.to_vec())
    }

    fn read(&self, x: &Vec<f32>, len: usize, out: &mut Vec<f32>) {
        out.extend_from_slice(&x[..len]);
    }

    fn matrix(&self, weights: Weights, format: Format, rows: usize, cols: usize) -> Result<Matrix, OutOfMemory> {
        Matrix::new(&self.pool, self.isa, &self.packer, weights, format, rows, cols)
    }

    fn table(&self, weights: Weights, format: Format, rows: usize, cols: usize) -> Result<Matrix, OutOfMemory> {
        // Few of its rows are ever looked up.
        Ok(Matrix::in_place(weights, format, rows, cols))
    }

    fn scaled(&self, matrix: Matrix, by: f32) -> Option<Matrix> {
        Some(matrix.scaled(by))
    }

    fn settle(&self) {
        self.packer.settle(&self.pool);
    }

    fn cache(&self, shape: CacheShape) -> Result<Cache, OutOfMemory> {
        Cache::new(shape)
    }

    fn copy_block(&self, cache: &mut Cache, copy: Copy) {
        cache.copy(copy);
    }

    fn pass(&self, _: &Step, _: u64, mut operations: impl FnMut()) {
        operations();
        // Not before: the first one is waited for.
        self.packer.begin();
    }

    fn embed(&self, table: &Matrix, tokens: &[u32], scale: f32, out: &mut Vec<f32>) {
        let rows = tokens.len();
        self.each_row(&mut out[..rows * table.cols()], rows, |row, out| {
            table.dequantise(tokens[row] as usize, out);
            out.iter_mut().for_each(|x| *x *= scale);
        });
    }

    fn norm(&self, x: &Vec<f32>, weight: &Vec<f32>, eps: f32, rows: usize, out: &mut Vec<f32>) {
        let width = weight.len();
        self.each_row(&mut out[..rows * width], rows, |row, out| {
            self.isa.norm(&x[row * width..(row + 1) * width], weight, eps, out);
        });
    }

    fn matmul(&self, x: &Vec<f32>, rows: usize, products: &mut [Product<'_, Cpu>]) {
        let mut columns = self.columns.lock().unwrap_or_else(PoisonError::into_inner);
        matmul::matmul(&self.pool, self.isa, &mut columns, x, rows, products);
    }

    fn low_rank(&self, rank: usize, a: Vec<f32>, b: Vec<f32>) -> Option<LowRank<Vec<f32>>> {
        Some(LowRank { rank, a, b })
    }

    fn add_low_rank(&self, x: &Vec<f32>, low: &LowRank<Vec<f32>>, rows: &[usize], out: &mut Vec<f32>) {
        let mut between = self.between.lock().unwrap_or_else(PoisonError::into_inner);
        low_rank::add(&self.pool, self.isa, &mut between, x, low, rows, out);
    }

    fn angles(&self, positions: &[usize], frequencies: &[f64], out: &mut Vec<f32>) {
        let rows = positions.len();
        self.each_row(&mut out[..rows * frequencies.len() * 2], rows, |row, out| {
            for (out, frequency) in out.chunks_exact_mut(2).zip(frequencies) {
                let (sin, cos) = (positions[row] as f64 * frequency).sin_cos();
                out[0] = cos as f32;
                out[1] = sin as f32;
            }
        });
    }

    fn rotate(&self, x: &mut Vec<f32>, rows: usize, rotation: &Rotation<'_, Cpu>) {
        let Rotation { heads, size, pairs, angles, norm } = *rotation;
        self.each_row(&mut x[..rows * heads * size], rows, |row, x| {
            let angles = &angles[row * size..(row + 1) * size];
            let mut before = [0.0; MAX_HEAD];
            for head in x.chunks_exact_mut(size) {
                if let Some((weight, eps)) = norm {
                    before[..size].copy_from_slice(head);
                    self.isa.norm(&before[..size], weight, eps, head);
                }
                for i in 0..size / 2 {
                    let (cos, sin) = (angles[2 * i], angles[2 * i + 1]);
                    let (a, b) = match pairs {
                        Pairs::Adjacent => (2 * i, 2 * i + 1),
                        Pairs::Halves => (i, i + size / 2),
                    };
                    (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
                }
            }
        });
    }

    fn store(&self, k: &Vec<f32>, v: &Vec<f32>, step: &Step, layer: usize, cache: &mut Cache) {
        let CacheShape { heads, size, .. } = cache.shape();
        for row in 0..step.rows() {
            let (slot, position) = (step.slots[row], step.positions[row]);
            let (block, position) = (step.tables[slot][position / BLOCK], position % BLOCK);
            for head in 0..heads {
                let from = (row * heads + head) * size;
                let place = Place { layer, block, head };
                cache.put(self.isa, place, Half::Keys, position, &k[from..from + size]);
                cache.put(self.isa, place, Half::Values, position, &v[from..from + size]);
            }
        }
    }

    fn attend(
        &self,
        q: &Vec<f32>,
        cache: &Cache,
        layer: usize,
        step: &Step,
        attention: &Attention,
        out: &mut Vec<f32>,
    ) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        attention::attend(&self.pool, self.isa, q, cache, layer, step, attention, &mut tasks, out);
    }

    fn gate(&self, function: Gate, gate: &mut Vec<f32>, up: &Vec<f32>, len: usize) {
        let tasks = len.div_ceil(WORTH_A_TASK);
        let parts = Parts::new(&mut gate[..len]);
        self.pool.run(tasks, |task| {
            let from = task * WORTH_A_TASK;
            let count = WORTH_A_TASK.min(len - from);
            // SAFETY: the ranges of the tasks lie side by side, and a task runs once.
            let gate = unsafe { parts.range(from, count) };
            let up = &up[from..from + count];
            match function {
                Gate::Silu => self.isa.silu(gate, up),
                Gate::Gelu => self.isa.gelu(gate, up),
            }
        });
    }

    fn add(&self, x: &mut Vec<f32>, y: &Vec<f32>, len: usize) {
        for (x, y) in x[..len].iter_mut().zip(&y[..len]) {
            *x += y;
        }
    }

    fn gather(&self, x: &Vec<f32>, rows: &[usize], width: usize, out: &mut Vec<f32>) {
        for (out, row) in out.chunks_exact_mut(width).zip(rows) {
            out.copy_from_slice(&x[row * width..(row + 1) * width]);
        }
    }

    fn softcap(&self, x: &mut Vec<f32>, cap: f32, len: usize) {
        for x in &mut x[..len] {
            *x = cap * (*x / cap).tanh();
        }
    }
}

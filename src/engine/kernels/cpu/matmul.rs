//! Products of a matrix with columns of activations.
//!
//! Activations are quantised once, as each format wants them. Threads claim panels of rows; within a panel a row is
//! unpacked once for [`COLUMNS`] columns, and the panel goes over few enough columns at a time that both stay in the cache.

use super::matrix::View;
use super::rows::Dot;
use super::strips::{self, X32, X256};
use super::{Cpu, Isa, Parts, Pool, Product};
use crate::engine::quant::{self, Activation, Block, Format, X8_0, X8K, with_block};
use std::ops::Range;

/// Columns that a row meets while it is unpacked in registers.
const COLUMNS: usize = 4;
/// Columns that a panel goes over at a time.
const STRIP: usize = 16;
/// Columns that a matrix in strips is read for as it goes.
const FEW: usize = 8;
/// Bytes of a panel of rows: enough that claiming it costs nothing, few enough for a core's own cache.
const PANEL_BYTES: usize = 128 << 10;

/// Rows or strips that a thread claims at once, and how many there are, for products with `columns` columns.
fn units(view: View<'_>, threads: usize, columns: usize) -> (usize, usize) {
    let fair = |units: usize| units.div_ceil(4 * threads).max(1);
    match view {
        View::Rows(rows) => ((PANEL_BYTES / rows.row_bytes().max(1)).clamp(1, fair(rows.count())), rows.count()),
        View::Strips(strips) => {
            let count = strips.count();
            let worth = if columns > FEW { strips::STRIPS } else { PANEL_BYTES / strips.strip_bytes().max(1) };
            (worth.clamp(1, fair(count)), count)
        }
    }
}

/// The activations of a product, quantised as the matrices want them.
#[derive(Default)]
pub struct Columns {
    /// [columns, blocks]
    x8_0: Vec<X8_0>,
    /// [columns, blocks]
    x8_k: Vec<X8K>,
    /// [blocks, stride]
    x32: Vec<X32>,
    /// [blocks, stride]
    x256: Vec<X256>,
}

impl Columns {
    /// Bytes for `rows` rows of `cols` activations in every form.
    pub fn bytes(rows: usize, cols: usize) -> u64 {
        let x8_0 = cols.div_ceil(X8_0::LEN) * (size_of::<X8_0>() + 8);
        let x8_k = cols.div_ceil(X8K::LEN) * (size_of::<X8K>() + 16);
        2 * rows as u64 * (x8_0 + x8_k) as u64
    }

    /// Quantises `x` as the matrices want it.
    fn fill(&mut self, pool: &Pool, isa: Isa, x: &[f32], cols: usize, work: &[Option<Work<'_>>]) {
        let wanted = |in_rows: bool, short: bool| {
            work.iter().flatten().any(|work| match work.view {
                View::Rows(rows) => in_rows && is_short(rows.format()) == Some(short),
                View::Strips(strips) => !in_rows && is_short(strips.format()) == Some(short),
            })
        };
        if wanted(true, true) {
            fill(pool, &mut self.x8_0, x, cols, X8_0 { d: 0.0, qs: [0; 32] }, |x, out| isa.quantise_x8_0(x, out));
        }
        if wanted(true, false) {
            let zero = X8K { d: 0.0, qs: [0; 256], sums: [0; 16] };
            fill(pool, &mut self.x8_k, x, cols, zero, |x, out| isa.quantise_x8_k(x, out));
        }
        if wanted(false, true) {
            fill_strips(pool, &mut self.x32, x, cols, |x, out| isa.quantise_x8_0(x, std::slice::from_mut(out)));
        }
        if wanted(false, false) {
            fill_strips(pool, &mut self.x256, x, cols, |x, out| isa.quantise_x8_k(x, std::slice::from_mut(out)));
        }
    }
}

/// Whether a format's blocks meet activations in blocks of 32; `None` where they meet floats.
fn is_short(format: Format) -> Option<bool> {
    match format {
        Format::F32 | Format::F16 | Format::BF16 => None,
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 | Format::Q8_0 => Some(true),
        Format::IQ4NL | Format::MXFP4 | Format::NVFP4 => Some(true),
        Format::Q2K | Format::Q3K | Format::Q4K | Format::Q5K | Format::Q6K | Format::IQ4XS => Some(false),
    }
}

fn fill<X: Activation>(
    pool: &Pool,
    out: &mut Vec<X>,
    x: &[f32],
    cols: usize,
    zero: X,
    quantise: impl Fn(&[f32], &mut [X]) + Sync,
) {
    let blocks = cols / X::LEN;
    let rows = x.len() / cols;
    if out.len() < rows * blocks {
        out.resize(rows * blocks, zero);
    }
    let parts = Parts::new(out);
    pool.run(rows, |row| {
        // SAFETY: a row belongs to one task, and a task runs once.
        let out = unsafe { parts.range(row * blocks, blocks) };
        quantise(&x[row * cols..(row + 1) * cols], out);
    });
}

/// The same, all columns of a block side by side.
fn fill_strips<X: strips::Column>(
    pool: &Pool,
    out: &mut Vec<X>,
    x: &[f32],
    cols: usize,
    quantise: impl Fn(&[f32], &mut X::Plain) + Sync,
) {
    let len = X::Plain::LEN;
    let (columns, blocks) = (x.len() / cols, cols / len);
    let stride = strips::stride(columns);
    if out.len() < stride * blocks {
        out.resize(stride * blocks, X::ZERO);
    }
    let parts = Parts::new(out);
    pool.run(columns, |column| {
        for (block, x) in x[column * cols..(column + 1) * cols].chunks_exact(len).enumerate() {
            let mut plain = X::PLAIN_ZERO;
            quantise(x, &mut plain);
            // SAFETY: a column belongs to one task, and a task runs once.
            unsafe { parts.write(block * stride + column, X::of(&plain)) };
        }
    });
}

/// The form of the activations that a block meets.
trait Form: Activation {
    fn of<'a>(columns: &'a Columns, x: &'a [f32]) -> &'a [Self];
}

impl Form for f32 {
    fn of<'a>(_: &'a Columns, x: &'a [f32]) -> &'a [f32] {
        x
    }
}

impl Form for X8_0 {
    fn of<'a>(columns: &'a Columns, _: &'a [f32]) -> &'a [X8_0] {
        &columns.x8_0
    }
}

impl Form for [X8_0; 2] {
    fn of<'a>(columns: &'a Columns, _: &'a [f32]) -> &'a [[X8_0; 2]] {
        columns.x8_0.as_chunks().0
    }
}

impl Form for X8K {
    fn of<'a>(columns: &'a Columns, _: &'a [f32]) -> &'a [X8K] {
        &columns.x8_k
    }
}

/// Products that are computed together; more take turns.
const TOGETHER: usize = 4;

/// A product, cut into tasks.
struct Work<'a> {
    view: View<'a>,
    /// Out features.
    rows: usize,
    /// What all products are multiplied with.
    scale: f32,
    bias: Option<&'a [f32]>,
    out: Parts<'a, f32>,
    /// Rows or strips of a task.
    at_once: usize,
    /// Of all tasks.
    units: usize,
}

impl Work<'_> {
    fn tasks(&self) -> usize {
        self.units.div_ceil(self.at_once)
    }

    fn range(&self, task: usize) -> Range<usize> {
        task * self.at_once..self.units.min((task + 1) * self.at_once)
    }
}

/// `out[row] = matrix * x[row] + bias` for each product.
pub fn matmul(pool: &Pool, isa: Isa, columns: &mut Columns, x: &[f32], rows: usize, products: &mut [Product<'_, Cpu>]) {
    let Some(cols) = products.first().map(|product| product.matrix.cols()) else { return };
    let x = &x[..rows * cols];
    for products in products.chunks_mut(TOGETHER) {
        let mut products = products.iter_mut();
        let work: [Option<Work<'_>>; TOGETHER] = std::array::from_fn(|_| {
            let Product { matrix, bias, out } = products.next()?;
            let view = matrix.view(pool, rows);
            let (at_once, units) = units(view, pool.threads(), rows);
            let out = Parts::new(&mut out[..rows * matrix.rows()]);
            let bias = bias.map(Vec::as_slice);
            Some(Work { view, rows: matrix.rows(), scale: matrix.scale(), bias, out, at_once, units })
        });
        columns.fill(pool, isa, x, cols, &work);
        let columns = &*columns;
        let tasks = work.iter().flatten().map(Work::tasks).sum();
        pool.run(tasks, |mut task| {
            for work in work.iter().flatten() {
                if task < work.tasks() {
                    return multiply_part(isa, columns, x, rows, work, work.range(task));
                }
                task -= work.tasks();
            }
        });
    }
}

/// The products of some rows or strips of a matrix with all columns.
fn multiply_part(isa: Isa, columns: &Columns, x: &[f32], count: usize, work: &Work<'_>, part: Range<usize>) {
    match work.view {
        View::Rows(matrix) => with_block!(matrix.format(), B => {
            let weights = quant::blocks::<B>(matrix.bytes(part.start, part.len()));
            let x = <<B as Block>::X as Form>::of(columns, x);
            let write = |row: usize, column: usize, value: f32| {
                let row = part.start + row;
                let bias = work.bias.map_or(0.0, |bias| bias[row]);
                // SAFETY: a row belongs to one task, and a task runs once.
                unsafe { work.out.write(column * work.rows + row, value * work.scale + bias) };
            };
            multiply::<B>(isa, weights, part.len(), x, count, write);
        }),
        View::Strips(matrix) => {
            let Some(instructions) = isa.of_strips() else { return };
            matrix.multiply(instructions, part, (&columns.x32, &columns.x256), count, |row, column, values| {
                // SAFETY: a strip's rows belong to one task, and a task runs once.
                let out = unsafe { work.out.range(column * work.rows + row, values.len()) };
                for (out, value) in out.iter_mut().zip(values) {
                    *out = value * work.scale;
                }
                if let Some(bias) = work.bias {
                    out.iter_mut().zip(&bias[row..]).for_each(|(out, bias)| *out += bias);
                }
            });
        }
    }
}

/// The products of a panel of rows with `count` columns of activations.
fn multiply<B: Dot>(isa: Isa, weights: &[B], rows: usize, x: &[B::X], count: usize, write: impl Fn(usize, usize, f32)) {
    let blocks = weights.len() / rows;
    let column = |at: usize| &x[at * blocks..(at + 1) * blocks];
    for strip in (0..count).step_by(STRIP) {
        let end = count.min(strip + STRIP);
        for row in 0..rows {
            let weights = &weights[row * blocks..(row + 1) * blocks];
            let mut at = strip;
            while at < end {
                macro_rules! dot {
                    ($n:literal) => {{
                        let values: [f32; $n] = B::dot(isa, weights, std::array::from_fn(|n| column(at + n)));
                        values.into_iter().enumerate().for_each(|(n, value)| write(row, at + n, value));
                    }};
                }
                match end - at {
                    COLUMNS.. => dot!(4),
                    3 => dot!(3),
                    2 => dot!(2),
                    _ => dot!(1),
                }
                at += COLUMNS;
            }
        }
    }
}

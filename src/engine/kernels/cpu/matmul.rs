//! Products of a matrix with columns of activations.
//!
//! Activations are quantised once, as each format wants them. Threads claim panels of rows; within a panel a row is
//! unpacked once for [`COLUMNS`] columns, and the panel goes over few enough columns at a time that both stay in the cache.

use super::{Isa, Parts, Pool, Product, Weights, scalar};
use crate::engine::kernels::cpu::Cpu;
use crate::engine::quant::{self, Activation, Block, Format, X8_0, X8K, with_block};

#[cfg(target_arch = "x86_64")]
use super::avx2::{Avx2, Dot};

/// Columns that a row meets while it is unpacked in registers.
const COLUMNS: usize = 4;
/// Columns that a panel goes over at a time.
const STRIP: usize = 16;
/// Bytes of a panel of rows: enough that claiming it costs nothing, few enough for a core's own cache.
const PANEL_BYTES: usize = 32 << 10;

/// A matrix whose weights stay where they lie.
pub struct Matrix {
    weights: Weights,
    format: Format,
    rows: usize,
    cols: usize,
    /// What all weights are multiplied with.
    scale: f32,
}

impl Matrix {
    /// Of `rows` times `cols` weights, row by row.
    ///
    /// # Panics
    /// Where there are fewer weights; who reads a file has checked that.
    pub fn new(weights: Weights, format: Format, rows: usize, cols: usize) -> Matrix {
        assert_eq!(cols % format.block_len(), 0);
        assert!((*weights).as_ref().len() >= rows * format.row_bytes(cols));
        Matrix { weights, format, rows, cols, scale: 1.0 }
    }

    /// The same with all weights multiplied.
    pub fn scaled(self, by: f32) -> Matrix {
        Matrix { scale: self.scale * by, ..self }
    }

    /// Out features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// In features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Writes a row's weights to `out`.
    pub fn dequantise(&self, row: usize, out: &mut [f32]) {
        self.format.dequantise(self.bytes(row, 1), out);
        if self.scale != 1.0 {
            out.iter_mut().for_each(|weight| *weight *= self.scale);
        }
    }

    fn bytes(&self, row: usize, rows: usize) -> &[u8] {
        let row_bytes = self.format.row_bytes(self.cols);
        &(*self.weights).as_ref()[row * row_bytes..(row + rows) * row_bytes]
    }
}

/// The activations of a product, quantised as the matrices want them.
#[derive(Default)]
pub struct Columns {
    x8_0: Vec<X8_0>,
    x8_k: Vec<X8K>,
}

impl Columns {
    /// Bytes for `rows` rows of `cols` activations in every form.
    pub fn bytes(rows: usize, cols: usize) -> u64 {
        let x8_0 = cols.div_ceil(X8_0::LEN) * size_of::<X8_0>();
        let x8_k = cols.div_ceil(X8K::LEN) * size_of::<X8K>();
        rows as u64 * (x8_0 + x8_k) as u64
    }

    /// Quantises `x` as `formats` want it.
    fn fill(&mut self, pool: &Pool, isa: Isa, x: &[f32], cols: usize, formats: impl Iterator<Item = Format>) {
        let (mut x8_0, mut x8_k) = (false, false);
        for format in formats {
            match format {
                Format::F32 | Format::F16 | Format::BF16 => {}
                Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 | Format::Q8_0 => x8_0 = true,
                Format::IQ4NL | Format::MXFP4 | Format::NVFP4 => x8_0 = true,
                Format::Q2K | Format::Q3K | Format::Q4K | Format::Q5K | Format::Q6K | Format::IQ4XS => x8_k = true,
            }
        }
        if x8_0 {
            fill(pool, &mut self.x8_0, x, cols, X8_0 { d: 0.0, qs: [0; 32] }, |x, out| isa.quantise_x8_0(x, out));
        }
        if x8_k {
            let zero = X8K { d: 0.0, qs: [0; 256], sums: [0; 16] };
            fill(pool, &mut self.x8_k, x, cols, zero, |x, out| isa.quantise_x8_k(x, out));
        }
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

/// How a row is multiplied.
trait Lane<B: Block>: Copy {
    fn dot<const N: usize>(self, row: &[B], columns: [&[B::X]; N]) -> [f32; N];
}

#[derive(Clone, Copy)]
struct Scalar;

impl<B: Block> Lane<B> for Scalar {
    fn dot<const N: usize>(self, row: &[B], columns: [&[B::X]; N]) -> [f32; N] {
        scalar::dot(row, columns)
    }
}

#[cfg(target_arch = "x86_64")]
impl<B: Dot> Lane<B> for Avx2 {
    #[inline]
    fn dot<const N: usize>(self, row: &[B], columns: [&[B::X]; N]) -> [f32; N] {
        Avx2::dot(self, row, columns)
    }
}

/// Rows that a thread claims at once.
struct Panel {
    product: usize,
    first: usize,
    rows: usize,
}

/// `out[row] = matrix * x[row] + bias` for each product.
pub fn matmul(pool: &Pool, isa: Isa, columns: &mut Columns, x: &[f32], rows: usize, products: &mut [Product<'_, Cpu>]) {
    let Some(cols) = products.first().map(|product| product.matrix.cols) else { return };
    let x = &x[..rows * cols];
    columns.fill(pool, isa, x, cols, products.iter().map(|product| product.matrix.format));
    let columns = &*columns;

    let panels = panels(products, pool.threads());
    let parts: Vec<_> = products
        .iter_mut()
        .map(|product| (product.matrix, product.bias, Parts::new(&mut product.out[..rows * product.matrix.rows])))
        .collect();
    pool.run(panels.len(), |task| {
        let panel = &panels[task];
        let (matrix, bias, out) = &parts[panel.product];
        with_block!(matrix.format, B => {
            let weights = quant::blocks::<B>(matrix.bytes(panel.first, panel.rows));
            let x = <<B as Block>::X as Form>::of(columns, x);
            let write = |row: usize, column: usize, value: f32| {
                let row = panel.first + row;
                // SAFETY: a row belongs to one panel, a panel to one task, and a task runs once.
                unsafe { out.write(column * matrix.rows + row, value * matrix.scale + bias.map_or(0.0, |bias| bias[row])) };
            };
            match isa {
                Isa::Scalar => multiply::<B, _>(Scalar, weights, panel.rows, x, rows, write),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2(avx2) => multiply::<B, _>(avx2, weights, panel.rows, x, rows, write),
            }
        });
    });
}

/// The rows of all products, cut into panels.
fn panels(products: &[Product<'_, Cpu>], threads: usize) -> Vec<Panel> {
    let mut panels = Vec::new();
    for (product, Product { matrix, .. }) in products.iter().enumerate() {
        let fair = matrix.rows.div_ceil(4 * threads);
        let at_once = (PANEL_BYTES / matrix.format.row_bytes(matrix.cols).max(1)).clamp(1, fair.max(1));
        panels.extend((0..matrix.rows).step_by(at_once).map(|first| Panel {
            product,
            first,
            rows: at_once.min(matrix.rows - first),
        }));
    }
    panels
}

/// The products of a panel of rows with `count` columns of activations.
fn multiply<B: Block, L: Lane<B>>(
    lane: L,
    weights: &[B],
    rows: usize,
    x: &[B::X],
    count: usize,
    write: impl Fn(usize, usize, f32),
) {
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
                        let values: [f32; $n] = lane.dot(weights, std::array::from_fn(|n| column(at + n)));
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

//! Products with weights: which kernel, and how its work is shared out.

use super::buffer::{Activations, Shape};
use super::driver::Address;
use super::matrix::{Matrix, STRIP, number, tile_bytes};
use super::plan::{FLOATS, STAGES, TILE, TOGETHER, WARPS, Work};
use super::{Buffer, Cuda, Gate, Product, grown, threads_of};
use crate::engine::quant::Format;
use std::ffi::CStr;

/// Up to so many rows, weights are dequantised on the way to them; for more, once for all.
pub(super) const FEW: usize = 32;

/// From so many rows on, Hopper's own kernel for many is the faster one.
const DEEP: usize = 64;

/// Products that they compute at once.
pub(super) const PRODUCTS: usize = 3;

/// Features that a block of the kernels for many rows computes.
const TALL: usize = 128;

/// Whether products with so many rows of activations are computed by the kernel for many.
pub(super) fn is_many(rows: usize) -> bool {
    rows > FEW
}

/// Whether products with so many rows take floats.
pub(super) fn takes_floats(rows: usize) -> bool {
    rows <= FLOATS
}

/// The argument `Product` of `multiply.cuh`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct One {
    weights: Address,
    bias: Address,
    out: Address,
    strip: u64,
    tile: i32,
    last: i32,
    format: i32,
    features: i32,
    strips: i32,
    add: i32,
}

/// The argument `Linear` of `multiply.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Linear {
    products: [One; PRODUCTS],
    halves: Activations,
    x: Address,
    norm: Address,
    partial: Address,
    inverse: Address,
    eps: f32,
    rows: i32,
    columns: i32,
    pair: i32,
    gelu: i32,
    ranges: i32,
    groups: i32,
    few: i32,
    more: i32,
    tiles: i32,
    remaining: i32,
    batch: i32,
    shift: i32,
    stage: i32,
    stages: i32,
}

/// The argument `Gemm` of `gemm.cu`.
#[repr(C)]
struct Gemm {
    weights: Address,
    x: Activations,
    bias: Address,
    out: Address,
    features: i32,
    stride: i32,
    add: i32,
}

/// Bytes that weights may take as halves: a part of a large card, little of a small one; the second cache holds it.
pub(super) fn expanded_bytes(memory: u64) -> usize {
    (memory / 512).clamp(32 << 20, 256 << 20) as usize
}

/// Bytes of weights as halves at a time, of a matrix of so many rows and columns.
pub(super) fn expanded(memory: u64, rows: usize, columns: usize) -> usize {
    let (strip, per_tile) = (STRIP * columns.div_ceil(TILE) * 512, TALL / STRIP);
    let at_once = (expanded_bytes(memory) / strip / per_tile * per_tile).max(per_tile);
    at_once.min(rows.div_ceil(STRIP).next_multiple_of(per_tile)) * strip
}

impl Cuda {
    /// `out[row] = matrix * x[row] + bias`, or that added to what is there.
    pub(super) fn products(&self, x: &Buffer, rows: usize, products: &mut [Product<'_, Cuda>], add: bool) {
        if is_many(rows) {
            let Some(width) = products.first().map(|product| product.matrix.cols) else { return };
            let halves = self.halves(x, Shape { rows, width, even: true });
            for product in products {
                let matrix = product.matrix;
                self.many(halves, matrix, one(product, rows, add));
            }
            return;
        }
        for products in products.chunks_mut(PRODUCTS) {
            match takes_floats(rows) {
                true => self.few_from_floats(x, None, rows, products, add, None),
                false => self.few_from_halves(x, rows, products, add, None),
            }
        }
    }

    fn halves(&self, x: &Buffer, shape: Shape) -> Activations {
        x.halves(&self.device, shape, |x, halves| {
            let (rows, width) = (shape.rows, shape.width);
            let (grid, threads) = match shape.even {
                true => ([rows, 1, 1], threads_of(width)),
                false => ([shape.chunks().div_ceil(4), rows, 1], 128),
            };
            let even = i32::from(shape.even);
            // SAFETY: convert(x, width, halves, even)
            unsafe { launch!(self.device, c"convert", grid, threads, 0, x, width as i32, halves, even) };
        })
    }

    /// Products of up to [`FLOATS`] rows of floats, normalised first if there is a weight. With a function there are two,
    /// and the first gets the function of the first times the second.
    pub(super) fn few_from_floats(
        &self,
        x: &Buffer,
        norm: Option<(&Buffer, f32)>,
        rows: usize,
        products: &mut [Product<'_, Cuda>],
        add: bool,
        function: Option<Gate>,
    ) {
        let Some(width) = products.first().map(|product| product.matrix.cols) else { return };
        let mut argument = argument(rows, products, add, function);
        argument.x = x.read(rows * width);
        (argument.norm, argument.eps) = norm.map_or((0, 0.0), |(weight, eps)| (weight.read(width), eps));
        self.few(argument, products);
    }

    /// The same of up to [`FEW`] rows, by way of halves.
    pub(super) fn few_from_halves(
        &self,
        x: &Buffer,
        rows: usize,
        products: &mut [Product<'_, Cuda>],
        add: bool,
        function: Option<Gate>,
    ) {
        let Some(width) = products.first().map(|product| product.matrix.cols) else { return };
        let halves = self.halves(x, Shape { rows, width, even: false });
        let mut argument = argument(rows, products, add, function);
        argument.halves = halves;
        self.few(argument, products);
    }

    fn few(&self, mut argument: Linear, products: &[Product<'_, Cuda>]) {
        let info = self.device.info();
        let floats = argument.halves.base == 0;
        let strips = argument.products.iter().map(|one| one.strips as usize).sum::<usize>();
        let (columns, rows) = (argument.columns as usize, argument.rows as usize);
        // Of 8 rows.
        let n = rows.div_ceil(8).next_power_of_two();
        let steps = columns.div_ceil(64).min(4);
        let work = Work {
            rows: if floats { rows } else { n * 8 },
            floats,
            units: if argument.pair == 1 { argument.products[0].strips as usize } else { strips },
            each: 1 + argument.pair as usize,
            tiles: columns.div_ceil(TILE),
            stage: products.iter().map(|product| tile_bytes(product.matrix.format, steps)).max().unwrap_or(16),
        };
        let stages = if info.capability >= (9, 0) { STAGES } else { 2 };
        let together = (n == 4 && info.capability == (9, 0)).then(|| kernel_together(products)).flatten();
        let together =
            together.and_then(|kernel| Some((kernel, work.plan_together(info.multiprocessors, info.shared)?)));
        let (kernel, plan, dealers, meets) = match together {
            Some((kernel, plan)) => (kernel, plan, WARPS / TOGETHER, true),
            None => {
                let plan = work.plan(info.multiprocessors, info.shared, stages);
                (kernel(products, floats, n), plan, plan.warps, plan.ranges > 1)
            }
        };
        (argument.ranges, argument.groups) = (plan.ranges as i32, plan.groups as i32);
        (argument.few, argument.more) = ((work.units / plan.groups) as i32, (work.units % plan.groups) as i32);
        argument.tiles = plan.tiles as i32;
        argument.remaining = (work.tiles - (plan.ranges - 1) * plan.tiles) as i32;
        (argument.batch, argument.shift) = (plan.batch as i32, dealers.ilog2() as i32);
        (argument.stage, argument.stages) = (work.stage as i32, plan.stages as i32);
        let mut state = self.state();
        if meets {
            let bytes = work.units * plan.ranges * work.each * n * 128 * 4;
            // And a number for each row of floats.
            argument.partial = grown(&mut state.partial, &self.device, bytes + FLOATS * 4, "parts of products");
            argument.inverse = argument.partial + bytes as u64;
        }
        let (grid, threads, shared) = ([plan.groups, plan.ranges, 1], plan.warps * 32, plan.shared);
        // SAFETY: each takes `Linear`, whose products have as many strips, features and rows as their buffers, with
        // shared memory for activations, all warps' tiles and what they find; and memory for what ranges find.
        unsafe {
            launch!(self.device, kernel, grid, threads, shared, argument);
            if meets {
                launch!(self.device, c"linear_sums", [work.units, 1, 1], 128 * n.min(2), 0, argument);
            }
        }
    }

    /// Expands as many strips at a time as there is room for, and multiplies them.
    fn many(&self, x: Activations, matrix: &Matrix, one: One) {
        let strip = STRIP * x.chunks as usize * 512;
        let room = expanded(self.device.info().memory, matrix.rows, matrix.cols);
        let at_once = (room / strip).min(matrix.strips());
        let mut state = self.state();
        let expanded = grown(&mut state.expanded, &self.device, room, "expanded weights");
        for first in (0..matrix.strips()).step_by(at_once) {
            let strips = at_once.min(matrix.strips() - first);
            let from = one.weights + (first * matrix.strip_bytes()) as u64;
            let (grid, cols) = ([strips, 1, 1], matrix.cols as i32);
            // SAFETY: expand(weights, format, columns, chunks, out); `out` has room for all strips.
            unsafe { launch!(self.device, c"expand", grid, 256, 0, from, one.format, cols, x.chunks, expanded) };
            let features = (strips * STRIP).min(matrix.rows - first * STRIP);
            let skipped = (first * STRIP * 4) as u64;
            let argument = Gemm {
                weights: expanded,
                x,
                bias: if one.bias == 0 { 0 } else { one.bias + skipped },
                out: one.out + skipped,
                features: features as i32,
                stride: matrix.rows as i32,
                add: one.add,
            };
            let (rows, high) = (x.rows as usize, features.div_ceil(TALL));
            let grid = |width: usize| [rows.div_ceil(width), high, 1];
            // SAFETY: each takes `Gemm`. Shared are four stages of both sides: 32 halves of a row and feature, or 64 and what
            // it takes to begin at a multiple of 1024.
            unsafe {
                if self.device.info().capability != (9, 0) || rows < DEEP {
                    launch!(self.device, c"gemm", grid(TALL), 128, 4 * (TALL + TALL) * 64, argument)
                } else if grid(256)[0] * high < self.device.info().multiprocessors {
                    launch!(self.device, c"gemm_deep_128", grid(128), 288, 4 * (TALL + 128) * 128 + 1024, argument)
                } else {
                    launch!(self.device, c"gemm_deep_256", grid(256), 288, 4 * (TALL + 256) * 128 + 1024, argument)
                }
            }
        }
    }
}

/// The kernel for `n` times 8 rows, or few of floats, that computes with these formats and few others.
fn kernel(products: &[Product<'_, Cuda>], floats: bool, n: usize) -> &'static CStr {
    let all = |formats: &[Format]| products.iter().all(|product| formats.contains(&product.matrix.format));
    macro_rules! of {
        ($family:literal) => {
            match (floats, n) {
                (true, _) => name!("linear_floats", $family),
                (_, 1) => name!("linear_1", $family),
                (_, 2) => name!("linear_2", $family),
                _ => name!("linear_4", $family),
            }
        };
    }
    match () {
        () if all(&[Format::Q4K]) => of!("_q4_k"),
        () if all(&[Format::Q4K, Format::Q6K]) => of!("_k"),
        () if all(&[Format::NVFP4]) => of!("_nvfp4"),
        () => of!(""),
    }
}

/// The same for 17 to 32 rows, by Hopper's instruction: for one format.
fn kernel_together(products: &[Product<'_, Cuda>]) -> Option<&'static CStr> {
    let format = products.first()?.matrix.format;
    let name = match format {
        Format::Q4K => c"linear_wide_q4_k",
        Format::Q6K => c"linear_wide_q6_k",
        Format::NVFP4 => c"linear_wide_nvfp4",
        _ => return None,
    };
    products.iter().all(|product| product.matrix.format == format).then_some(name)
}

fn one(product: &mut Product<'_, Cuda>, rows: usize, add: bool) -> One {
    let matrix = product.matrix;
    One {
        weights: matrix.address(),
        bias: product.bias.map_or(0, |bias| bias.read(matrix.rows)),
        out: product.out.write(rows, matrix.rows),
        format: number(matrix.format),
        strip: matrix.strip_bytes() as u64,
        tile: tile_bytes(matrix.format, 4) as i32,
        last: tile_bytes(matrix.format, matrix.cols.div_ceil(64) % 4) as i32,
        features: matrix.rows as i32,
        strips: matrix.strips() as i32,
        add: i32::from(add),
    }
}

/// What all kernels for few rows are told.
fn argument(rows: usize, products: &mut [Product<'_, Cuda>], add: bool, function: Option<Gate>) -> Linear {
    let columns = products.first().map_or(0, |product| product.matrix.cols);
    let mut ones = [One::default(); PRODUCTS];
    for (one_of, product) in ones.iter_mut().zip(products) {
        *one_of = one(product, rows, add);
    }
    Linear {
        products: ones,
        halves: Activations::default(),
        x: 0,
        norm: 0,
        partial: 0,
        inverse: 0,
        eps: 0.0,
        rows: rows as i32,
        columns: columns as i32,
        pair: i32::from(function.is_some()),
        gelu: i32::from(function == Some(Gate::Gelu)),
        ranges: 0,
        groups: 0,
        few: 0,
        more: 0,
        tiles: 0,
        remaining: 0,
        batch: 0,
        shift: 0,
        stage: 0,
        stages: 0,
    }
}

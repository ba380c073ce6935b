//! Products with weights: which kernel, and how its work is shared out.

use super::buffer::{Activations, Shape};
use super::driver::Address;
use super::matrix::{Matrix, STRIP, number, tile_bytes};
use super::{Buffer, Cuda, Gate, Product, counters, grown, threads_of};

/// Up to so many rows, weights are dequantised on the way to them; for more, once for all.
const FEW: usize = 32;

/// From so many rows on, Hopper's own kernel for many is the faster one.
const DEEP: usize = 64;

/// Up to so many rows, those kernels take floats as they are, and normalise them too.
const FLOATS: usize = 4;

/// Rows that a kernel for few takes at once: with more, their activations leave registers for too few warps.
const ROWS: usize = 16;

/// Products that they compute at once.
pub(super) const PRODUCTS: usize = 3;

/// Tiles of a warp in shared memory: `STAGES` of `linear.cu`.
const STAGES: usize = 3;

/// Warps of a block at most.
const WARPS: usize = 16;

/// Strips of a block at most.
const TURNS: usize = 256;

/// Columns of a tile.
const TILE: usize = 256;

/// Whether products with so many rows of activations are computed by the kernel for many.
pub(super) fn is_many(rows: usize) -> bool {
    rows > FEW
}

/// Whether products with so many rows take floats.
pub(super) fn takes_floats(rows: usize) -> bool {
    rows <= FLOATS
}

/// The argument `Product` of `linear.cu`.
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

/// The argument `Linear` of `linear.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Linear {
    products: [One; PRODUCTS],
    halves: Activations,
    x: Address,
    norm: Address,
    partial: Address,
    arrived: Address,
    eps: f32,
    first: i32,
    rows: i32,
    columns: i32,
    pair: i32,
    gelu: i32,
    units: i32,
    ranges: i32,
    groups: i32,
    stage: i32,
    batch: i32,
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

/// How the work of a product with few rows is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    /// Warps of a block, each with a tile's columns.
    warps: usize,
    /// Blocks that share the columns.
    ranges: usize,
    /// Blocks that share the strips, for each range.
    groups: usize,
    /// Strips that a warp goes over between meetings with the others.
    batch: usize,
    /// Units of a group at most.
    rounds: usize,
    /// Bytes of shared memory of a block.
    shared: usize,
}

/// Of `units` (strips, or pairs of them) with so many `tiles` in a row, of `stage` bytes each, for `n` times 8 rows.
fn plan(multiprocessors: usize, memory: usize, n: usize, units: usize, tiles: usize, stage: usize) -> Plan {
    // What a block keeps of its strips: there are more of them only in a table of a million tokens.
    let memory = memory - TURNS * 16;
    // A warp's tiles, and the sums that it found.
    let a_warp = |batch: usize| STAGES * stage + batch * (n * 8 * 20 + 8) * 4;
    let wanted = tiles.min(WARPS);
    let batch = if wanted * a_warp(4) <= memory { 4 } else { 2 };
    let warps = (memory / a_warp(batch)).clamp(1, WARPS);
    let ranges = tiles.div_ceil(warps);
    let warps = tiles.div_ceil(ranges);
    let shared = warps * a_warp(batch);
    let reserved = 1 << 10;
    let blocks = (WARPS / warps).min((memory + reserved) / (shared + reserved)).max(1) * multiprocessors;
    let groups = (blocks / ranges).clamp(units.div_ceil(TURNS / 2), units.max(1));
    // As few as take no longer: what the last round leaves idle is of no use.
    let rounds = units.div_ceil(groups);
    Plan { warps, ranges, groups: units.div_ceil(rounds), batch, rounds, shared: shared + TURNS * 16 }
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
            let (grid, threads, even) = ([rows, 1, 1], threads_of(width), i32::from(shape.even));
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

    fn few(&self, argument: Linear, products: &[Product<'_, Cuda>]) {
        let rows = argument.rows as usize;
        for first in (0..rows).step_by(ROWS) {
            let mut part = argument;
            (part.first, part.rows) = (first as i32, ROWS.min(rows - first) as i32);
            for one in &mut part.products {
                one.out += first as u64 * one.features as u64 * 4;
            }
            self.few_at_once(part, products);
        }
    }

    fn few_at_once(&self, mut argument: Linear, products: &[Product<'_, Cuda>]) {
        let info = self.device.info();
        let n = if argument.rows <= 8 { 1 } else { 2 };
        let strips = argument.products.iter().map(|one| one.strips as usize).sum::<usize>();
        let units = if argument.pair == 1 { argument.products[0].strips as usize } else { strips };
        let columns = argument.columns as usize;
        let steps = columns.div_ceil(64).min(4);
        // Where there is no tile yet, a warp keeps its activations for a moment.
        let stage = products
            .iter()
            .map(|product| tile_bytes(product.matrix.format, steps))
            .max()
            .unwrap_or(0)
            .max(FLOATS * 512);
        let memory = info.shared - (1 << 10);
        let plan = plan(info.multiprocessors, memory, n, units, columns.div_ceil(TILE), stage);
        (argument.units, argument.stage, argument.batch) = (units as i32, stage as i32, plan.batch as i32);
        (argument.ranges, argument.groups) = (plan.ranges as i32, plan.groups as i32);
        let mut state = self.state();
        if plan.ranges > 1 {
            let each = 1 + argument.pair as usize;
            let bytes = units * plan.ranges * each * n * 128 * 4;
            argument.partial = grown(&mut state.partial, &self.device, bytes, "parts of products");
            argument.arrived = counters(&mut state.arrived, &self.device, units);
        }
        let (grid, threads, shared) = ([plan.groups * plan.ranges, 1, 1], plan.warps * 32, plan.shared);
        // SAFETY: each takes `Linear`, whose products have as many strips, features and rows as their buffers, with
        // shared memory for all warps.
        unsafe {
            match n {
                1 => launch!(self.device, c"linear_1", grid, threads, shared, argument),
                _ => launch!(self.device, c"linear_2", grid, threads, shared, argument),
            }
        }
    }

    /// Expands as many strips at a time as there is room for, and multiplies them.
    fn many(&self, x: Activations, matrix: &Matrix, one: One) {
        const TILE: usize = 128;
        let strip = STRIP * x.chunks as usize * 512;
        let per_tile = TILE / STRIP;
        let at_once = (self.expanded_bytes() / strip / per_tile * per_tile).max(per_tile).min(matrix.strips());
        let mut state = self.state();
        let room = at_once.next_multiple_of(per_tile) * strip;
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
            let (rows, high) = (x.rows as usize, features.div_ceil(TILE));
            let grid = |width: usize| [rows.div_ceil(width), high, 1];
            // SAFETY: each takes `Gemm`. Shared are four stages of both sides: 32 halves of a row and feature, or 64 and what
            // it takes to begin at a multiple of 1024.
            unsafe {
                if self.device.info().capability != (9, 0) || rows < DEEP {
                    launch!(self.device, c"gemm", grid(TILE), 128, 4 * (TILE + TILE) * 64, argument)
                } else if grid(256)[0] * high < self.device.info().multiprocessors {
                    launch!(self.device, c"gemm_deep_128", grid(128), 288, 4 * (TILE + 128) * 128 + 1024, argument)
                } else {
                    launch!(self.device, c"gemm_deep_256", grid(256), 288, 4 * (TILE + 256) * 128 + 1024, argument)
                }
            }
        }
    }
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
        halves: Activations { base: 0, rows: 0, chunks: 0, tall: 1 },
        x: 0,
        norm: 0,
        partial: 0,
        arrived: 0,
        eps: 0.0,
        first: 0,
        rows: rows as i32,
        columns: columns as i32,
        pair: i32::from(function.is_some()),
        gelu: i32::from(function == Some(Gate::Gelu)),
        units: 0,
        ranges: 0,
        groups: 0,
        stage: 0,
        batch: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_is_shared_out(
            multiprocessors in 1_usize..200,
            memory in prop_oneof![Just(98 << 10), Just(163 << 10), Just(226 << 10)],
            n in 1_usize..=2,
            units in 1_usize..10_000,
            tiles in 1_usize..200,
            stage in prop_oneof![Just(2304_usize), Just(3360), Just(4352), Just(8192)],
        ) {
            let Plan { warps, ranges, groups, batch, rounds, shared } = plan(multiprocessors, memory, n, units, tiles, stage);
            prop_assert!((1..=16).contains(&warps) && shared <= memory && batch.is_multiple_of(2));
            // No range is without a tile, no group without a unit, and a round more would not be needed.
            prop_assert!(warps * ranges >= tiles && warps * (ranges - 1) < tiles);
            prop_assert!((1..=units).contains(&groups) && groups * rounds >= units && 2 * rounds <= TURNS);
        }
    }

    #[test]
    fn eight_billion_weights_on_132_multiprocessors() {
        let check = |units, tiles, expected| {
            let Plan { warps, ranges, groups, .. } = plan(132, 226 << 10, 1, units, tiles, 2304);
            assert_eq!((warps, ranges, groups), expected);
        };
        check(384, 16, (16, 1, 128));
        check(256, 16, (16, 1, 128));
        check(896, 16, (16, 1, 128));
        check(256, 56, (14, 4, 32));
    }
}

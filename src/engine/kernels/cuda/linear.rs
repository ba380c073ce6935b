//! Products with weights: which kernel, and how its work is shared out.

use super::buffer::{Activations, Shape};
use super::driver::Address;
use super::matrix::{Matrix, STRIP, number, tile_bytes};
use super::{Buffer, Cuda, Gate, Product, grown, threads_of};
use crate::engine::quant::Format;
use std::ffi::CStr;

/// Up to so many rows, weights are dequantised on the way to them; for more, once for all.
pub(super) const FEW: usize = 32;

/// From so many rows on, Hopper's own kernel for many is the faster one.
const DEEP: usize = 64;

/// Up to so many rows, those kernels take floats as they are, and normalise them too.
const FLOATS: usize = 4;

/// Products that they compute at once.
pub(super) const PRODUCTS: usize = 3;

/// Tiles of a warp in shared memory at most: `STAGES` of `linear.cu`, a power of two. One is read while the others come.
const STAGES: usize = 4;

/// Warps of a block at most.
const WARPS: usize = 16;

/// Bytes of shared memory that a block of these kernels has of its own, and what the driver takes for each.
const RESERVED: usize = 4 << 10;

/// Warps that do the same at a time, by Hopper's instruction for 64 rows of weights and 32 of activations.
const TOGETHER: usize = 4;

/// Bytes of shared memory that it may take for activations to begin where it wants them.
const ALIGNED: usize = 512;

/// Columns of a tile.
const TILE: usize = 256;

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

/// A product with few rows of activations.
#[derive(Debug, Clone, Copy)]
struct Work {
    /// Rows that shared memory holds: as many as there are of floats, a multiple of 8 of halves.
    rows: usize,
    /// Whether they come as floats.
    floats: bool,
    /// Strips, or pairs of them.
    units: usize,
    /// Strips of a unit.
    each: usize,
    /// Tiles of a strip.
    tiles: usize,
    /// Bytes of a tile.
    stage: usize,
}

/// How the work of a product with few rows is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    /// Warps of a block, a power of two.
    warps: usize,
    /// Blocks that share the columns.
    ranges: usize,
    /// Blocks that share the strips, for each range.
    groups: usize,
    /// Tiles of a strip in a range.
    tiles: usize,
    /// Strips that a block's warps share at a time.
    batch: usize,
    /// Tiles of a warp in shared memory, a power of two.
    stages: usize,
    /// Bytes of shared memory of a block.
    shared: usize,
}

impl Work {
    /// Bytes of activations of so many tiles: `Columns::bytes` of `linear.cu`.
    fn activations(&self, tiles: usize) -> usize {
        let bytes = match self.floats {
            true => self.rows * (tiles * 512 + 64 + tiles * 32 + 32) + tiles * 16,
            false => self.rows * tiles * (512 + 32 + 4),
        };
        bytes.next_multiple_of(128)
    }

    /// Bytes of what warps find of strips that they share: `slot` of `linear.cu`.
    fn sums(&self, strips: usize, tiles: usize, warps: usize) -> usize {
        let per = (strips * tiles).div_ceil(warps);
        let slots = match () {
            () if per.is_multiple_of(tiles) => strips,
            () if tiles.is_multiple_of(per) => warps,
            () => strips + warps - 1,
        };
        slots * self.rows * 20 * 4
    }

    /// Shared out among multiprocessors with so much shared memory.
    fn plan(&self, multiprocessors: usize, memory: usize, stages: usize) -> Plan {
        let warps = |&warps: &usize| warps > 0;
        let fitting = |ranges: usize| {
            let warps = std::iter::successors(Some(WARPS), |warps| Some(warps / 2)).take_while(warps);
            warps.filter_map(|warps| self.fit(multiprocessors, memory - RESERVED, warps, ranges, stages)).next()
        };
        // Few, as their sums meet in memory.
        let plans = self.ranges().filter_map(fitting);
        let best = plans.min_by_key(|plan| (plan.warps < WARPS, plan.ranges));
        best.unwrap_or_else(|| unreachable!("a tile of {} bytes fits into no shared memory", self.stage))
    }

    /// Numbers of ranges of about equal length.
    fn ranges(&self) -> impl Iterator<Item = usize> {
        let tiles = self.tiles;
        let even = move |&ranges: &usize| {
            let idle = tiles.div_ceil(ranges) * ranges - tiles;
            idle < tiles.div_ceil(ranges) && (idle * 16 <= tiles || ranges == tiles)
        };
        (1..=tiles.max(1)).filter(even)
    }

    /// The same where each [`TOGETHER`] warps do the same with as many strips, which are dealt out whole: what they find stays in
    /// registers, and always meets in memory.
    fn plan_together(&self, multiprocessors: usize, memory: usize) -> Option<Plan> {
        let of = |ranges: usize| {
            let tiles = self.tiles.div_ceil(ranges);
            let groups = (multiprocessors / ranges).clamp(1, self.units.max(1));
            let batch = (self.units.div_ceil(groups) * self.each).div_ceil(TOGETHER);
            // No more tiles than a warp has.
            let fits = |stages: &usize| {
                let shared = ALIGNED + self.activations(tiles) + stages * WARPS * self.stage;
                shared <= memory - RESERVED && (*stages == 2 || batch.div_ceil(WARPS / TOGETHER) * tiles >= *stages)
            };
            let stages = [STAGES, 2].into_iter().find(fits)?;
            let shared = ALIGNED + self.activations(tiles) + stages * WARPS * self.stage;
            Some(Plan { warps: WARPS, ranges, groups, tiles, batch, stages, shared })
        };
        self.ranges().find_map(of)
    }

    fn fit(&self, multiprocessors: usize, room: usize, warps: usize, ranges: usize, stages: usize) -> Option<Plan> {
        let tiles = self.tiles.div_ceil(ranges);
        let groups = (multiprocessors / ranges).clamp(1, self.units.max(1));
        let count = self.units.div_ceil(groups) * self.each;
        let fixed = self.activations(tiles) + 2 * warps * self.stage;
        let left = room.checked_sub(fixed)?;
        // All strips at once, or as many as give each warp the same.
        let fits = |batch: &usize| {
            let even = *batch == count || *batch == self.each || (batch * tiles).is_multiple_of(warps);
            // The last may be fewer.
            even && (self.each..=*batch).step_by(self.each).all(|strips| self.sums(strips, tiles, warps) <= left)
        };
        let batch = (self.each..=count.min(64)).rev().step_by(self.each).chain([count]).filter(fits).max()?;
        let sums = (self.each..=batch).step_by(self.each).map(|strips| self.sums(strips, tiles, warps)).max()?;
        // No more than there are tiles for.
        let per = (count * tiles).div_ceil(warps).max(2);
        let most = (2 + (left - sums) / (warps * self.stage)).min(stages).min(per);
        let stages = 1 << most.ilog2();
        let shared = fixed + (stages - 2) * warps * self.stage + sums;
        Some(Plan { warps, ranges, groups, tiles, batch, stages, shared })
    }
}

/// Bytes of the parts of products with up to so many rows, at most: `units` times `each` strips of so many columns, in tiles of
/// up to `stage` bytes, where a block has so much shared memory.
pub(super) fn partial_bytes(
    most: usize,
    units: usize,
    each: usize,
    columns: usize,
    stage: usize,
    shared: usize,
) -> usize {
    let floats = (1..=most.min(FLOATS)).map(|rows| (rows, true, 1));
    let halves = [1, 2, 4].into_iter().filter(|n| *n == 1 || (n / 2) * 8 < most).map(|n| (n * 8, false, n));
    let bytes = floats.chain(halves).map(|(rows, floats, n)| {
        let work = Work { rows, floats, units, each, tiles: columns.div_ceil(TILE), stage };
        // How many ranges there are depends on the shared memory alone.
        let alone = work.plan(1, shared, 2).ranges;
        let together = if n == 4 { work.plan_together(1, shared) } else { None };
        match together.map_or(0, |plan| plan.ranges).max(if alone > 1 { alone } else { 0 }) {
            0 => 0,
            ranges => units * each * ranges * n * 128 * 4 + FLOATS * 4,
        }
    });
    bytes.max().unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_is_shared_out(
            multiprocessors in 1_usize..200,
            most in prop_oneof![Just(99_usize << 10), Just(163 << 10), Just(227 << 10)],
            (rows, floats) in prop_oneof![(1_usize..=4, Just(true)), (prop_oneof![Just(8_usize), Just(16), Just(32)], Just(false))],
            units in 1_usize..20_000,
            each in 1_usize..=2,
            tiles in 1_usize..200,
            stage in prop_oneof![Just(2304_usize), Just(3360), Just(4352), Just(8192)],
        ) {
            let work = Work { rows, floats, units, each, tiles, stage };
            let plan = work.plan(multiprocessors, most, STAGES);
            prop_assert!((1..=WARPS).contains(&plan.warps) && plan.shared <= most - RESERVED, "{plan:?}");
            prop_assert!((2..=STAGES).contains(&plan.stages) && plan.stages.is_power_of_two());
            prop_assert!(plan.warps.is_power_of_two());
            // No range is without a tile, no group without a unit, and pairs stay together.
            prop_assert!(plan.tiles * plan.ranges >= tiles && plan.tiles * (plan.ranges - 1) < tiles);
            prop_assert!((1..=units).contains(&plan.groups) && plan.batch.is_multiple_of(each));
            let count = units.div_ceil(plan.groups) * each;
            prop_assert!((each..=count).contains(&plan.batch));
            for strips in (each..=plan.batch).step_by(each) {
                let found = work.sums(strips, plan.tiles, plan.warps);
                let others = work.activations(plan.tiles) + plan.warps * plan.stages * stage;
                prop_assert!(others + found <= plan.shared, "{strips} strips of {plan:?}");
            }
            let Some(plan) = work.plan_together(multiprocessors, most) else { return Ok(()) };
            prop_assert!(plan.shared <= most - RESERVED && (plan.stages == 2 || plan.stages == STAGES), "{plan:?}");
            prop_assert!(plan.tiles * plan.ranges >= tiles && plan.tiles * (plan.ranges - 1) < tiles);
            prop_assert!((1..=units).contains(&plan.groups) && plan.groups * plan.ranges <= multiprocessors.max(plan.ranges));
        }
    }

    #[test]
    fn eight_billion_weights_on_132_multiprocessors() {
        let check = |(rows, floats), (units, each), tiles, expected| {
            let work = Work { rows, floats, units, each, tiles, stage: 2304 };
            let plan = work.plan(132, 227 << 10, STAGES);
            assert_eq!((plan.warps, plan.ranges, plan.groups, plan.batch, plan.stages), expected, "{work:?} {plan:?}");
        };
        let one = (1, true);
        check(one, (384, 1), 16, (16, 1, 132, 3, 2));
        check(one, (256, 1), 16, (16, 1, 132, 2, 2));
        check(one, (896, 2), 16, (16, 1, 132, 14, 4));
        check(one, (256, 1), 56, (16, 1, 132, 2, 4));
        let many = (32, false);
        check(many, (896, 2), 16, (16, 4, 33, 16, 2));
    }
}

//! How products with few rows are shared out among multiprocessors, and what memory their parts take.

/// Up to so many rows, those kernels take floats as they are, and normalise them too.
pub(super) const FLOATS: usize = 4;

/// Tiles of a warp in shared memory at most: `STAGES` of `linear.cu`, a power of two. One is read while the others come.
pub(super) const STAGES: usize = 4;

/// Warps of a block at most.
pub(super) const WARPS: usize = 16;

/// Bytes of shared memory that a block of these kernels has of its own, and what the driver takes for each.
const RESERVED: usize = 4 << 10;

/// Warps that do the same at a time, by Hopper's instruction for 64 rows of weights and 32 of activations.
pub(super) const TOGETHER: usize = 4;

/// Bytes of shared memory that it may take for activations to begin where it wants them.
const ALIGNED: usize = 512;

/// Columns of a tile.
pub(super) const TILE: usize = 256;

/// A product with few rows of activations.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    /// Rows that shared memory holds: as many as there are of floats, a multiple of 8 of halves.
    pub rows: usize,
    /// Whether they come as floats.
    pub floats: bool,
    /// Strips, or pairs of them.
    pub units: usize,
    /// Strips of a unit.
    pub each: usize,
    /// Tiles of a strip.
    pub tiles: usize,
    /// Bytes of a tile.
    pub stage: usize,
}

/// How the work of a product with few rows is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Warps of a block, a power of two.
    pub warps: usize,
    /// Blocks that share the columns.
    pub ranges: usize,
    /// Blocks that share the strips, for each range.
    pub groups: usize,
    /// Tiles of a strip in a range.
    pub tiles: usize,
    /// Strips that a block's warps share at a time.
    pub batch: usize,
    /// Tiles of a warp in shared memory, a power of two.
    pub stages: usize,
    /// Bytes of shared memory of a block.
    pub shared: usize,
}

impl Work {
    /// Bytes of activations of so many tiles: `Columns::bytes` of `multiply.cuh`.
    fn activations(&self, tiles: usize) -> usize {
        let bytes = match self.floats {
            true => self.rows * (tiles * 512 + 64 + tiles * 32 + 32) + tiles * 16,
            false => self.rows * tiles * (512 + 32 + 4),
        };
        bytes.next_multiple_of(128)
    }

    /// Bytes of what warps find of strips that they share: `Slots` of `linear.cu`.
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
    pub fn plan(&self, multiprocessors: usize, memory: usize, stages: usize) -> Plan {
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
    pub fn plan_together(&self, multiprocessors: usize, memory: usize) -> Option<Plan> {
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

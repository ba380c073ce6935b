//! Attention: which kernel, and how its work is shared out.

use super::buffer::{Activations, CHUNK, Shape};
use super::driver::Address;
use super::{Attention, Buffer, Cache, CacheShape, Cuda, Pairs, Rotation, Step, counters, grown, linear};
use crate::engine::blocks::BLOCK;
use crate::engine::kernels::KvKind;
use std::collections::HashSet;
use std::ffi::CStr;

/// Rows of a matrix of queries.
const ROWS: usize = 16;
/// Rows that half of one takes.
const SMALL: usize = 8;
/// Warps of the kernel for many tokens, each with a matrix of its own.
const WARPS: usize = 8;
/// From so many matrices of a conversation on, it is the one.
const MANY: usize = 3;

/// Bytes of what parts of an attention find at most, and how many of them are counted: there are no more than
/// multiprocessors.
pub(super) fn partial_bytes(multiprocessors: usize, size: usize) -> (usize, usize) {
    (multiprocessors * ROWS * (size + 2) * 4, multiprocessors)
}

/// Tokens of a conversation that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queries {
    row: usize,
    count: usize,
    slot: usize,
    position: usize,
}

/// The argument `Attention` of `queries.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Argument {
    q: Address,
    cache: Address,
    tables: Address,
    queries: Address,
    out: Address,
    partial: Address,
    arrived: Address,
    stride: u64,
    heads: i32,
    kv_heads: i32,
    size: i32,
    width: i32,
    window: i32,
    splits: i32,
    per: i32,
    subs: i32,
    scale: f32,
    softcap: f32,
    turning: Turning,
    halves: Activations,
}

/// What the kernel needs that also turns queries and keys, and stores keys and values.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Turning {
    k: Address,
    v: Address,
    angles: Address,
    q_weight: Address,
    k_weight: Address,
    q_eps: f32,
    k_eps: f32,
    adjacent: i32,
}

/// How heads of queries are put into matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packing {
    /// Heads in a matrix.
    per: usize,
    /// Matrices that a head of keys needs.
    subs: usize,
}

impl Packing {
    fn new(heads: usize, kv_heads: usize) -> Packing {
        let group = heads / kv_heads;
        let subs = group.div_ceil(ROWS);
        Packing { per: group.div_ceil(subs), subs }
    }

    /// Tokens in a matrix.
    fn tokens(self) -> usize {
        ROWS / self.per
    }
}

/// A step's tokens: those that few kernels share the positions of, and those of which each warp has some.
pub(super) fn queries(step: &Step, packing: Packing) -> [Vec<Queries>; 2] {
    let tokens = packing.tokens();
    let (mut few, mut many) = (Vec::new(), Vec::new());
    let mut row = 0;
    while row < step.rows() {
        let follows = |&next: &usize| {
            next < step.rows()
                && step.slots[next] == step.slots[row]
                && step.positions[next] == step.positions[row] + (next - row)
        };
        let end = row + (row..).take_while(follows).count();
        let (list, at_once) = if end - row >= MANY * tokens { (&mut many, tokens * WARPS) } else { (&mut few, tokens) };
        for first in (row..end).step_by(at_once) {
            let (slot, position) = (step.slots[first], step.positions[first]);
            list.push(Queries { row: first, count: at_once.min(end - first), slot, position });
        }
        row = end;
    }
    [few, many]
}

/// What is uploaded of them.
pub(super) fn numbers(queries: &[Queries]) -> Vec<u32> {
    queries.iter().flat_map(|q| [q.row, q.count, q.slot, q.position]).map(|number| number as u32).collect()
}

impl Cuda {
    pub(super) fn attention(
        &self,
        q: &Buffer,
        cache: &Cache,
        layer: usize,
        step: &Step,
        attention: &Attention,
        out: &mut Buffer,
    ) {
        self.attention_of(q, Turning::default(), cache, (layer, step), attention, out);
    }

    /// Whether a step's queries and keys are turned by the kernel that attends from them: one token of each conversation.
    pub(super) fn turns(&self, step: &Step, cache: &Cache, attention: &Attention, pairs: Pairs) -> bool {
        let CacheShape { heads: kv_heads, size, .. } = cache.shape();
        let slots: HashSet<usize> = step.slots.iter().copied().collect();
        let size_fits = matches!(size, 64 | 128 | 256) || size == 96 && pairs == Pairs::Adjacent;
        size_fits && attention.heads / kv_heads <= SMALL && slots.len() == step.rows()
    }

    /// Queries and keys are turned and keys and values stored on the way.
    pub(super) fn turned_attention(
        &self,
        [q, k, v]: [&Buffer; 3],
        [of_q, of_k]: [&Rotation<'_, Cuda>; 2],
        cache: &Cache,
        at: (usize, &Step),
        attention: &Attention,
        out: &mut Buffer,
    ) {
        let (rows, CacheShape { heads, size, .. }) = (at.1.rows(), cache.shape());
        let weight = |of: &Rotation<'_, Cuda>| of.norm.map_or((0, 0.0), |(weight, eps)| (weight.read(size), eps));
        let ((q_weight, q_eps), (k_weight, k_eps)) = (weight(of_q), weight(of_k));
        let turning = Turning {
            k: k.read(rows * heads * size),
            v: v.read(rows * heads * size),
            angles: of_q.angles.read(rows * size),
            q_weight,
            k_weight,
            q_eps,
            k_eps,
            adjacent: i32::from(of_q.pairs == Pairs::Adjacent),
        };
        self.attention_of(q, turning, cache, at, attention, out);
    }

    fn attention_of(
        &self,
        q: &Buffer,
        turning: Turning,
        cache: &Cache,
        (layer, step): (usize, &Step),
        attention: &Attention,
        out: &mut Buffer,
    ) {
        let CacheShape { heads: kv_heads, size, kind, .. } = cache.shape();
        let Attention { heads, scale, window, softcap } = *attention;
        let packing = Packing::new(heads, kv_heads);
        let Packing { per, subs } = packing;
        let [few, many] = queries(step, packing);
        let mut state = self.state();
        let state = &mut *state;
        state.graphs.packs(packing);
        let (tables, width) = state.put_tables(&self.device, step);
        let [few_at, many_at] = [(0, &few), (1, &many)].map(|(i, queries)| {
            let ring = if state.graphs.recording() { None } else { Some(&mut state.ring) };
            state.queries[i].put(&self.device, ring, &numbers(queries))
        });
        // What is found becomes halves on the way where the next product wants them and a block has whole chunks.
        let rows = step.rows();
        let shape = Shape { rows, width: heads * size, even: false };
        let wanted = !linear::takes_floats(rows) && !linear::is_many(rows);
        let (to, halves) =
            match wanted && has_kernels(size) && many.is_empty() && subs == 1 && (per * size) % CHUNK == 0 {
                true => out.write_both(&self.device, shape),
                false => (out.write(rows, heads * size), Activations::default()),
            };
        let mut argument = Argument {
            q: q.read(step.rows() * heads * size),
            cache: cache.layer(layer),
            tables,
            queries: few_at,
            out: to,
            partial: 0,
            arrived: 0,
            stride: cache.stride(),
            heads: heads as i32,
            kv_heads: kv_heads as i32,
            size: size as i32,
            width: width as i32,
            window: window.unwrap_or(1 << 30).min(1 << 30) as i32,
            splits: 1,
            per: per as i32,
            subs: subs as i32,
            scale,
            softcap: softcap.unwrap_or(0.0),
            turning,
            halves,
        };
        let places = kv_heads * subs;
        if !has_kernels(size) {
            for (queries, at) in [(few, few_at), (many, many_at)] {
                let (name, argument) = (kernel(kind, size, Variant::Few), Argument { queries: at, ..argument });
                // SAFETY: takes `Attention`; the lists have as many entries as the grid.
                unsafe { launch!(self.device, name, [queries.len(), kv_heads, 1], 128, 0, argument) };
            }
            return;
        }

        if !few.is_empty() {
            let small = few.iter().all(|queries| queries.count * per <= SMALL);
            let rows = if small { SMALL } else { ROWS };
            // Two smaller blocks to a multiprocessor where there are more than one for each.
            let full = places * few.len() > self.device.info().multiprocessors;
            let warps = if small && !full { 8 } else { 4 };
            // No more parts than multiprocessors, and each with something to see: a block for each of half its warps, or, as
            // putting many parts together takes longer, two for each. What is recorded stands for all contexts up to the next
            // power of two.
            let longest = few.iter().map(|queries| queries.position + queries.count).max().unwrap_or(1);
            let seen = longest.next_power_of_two().min(window.map_or(usize::MAX, |window| window + BLOCK)) / BLOCK;
            let wanted = self.device.info().multiprocessors / (places * few.len()).max(1);
            let splits = wanted.min((seen * 2 / warps).min(8).max(seen / warps / 2)).clamp(1, 64);
            argument.splits = splits as i32;
            if splits > 1 {
                let parts = few.len() * places * splits;
                argument.partial = grown(&mut state.partial, &self.device, parts * ROWS * (size + 2) * 4, "attention");
                argument.arrived = counters(&mut state.arrived, &self.device, few.len() * places);
            }
            let (grid, threads) = ([splits, places, few.len()], warps * 32);
            let turned = turning.k != 0;
            let shared = (warps * rows * (size + 2) + if halves.base == 0 { 0 } else { rows * size }) * 4;
            let variant = match (turned, small) {
                (true, _) => Variant::Turned,
                (false, true) => Variant::Small,
                (false, false) => Variant::Few,
            };
            // SAFETY: each takes `Attention`, with shared memory for what all warps found; the list has as many entries as
            // the grid.
            unsafe { launch!(self.device, kernel(kind, size, variant), grid, threads, shared, argument) };
        }
        if !many.is_empty() {
            let argument = Argument { queries: many_at, splits: 1, ..argument };
            let shared = 3 * 2 * BLOCK * kind.row_bytes(size);
            let (grid, threads) = ([many.len(), places, 1], WARPS * 32);
            // SAFETY: each takes `Attention`, with shared memory for three blocks of keys and values; the list has as many
            // entries as the grid.
            unsafe { launch!(self.device, kernel(kind, size, Variant::Many), grid, threads, shared, argument) };
        }
    }
}

/// Whether there are kernels for heads of just this size.
fn has_kernels(size: usize) -> bool {
    matches!(size, 64 | 96 | 128 | 256)
}

/// Which of the kernels for heads of a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// For one token of each conversation, whose queries and keys are turned on the way.
    Turned,
    /// For matrices of up to [`SMALL`] rows.
    Small,
    /// For few tokens.
    Few,
    /// For many.
    Many,
}

/// The kernel's name in `attention_*.cu`. Heads of most sizes have one for all.
fn kernel(kind: KvKind, size: usize, variant: Variant) -> &'static CStr {
    use {KvKind::*, Variant::*};
    macro_rules! of {
        ($size:literal) => {
            match (kind, variant) {
                (F16, Turned) => name!("attend_", $size, "_f16_turned"),
                (F16, Small) => name!("attend_", $size, "_f16_small"),
                (F16, Few) => name!("attend_", $size, "_f16"),
                (F16, Many) => name!("attend_", $size, "_f16_many"),
                (Fp8, Turned) => name!("attend_", $size, "_fp8_turned"),
                (Fp8, Small) => name!("attend_", $size, "_fp8_small"),
                (Fp8, Few) => name!("attend_", $size, "_fp8"),
                (Fp8, Many) => name!("attend_", $size, "_fp8_many"),
                (Q4, Turned) => name!("attend_", $size, "_q4_turned"),
                (Q4, Small) => name!("attend_", $size, "_q4_small"),
                (Q4, Few) => name!("attend_", $size, "_q4"),
                (Q4, Many) => name!("attend_", $size, "_q4_many"),
            }
        };
    }
    match (size, kind) {
        (64, _) => of!(64),
        (96, _) => of!(96),
        (128, _) => of!(128),
        (256, _) => of!(256),
        (_, F16) => c"attend_any_f16",
        (_, Fp8) => c"attend_any_fp8",
        (_, Q4) => c"attend_any_q4",
    }
}

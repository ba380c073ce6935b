//! Attention, in one pass over keys and values: a softmax whose sums are rescaled when a larger score appears.
//!
//! A task takes a few rows, a row being a head of a token, that look through the same keys: each tile of those is
//! widened to floats once for all of them. Tiles begin at fixed positions and are weighed in full length, so that a row's
//! result does not depend on which others share its task: a token alone gives the same bits as in a batch.

use super::{Attention, Cache, Half, Isa, KvKind, Parts, Place, Pool, Step, kv};
use crate::engine::blocks::BLOCK;
use std::cell::RefCell;
use std::ops::Range;

/// Rows of a task at most.
const ROWS: usize = 8;
/// Blocks whose keys are scored before their values are summed.
const BLOCKS: usize = 2;
/// Keys of so many blocks.
const TILE: usize = BLOCKS * BLOCK;
/// Keys that are scored while others are on their way from memory.
const AHEAD: usize = 4;
/// Dimensions of a head at most: a task's rows lie on its stack.
pub const MAX_HEAD: usize = 512;

thread_local! {
    /// Of each thread, where keys and values that are not stored as halves become such.
    static ROOM: RefCell<Vec<half::f16>> = const { RefCell::new(Vec::new()) };
}

/// Rows that look through the same keys: heads `head..head + heads` of tokens `token..token + tokens`.
pub struct Task {
    token: usize,
    tokens: usize,
    head: usize,
    heads: usize,
}

/// `out[row, head] = softmax(scale * q[row, head] * keys) * values`; `tasks` is room for a list.
pub fn attend(
    pool: &Pool,
    isa: Isa,
    q: &[f32],
    cache: &Cache,
    layer: usize,
    step: &Step,
    attention: &Attention,
    tasks: &mut Vec<Task>,
    out: &mut [f32],
) {
    let size = cache.shape().size;
    assert!(size <= MAX_HEAD);
    let width = attention.heads * size;
    cut(step, attention.heads, cache.shape().heads, pool.threads(), tasks);
    let tasks = &*tasks;
    let parts = Parts::new(&mut out[..step.rows() * width]);
    pool.run(tasks.len(), |task| {
        let task = &tasks[task];
        let mut rows = Rows::new(cache.shape().kind);
        for token in task.token..task.token + task.tokens {
            for head in task.head..task.head + task.heads {
                let q = &q[token * width + head * size..][..size];
                rows.push(q, attention, step.positions[token]);
            }
        }
        let kv_head = task.head / (attention.heads / cache.shape().heads);
        rows.look_through(isa, cache, (layer, &step.tables[step.slots[task.token]], kv_head), attention);
        for row in 0..rows.count {
            let (token, head) = (task.token + row / task.heads, task.head + row % task.heads);
            // SAFETY: a token's head belongs to one task, and a task runs once.
            rows.finish(row, unsafe { parts.range(token * width + head * size, size) });
        }
    });
}

/// Cuts the rows of a step into tasks: at least as many as there are threads, where there are rows enough.
fn cut(step: &Step, heads: usize, kv_heads: usize, threads: usize, tasks: &mut Vec<Task>) {
    let group = heads / kv_heads;
    let rows = (step.rows() * heads / threads).clamp(1, ROWS);
    let at_once = group.min(rows);
    tasks.clear();
    let mut token = 0;
    while token < step.rows() {
        let most = if at_once == group { rows / group } else { 1 };
        let same = step.slots[token..].iter().take(most).take_while(|&&slot| slot == step.slots[token]);
        let tokens = same.count().max(1);
        for kv_head in 0..kv_heads {
            tasks.extend((0..group).step_by(at_once).map(|first| Task {
                token,
                tokens,
                head: kv_head * group + first,
                heads: at_once.min(group - first),
            }));
        }
        token += tokens;
    }
}

/// The rows of a task and what they have gathered.
struct Rows {
    count: usize,
    kind: KvKind,
    /// Queries, scaled and turned as keys are.
    q: [[f32; MAX_HEAD]; ROWS],
    size: usize,
    /// The positions that each row sees: from the first to before the second.
    seen: [(usize, usize); ROWS],
    /// The largest score of each.
    most: [f32; ROWS],
    /// The sum of the exponentials of each.
    total: [f32; ROWS],
    /// The values, weighted by the exponentials.
    sums: [[f32; MAX_HEAD]; ROWS],
}

impl Rows {
    fn new(kind: KvKind) -> Rows {
        Rows {
            count: 0,
            kind,
            q: [[0.0; MAX_HEAD]; ROWS],
            size: 0,
            seen: [(0, 0); ROWS],
            most: [f32::NEG_INFINITY; ROWS],
            total: [0.0; ROWS],
            sums: [[0.0; MAX_HEAD]; ROWS],
        }
    }

    fn push(&mut self, q: &[f32], attention: &Attention, position: usize) {
        let row = self.count;
        for (to, from) in self.q[row].iter_mut().zip(q) {
            *to = from * attention.scale * kv::unit(self.kind);
        }
        if self.kind == KvKind::Q4 {
            kv::rotate(&mut self.q[row][..q.len()]);
        }
        let first = attention.window.map_or(0, |window| (position + 1).saturating_sub(window));
        self.seen[row] = (first, position + 1);
        self.size = q.len();
        self.count += 1;
    }

    fn look_through(&mut self, isa: Isa, cache: &Cache, at: (usize, &[u32], usize), attention: &Attention) {
        ROOM.with_borrow_mut(|room| self.look_through_with(room, isa, cache, at, attention));
    }

    fn look_through_with(
        &mut self,
        room: &mut Vec<half::f16>,
        isa: Isa,
        cache: &Cache,
        at: (usize, &[u32], usize),
        attention: &Attention,
    ) {
        let (layer, table, head) = at;
        let seen = &self.seen[..self.count];
        let first = seen.iter().map(|seen| seen.0).min().unwrap_or(0) / TILE * TILE;
        let end = seen.iter().map(|seen| seen.1).max().unwrap_or(0);
        let mut scores = [[0.0; TILE]; ROWS];
        for from in (first..end).step_by(TILE) {
            let to = end.min(from + TILE);
            let blocks = || table[from / BLOCK..to.div_ceil(BLOCK)].iter().zip((0..to - from).step_by(BLOCK));
            for (&block, at) in blocks() {
                let keys = BLOCK.min(to - from - at);
                let place = Place { layer, block, head };
                let rows = cache.rows(isa, place, Half::Keys, room);
                let next = (from + at + TILE < end).then(|| table[(from + at + TILE) / BLOCK]);
                for some in (0..keys).step_by(AHEAD).map(|first| first..keys.min(first + AHEAD)) {
                    // A few at a time: a processor waits for no more lines than some dozens at once.
                    cache.prefetch(place, Half::Values, some.clone());
                    if let Some(block) = next {
                        cache.prefetch(Place { block, ..place }, Half::Keys, some.clone());
                    }
                    self.score(isa, &rows[some.start * self.size..some.end * self.size], at + some.start, &mut scores);
                }
            }
            for row in 0..self.count {
                self.weigh_tile(isa, row, from, to, attention.softcap, &mut scores[row]);
            }
            for (&block, at) in blocks() {
                let rows = cache.rows(isa, Place { layer, block, head }, Half::Values, room);
                self.sum(isa, rows, &scores, at..to.min(from + at + BLOCK) - from);
            }
        }
    }

    /// Scores of keys [keys, size], which are those of the tile from `first` on, for all rows.
    fn score(&self, isa: Isa, keys: &[half::f16], first: usize, scores: &mut [[f32; TILE]; ROWS]) {
        let mut row = 0;
        while row < self.count {
            macro_rules! score {
                ($n:literal) => {{
                    let q: [&[f32]; $n] = std::array::from_fn(|n| &self.q[row + n][..self.size]);
                    let Some(scores) = scores[row..].first_chunk_mut::<$n>() else { return };
                    isa.score(keys, self.size, q, scores.each_mut().map(|scores| &mut scores[first..]));
                }};
            }
            match self.count - row {
                4.. => score!(4),
                3 => score!(3),
                2 => score!(2),
                _ => score!(1),
            }
            row += 4;
        }
    }

    /// Turns a row's scores of the positions in `from..to` into weights relative to the largest so far.
    fn weigh_tile(
        &mut self,
        isa: Isa,
        row: usize,
        from: usize,
        to: usize,
        softcap: Option<f32>,
        scores: &mut [f32; TILE],
    ) {
        if let Some(cap) = softcap {
            scores.iter_mut().for_each(|score| *score = cap * (*score / cap).tanh());
        }
        let (first, end) = self.seen[row];
        let visible = first.clamp(from, to) - from..end.clamp(from, to) - from;
        // What lies beyond the tile's keys is left from the last tile.
        scores[..visible.start].fill(f32::NEG_INFINITY);
        scores[visible.end..].fill(f32::NEG_INFINITY);
        let most = scores.iter().copied().fold(self.most[row], f32::max);
        if most == f32::NEG_INFINITY {
            // It sees nothing yet; a difference of infinities would be no number.
            scores.fill(0.0);
            return;
        }
        if most > self.most[row] {
            let mut shrink = self.most[row];
            isa.exponentials(std::slice::from_mut(&mut shrink), most);
            self.total[row] *= shrink;
            self.sums[row][..self.size].iter_mut().for_each(|sum| *sum *= shrink);
            self.most[row] = most;
        }
        self.total[row] += isa.exponentials(scores, most);
    }

    /// Adds a block's values [BLOCK, size], weighted; they are those `keys` of the tile.
    fn sum(&mut self, isa: Isa, values: &[half::f16], weights: &[[f32; TILE]; ROWS], keys: Range<usize>) {
        let size = self.size;
        let values = &values[..keys.len() * size];
        let (sums, weights) = (&mut self.sums[..self.count], &weights[..self.count]);
        for (sums, weights) in sums.chunks_mut(4).zip(weights.chunks(4)) {
            match (sums, weights) {
                ([a, b, c, d], [wa, wb, wc, wd]) => isa.weigh(
                    values,
                    size,
                    [wa, wb, wc, wd].map(|weights| &weights[keys.clone()]),
                    [&mut a[..size], &mut b[..size], &mut c[..size], &mut d[..size]],
                ),
                ([a, b], [wa, wb]) => {
                    isa.weigh(
                        values,
                        size,
                        [wa, wb].map(|weights| &weights[keys.clone()]),
                        [&mut a[..size], &mut b[..size]],
                    );
                }
                (sums, weights) => {
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        isa.weigh(values, size, [&weights[keys.clone()]], [&mut sum[..size]]);
                    }
                }
            }
        }
    }

    fn finish(&self, row: usize, out: &mut [f32]) {
        let share = kv::unit(self.kind) / self.total[row];
        for (out, sum) in out.iter_mut().zip(&self.sums[row]) {
            *out = sum * share;
        }
        if self.kind == KvKind::Q4 {
            kv::rotate(out);
        }
    }
}

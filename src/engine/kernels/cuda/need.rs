//! What a model will hold of a card, from its shape alone: no driver is asked, and nothing is taken.

use super::buffer::Shape;
use super::pool::Pool;
use super::{attention, cache, graph, linear, matrix, plan, state};
use crate::engine::blocks::BLOCK;
use crate::engine::kernels::CacheShape;
use crate::engine::quant::Format;

/// Multiprocessors of a card where that is not known: no card has more.
const MULTIPROCESSORS: usize = 192;

/// Bytes that the driver takes for a layer of a recorded pass: measured on an H100, 0.8 MiB for 32 layers.
const GRAPH_LAYER: usize = 26 << 10;

/// A card, as far as it matters to how much memory a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    /// Its compute capability.
    pub capability: (i32, i32),
    /// Bytes of memory.
    pub memory: u64,
    /// Its multiprocessors, where they are known.
    pub multiprocessors: Option<usize>,
}

impl Card {
    /// Bytes of shared memory that a block may have; where that is not known, as few as there are.
    pub(super) fn shared(&self) -> usize {
        match self.capability {
            (8, 0) | (8, 7) => 163 << 10,
            (9 | 10, _) => 227 << 10,
            _ => 99 << 10,
        }
    }

    /// Bytes that the driver takes for a process that computes here, with the kernels' code: measured on an H100 (driver
    /// 580.159), as NVML tells of the process. For others it is a guess on the safe side, until it was seen there.
    pub fn context_bytes(&self) -> u64 {
        match self.capability {
            (9, 0) => 524 << 20,
            _ => 400 << 20,
        }
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors.unwrap_or(MULTIPROCESSORS)
    }
}

/// Rows of a step at most: activations of a row are about 0.2 MB in a model of 8 billion weights.
pub fn rows_at_once(memory: u64) -> usize {
    if memory > 20 << 30 { 2048 } else { 512 }
}

/// Whether the kernels know a format.
pub fn computes(format: Format) -> bool {
    matrix::FORMATS.contains(&format)
}

/// What a model needs of any card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Bytes of matrices and vectors, in the order in which the kernels read them.
    pub weights: u64,
    /// Bytes of the largest tile of a matrix.
    pub tile: usize,
    /// Bytes of a row of the table of embeddings, which stays with the host.
    pub table_row: usize,
    /// Floats of a token between layers.
    pub width: usize,
    /// Floats of a token's queries.
    pub queries: usize,
    /// Floats of a token's keys, and of its values.
    pub keys: usize,
    /// Floats of a token in the feed-forward network.
    pub hidden: usize,
    /// Dimensions of a head.
    pub head: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// How many layers there are.
    pub layers: usize,
    /// Tokens that there are.
    pub vocabulary: usize,
}

impl Needs {
    /// Bytes that the driver takes for passes that are recorded, with a cache of so many conversations of so many tokens.
    pub fn graphs(&self, slots: usize, context: usize) -> u64 {
        (graph::most(slots, context) * self.layers * GRAPH_LAYER) as u64
    }

    /// A matrix is among its weights, of a format that the kernels know.
    pub fn add_matrix(&mut self, format: Format, rows: usize, cols: usize) {
        self.weights += Pool::taken(matrix::bytes(format, rows, cols)) as u64;
        self.tile = self.tile.max(matrix::tile_bytes(format, 4));
    }

    /// A vector is among them.
    pub fn add_vector(&mut self, len: usize) {
        self.weights += Pool::taken(len * 4) as u64;
    }

    /// There is a table of embeddings.
    pub fn add_table(&mut self, format: Format, cols: usize) {
        self.table_row = self.table_row.max(format.row_bytes(cols));
    }

    /// Bytes of keys and values.
    pub fn cache(&self, shape: CacheShape) -> u64 {
        cache::bytes(shape).map_or(u64::MAX, |bytes| Pool::taken(bytes) as u64)
    }

    /// Bytes of the activations of so many tokens, and of the logits of so many.
    pub fn activations(&self, rows: usize, logit_rows: usize) -> u64 {
        let Needs { width, queries, keys, hidden, head, vocabulary, .. } = *self;
        let floats = [(width, 3), (queries, 2), (keys, 2), (hidden, 2), (head, 2)];
        let floats = floats.into_iter().map(|(len, count)| count * Pool::taken(4 * rows * len));
        let halves = [width, queries, hidden].into_iter().map(|width| Pool::taken(Shape::most(rows, width)));
        (floats.chain(halves).sum::<usize>() + Pool::taken(4 * logit_rows * vocabulary)) as u64
    }

    /// What passes of so many tokens need besides, so many of which have logits, in a cache of so many conversations of so many
    /// tokens.
    pub fn scratch(&self, card: &Card, [rows, logit_rows]: [usize; 2], slots: usize, context: usize) -> Scratch {
        let Needs { tile, table_row, width, queries, keys, hidden, head, vocabulary, .. } = *self;
        let strips = |features: usize| features.div_ceil(matrix::STRIP);
        let products = [
            (rows, strips(queries) + 2 * strips(keys), 1, width),
            (rows, strips(width), 1, queries),
            (rows, strips(hidden), 2, width),
            (rows, strips(width), 1, hidden),
            (logit_rows, strips(vocabulary), 1, width),
        ];
        let of_products = |(rows, units, each, columns): (usize, usize, usize, usize)| {
            plan::partial_bytes(rows.min(linear::FEW), units, each, columns, tile, card.shared())
        };
        let (of_attention, arrived) = attention::partial_bytes(card.multiprocessors(), head);
        let many = [(queries, width), (keys, width), (width, queries), (hidden, width), (width, hidden)];
        let expanded = |(features, columns)| linear::expanded(card.memory, features, columns);
        let of_logits = if logit_rows > linear::FEW { expanded((vocabulary, width)) } else { 0 };
        let expanded = if rows > linear::FEW { many.into_iter().map(expanded).max().unwrap_or(0) } else { 0 };
        Scratch {
            rows,
            tables: slots * context.next_power_of_two().max(256).div_ceil(BLOCK),
            expanded: expanded.max(of_logits),
            partial: products.into_iter().map(of_products).max().unwrap_or(0).max(of_attention),
            arrived,
            embedded: rows.min(graph::ROWS) * table_row,
        }
    }
}

/// What passes need besides weights, activations, keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scratch {
    /// Tokens of a pass.
    pub(super) rows: usize,
    /// Entries of all conversations' tables.
    pub(super) tables: usize,
    /// Bytes of weights as halves.
    pub(super) expanded: usize,
    /// Bytes of parts of products and attention.
    pub(super) partial: usize,
    /// Parts that are counted.
    pub(super) arrived: usize,
    /// Bytes of rows of the table of embeddings.
    pub(super) embedded: usize,
}

impl Scratch {
    /// All bytes, with those on the way to the card, and the frequencies of two kinds of rotations of heads of `head`
    /// dimensions.
    pub fn bytes(&self, head: usize) -> u64 {
        let Scratch { rows, tables, expanded, partial, arrived, embedded } = *self;
        let lists = 3 * Pool::taken(4 * rows) + 2 * Pool::taken(16 * rows) + Pool::taken(4 * tables);
        let pieces = [expanded, partial, 4 * arrived, embedded].into_iter().filter(|bytes| *bytes > 0);
        let pieces: usize = pieces.map(Pool::taken).sum();
        (lists + pieces + Pool::taken(state::RING) + 2 * Pool::taken(4 * head)) as u64
    }
}

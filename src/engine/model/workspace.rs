use super::encoder;
use super::hyper::Hyper;
use crate::engine::Error;
use crate::engine::kernels::Kernels;
use crate::engine::kernels::cpu::Cpu;
use crate::engine::kv_cache::Capacity;

/// Tokens of a step at most on a processor; a longer batch goes through in several.
pub const ROWS: usize = 256;

/// Rows of logits at least: of an answer's next token and of guesses at what follows it.
const LOGIT_ROWS: usize = 8;

/// The buffers of a forward pass. Lengths are those of as many rows as the device takes at once, or of fewer where a cache
/// holds fewer tokens.
pub struct Workspace<K: Kernels> {
    /// The residual stream. [rows, width]
    pub x: K::Buffer,
    /// What is normalised. [rows, width]
    pub h: K::Buffer,
    /// What goes back to the residual stream. [rows, width]
    pub y: K::Buffer,
    /// Queries. [rows, heads, head]
    pub q: K::Buffer,
    /// Keys. [rows, kv heads, head]
    pub k: K::Buffer,
    /// Values. [rows, kv heads, head]
    pub v: K::Buffer,
    /// Results of attention. [rows, heads, head]
    pub a: K::Buffer,
    /// [rows, hidden]
    pub gate: K::Buffer,
    /// [rows, hidden]
    pub up: K::Buffer,
    /// Cosines and sines of the positions. [rows, head / 2, 2]
    pub angles: K::Buffer,
    /// The same, in layers with a window where those differ. [rows, head / 2, 2]
    pub angles_windowed: K::Buffer,
    /// [logit rows, vocabulary]
    pub logits: K::Buffer,
    /// Rows of tokens that there is room for.
    pub rows: usize,
    /// Rows of logits that there is room for.
    pub logit_rows: usize,
    /// Tokens that a conversation may have.
    pub context: usize,
}

impl<K: Kernels> Workspace<K> {
    /// For a cache of this size.
    ///
    /// # Errors
    /// When the memory is not to be had.
    pub fn new(kernels: &K, hyper: &Hyper, capacity: Capacity) -> Result<Self, Error> {
        let lengths = Lengths::new(kernels.rows_at_once(), capacity);
        let rows = |len: usize| kernels.buffer(lengths.rows * len);
        let multiplied = |len: usize| kernels.activations(lengths.rows, len);
        Ok(Workspace {
            x: rows(hyper.width)?,
            h: multiplied(hyper.width)?,
            y: rows(hyper.width)?,
            q: rows(hyper.queries())?,
            k: rows(hyper.keys())?,
            v: rows(hyper.keys())?,
            a: multiplied(hyper.queries())?,
            gate: multiplied(hyper.hidden)?,
            up: rows(hyper.hidden)?,
            angles: rows(hyper.head)?,
            angles_windowed: rows(hyper.head)?,
            logits: kernels.buffer(lengths.logit_rows * hyper.vocabulary)?,
            rows: lengths.rows,
            logit_rows: lengths.logit_rows,
            context: capacity.context,
        })
    }
}

/// How many rows a workspace has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// Of tokens.
    pub rows: usize,
    /// Of logits.
    pub logit_rows: usize,
}

impl Lengths {
    /// On a device that takes so many rows at once, with a cache of this size.
    pub fn new(at_once: usize, capacity: Capacity) -> Lengths {
        let rows = at_once.min(capacity.slots.saturating_mul(capacity.context)).max(1);
        Lengths { rows, logit_rows: capacity.slots.max(LOGIT_ROWS).min(rows) }
    }
}

/// Bytes of a workspace, with what products and the logits that are handed out take besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkspaceBytes {
    row: u64,
    logit_row: u64,
    /// Whether texts go through whole, as in encoders.
    whole: bool,
}

impl WorkspaceBytes {
    /// For a model of this shape.
    pub fn of(hyper: &Hyper) -> WorkspaceBytes {
        if hyper.architecture.is_encoder() {
            return WorkspaceBytes { row: encoder::row_bytes(hyper), logit_row: 0, whole: true };
        }
        let floats = 3 * hyper.width + 2 * hyper.queries() + 2 * hyper.keys() + 2 * hyper.hidden + 2 * hyper.head;
        let longest = hyper.width.max(hyper.queries()).max(hyper.hidden);
        let row = 4 * floats as u64 + Cpu::scratch_bytes(1, longest);
        WorkspaceBytes { row, logit_row: 2 * 4 * hyper.vocabulary as u64, whole: false }
    }

    /// With a cache of this size.
    pub fn total(&self, capacity: Capacity) -> u64 {
        if self.whole {
            return (encoder::rows(capacity.context) as u64).saturating_mul(self.row);
        }
        let Lengths { rows, logit_rows } = Lengths::new(ROWS, capacity);
        rows as u64 * self.row + logit_rows as u64 * self.logit_row
    }
}

//! What encoders share: norms with biases, blocks that are normalised after each part, and the room for a pass.

use super::bert::Bert;
use super::hyper::{Architecture, Hyper};
use super::layers::Heads;
use super::nomic::NomicBert;
use super::source::Source;
use super::workspace::ROWS;
use crate::engine::Error;
use crate::engine::kernels::cpu::Cpu;
use crate::engine::kernels::encoder::EncoderKernels;
use crate::engine::kernels::{Kernels, Step};

/// The weights of one of the encoders.
pub enum Encoder<M, V> {
    /// See [`Bert`].
    Bert(Bert<M, V>),
    /// See [`NomicBert`].
    NomicBert(NomicBert<M, V>),
}

impl<M, V> Encoder<M, V> {
    /// Takes all weights from `source`; none where the model is no encoder.
    ///
    /// # Errors
    /// When a tensor is missing or unfit.
    pub fn load<S>(source: &mut S, hyper: &Hyper) -> Result<Option<Self>, Error>
    where
        S: Source<Matrix = M, Vector = V>,
    {
        Ok(match hyper.architecture {
            Architecture::Bert => Some(Encoder::Bert(Bert::load(source, hyper)?)),
            Architecture::NomicBert => Some(Encoder::NomicBert(NomicBert::load(source, hyper)?)),
            _ => None,
        })
    }

    /// What the last layer gives for the tokens of `step` that are wanted, into `w.y` [wanted, width].
    pub fn forward<K>(&self, k: &K, hyper: &Hyper, step: &Step, w: &mut Room<K>)
    where
        K: EncoderKernels<Matrix = M, Buffer = V>,
    {
        match self {
            Encoder::Bert(bert) => bert.forward(k, hyper, step, w),
            Encoder::NomicBert(nomic) => nomic.forward(k, hyper, step, w),
        }
        k.gather(&w.x, &step.wanted, hyper.width, &mut w.y);
    }
}

/// A norm by mean and variance.
pub struct LayerNorm<V> {
    /// [width]
    weight: V,
    /// [width]
    bias: V,
}

impl<V> LayerNorm<V> {
    /// `name.weight` and `name.bias`.
    ///
    /// # Errors
    /// When either is missing or unfit.
    pub fn load<S>(source: &mut S, name: &str, width: usize) -> Result<Self, Error>
    where
        S: Source<Vector = V>,
    {
        let mut vector = |kind: &str| source.vector(&format!("{name}.{kind}"), width);
        Ok(LayerNorm { weight: vector("weight")?, bias: vector("bias")? })
    }

    /// Normalises rows.
    pub fn apply<K>(&self, k: &K, x: &mut V, hyper: &Hyper, rows: usize)
    where
        K: EncoderKernels<Buffer = V>,
    {
        k.layer_norm(x, &self.weight, &self.bias, hyper.eps, rows);
    }
}

/// The parts that every encoder's layer has besides its feed-forward network.
pub struct Block<M, V> {
    /// The projections of attention.
    pub heads: Heads<M, V>,
    /// Of what attention has added to.
    pub attention_norm: LayerNorm<V>,
    /// Of what the feed-forward network has added to.
    pub output_norm: LayerNorm<V>,
}

impl<M, V> Block<M, V> {
    /// That of a layer.
    ///
    /// # Errors
    /// When a tensor is missing or unfit.
    pub fn load<S>(source: &mut S, layer: usize, hyper: &Hyper) -> Result<Self, Error>
    where
        S: Source<Matrix = M, Vector = V>,
    {
        Ok(Block {
            heads: Heads::load(source, layer, hyper)?,
            attention_norm: LayerNorm::load(source, &format!("blk.{layer}.attn_output_norm"), hyper.width)?,
            output_norm: LayerNorm::load(source, &format!("blk.{layer}.layer_output_norm"), hyper.width)?,
        })
    }

    /// Queries, keys and values of `w.x`.
    pub fn project<K>(&self, k: &K, rows: usize, w: &mut Room<K>)
    where
        K: Kernels<Matrix = M, Buffer = V>,
    {
        let Heads { q, k: keys, v, .. } = &self.heads;
        k.matmul(&w.x, rows, &mut [q.product(&mut w.q), keys.product(&mut w.k), v.product(&mut w.v)]);
    }

    /// Adds to `w.x` what its tokens see in their texts, and normalises it.
    pub fn attend<K>(&self, k: &K, hyper: &Hyper, step: &Step, w: &mut Room<K>)
    where
        K: EncoderKernels<Matrix = M, Buffer = V>,
    {
        let rows = step.rows();
        let scale = hyper.attention_scale * hyper.rope.gain();
        k.attend_all([&w.q, &w.k, &w.v], step, hyper.heads, hyper.head, scale, &mut w.a);
        k.matmul_add(&w.a, rows, self.heads.o.product(&mut w.y), rows * hyper.width, &mut w.x);
        self.attention_norm.apply(k, &mut w.x, hyper, rows);
    }
}

/// The buffers of an encoder's pass, for as many rows as a text may have tokens, or some short texts together.
pub struct Room<K: Kernels> {
    /// The residual stream. [rows, width]
    pub x: K::Buffer,
    /// What goes back to it. [rows, width]
    pub y: K::Buffer,
    /// Queries. [rows, heads, head]
    pub q: K::Buffer,
    /// Keys. [rows, heads, head]
    pub k: K::Buffer,
    /// Values. [rows, heads, head]
    pub v: K::Buffer,
    /// Results of attention. [rows, heads, head]
    pub a: K::Buffer,
    /// [rows, hidden]
    pub gate: K::Buffer,
    /// [rows, hidden]
    pub up: K::Buffer,
    /// Cosines and sines of the positions. [rows, head / 2, 2]
    pub angles: K::Buffer,
    /// Rows that there is room for.
    pub rows: usize,
}

impl<K: Kernels> Room<K> {
    /// For texts of up to `context` tokens.
    ///
    /// # Errors
    /// When the memory is not to be had.
    pub fn new(kernels: &K, hyper: &Hyper, context: usize) -> Result<Self, Error> {
        let rows = rows(context);
        let buffer = |len: usize| kernels.buffer(rows.saturating_mul(len));
        Ok(Room {
            x: buffer(hyper.width)?,
            y: buffer(hyper.width)?,
            q: buffer(hyper.queries())?,
            k: buffer(hyper.queries())?,
            v: buffer(hyper.queries())?,
            a: buffer(hyper.queries())?,
            gate: buffer(hyper.hidden)?,
            up: buffer(hyper.hidden)?,
            angles: buffer(hyper.head)?,
            rows,
        })
    }
}

/// Rows of a pass: a text goes through at once.
pub fn rows(context: usize) -> usize {
    context.max(ROWS)
}

/// Bytes of a row on a processor, with what products and the vectors that are handed out take besides.
pub fn row_bytes(hyper: &Hyper) -> u64 {
    let floats = 3 * hyper.width + 4 * hyper.queries() + 2 * hyper.hidden + hyper.head;
    let longest = hyper.width.max(hyper.queries()).max(hyper.hidden);
    4 * floats as u64 + Cpu::scratch_bytes(1, longest)
}

//! Nomic's BERT: queries and keys are rotated by their positions, and the feed-forward network is gated.

use super::encoder::{Block, LayerNorm, Room};
use super::hyper::Hyper;
use super::layers::FeedForward;
use super::source::Source;
use crate::engine::Error;
use crate::engine::kernels::encoder::EncoderKernels;
use crate::engine::kernels::{Gate, Pairs, Rotation, Step};

/// The weights.
pub struct NomicBert<M, V> {
    /// [vocabulary, width]
    embeddings: M,
    /// [sentences, width]; texts are their first.
    sentences: Option<M>,
    embeddings_norm: LayerNorm<V>,
    layers: Vec<Layer<M, V>>,
    /// [head / 2]
    frequencies: Vec<f64>,
}

struct Layer<M, V> {
    block: Block<M, V>,
    feed_forward: FeedForward<M, V>,
}

impl<M, V> NomicBert<M, V> {
    /// Takes the weights from `source`.
    ///
    /// # Errors
    /// When a tensor is missing or unfit.
    pub fn load<S>(source: &mut S, hyper: &Hyper) -> Result<Self, Error>
    where
        S: Source<Matrix = M, Vector = V>,
    {
        let layer = |layer| {
            Ok(Layer {
                block: Block::load(source, layer, hyper)?,
                feed_forward: FeedForward::load(source, layer, hyper)?,
            })
        };
        Ok(NomicBert {
            layers: (0..hyper.layers).map(layer).collect::<Result<_, Error>>()?,
            embeddings: source.table("token_embd.weight", hyper.vocabulary, hyper.width)?,
            sentences: match hyper.sentences {
                0 => None,
                sentences => Some(source.table("token_types.weight", sentences, hyper.width)?),
            },
            embeddings_norm: LayerNorm::load(source, "token_embd_norm", hyper.width)?,
            frequencies: hyper.rope.frequencies(hyper.head, None),
        })
    }

    /// Takes the tokens of `step` through all layers, into `w.x` [rows, width].
    pub fn forward<K>(&self, k: &K, hyper: &Hyper, step: &Step, w: &mut Room<K>)
    where
        K: EncoderKernels<Matrix = M, Buffer = V>,
    {
        let rows = step.rows();
        // x, y: [rows, width]
        k.embed(&self.embeddings, &step.tokens, 1.0, &mut w.x);
        if let Some(sentences) = &self.sentences {
            k.embed(sentences, &vec![0; rows], 1.0, &mut w.y);
            k.add(&mut w.x, &w.y, rows * hyper.width);
        }
        self.embeddings_norm.apply(k, &mut w.x, hyper, rows);
        k.angles(&step.positions, &self.frequencies, &mut w.angles);
        for Layer { block, feed_forward } in &self.layers {
            // q, k, v, a: [rows, heads, head]; x, y: [rows, width]
            block.project(k, rows, w);
            let (heads, size, pairs, angles) = (hyper.heads, hyper.head, Pairs::Halves, &w.angles);
            let rotation = Rotation { heads, size, pairs, norm: None, angles };
            k.rotate(&mut w.q, rows, &rotation);
            k.rotate(&mut w.k, rows, &rotation);
            block.attend(k, hyper, step, w);

            // gate, up: [rows, hidden]; x, y: [rows, width]
            let FeedForward { gate, up, down } = feed_forward;
            k.matmul(&w.x, rows, &mut [gate.product(&mut w.gate), up.product(&mut w.up)]);
            k.gate(Gate::Silu, &mut w.gate, &w.up, rows * hyper.hidden);
            k.matmul_add(&w.gate, rows, down.product(&mut w.y), rows * hyper.width, &mut w.x);
            block.output_norm.apply(k, &mut w.x, hyper, rows);
        }
    }
}

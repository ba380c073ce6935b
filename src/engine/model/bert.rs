//! BERT: all-MiniLM, BGE and others. Positions are embeddings, and so is which of two sentences a token belongs to.

use super::encoder::{Block, LayerNorm, Room};
use super::hyper::Hyper;
use super::layers::Linear;
use super::source::Source;
use crate::engine::Error;
use crate::engine::kernels::Step;
use crate::engine::kernels::encoder::EncoderKernels;

/// The weights.
pub struct Bert<M, V> {
    /// [vocabulary, width]
    embeddings: M,
    /// [context, width]
    positions: M,
    /// [sentences, width]; texts are their first.
    sentences: Option<M>,
    embeddings_norm: LayerNorm<V>,
    layers: Vec<Layer<M, V>>,
}

struct Layer<M, V> {
    block: Block<M, V>,
    up: Linear<M, V>,
    down: Linear<M, V>,
}

impl<M, V> Bert<M, V> {
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
                up: Linear::load(source, &format!("blk.{layer}.ffn_up"), hyper.hidden, hyper.width)?,
                down: Linear::load(source, &format!("blk.{layer}.ffn_down"), hyper.width, hyper.hidden)?,
            })
        };
        Ok(Bert {
            layers: (0..hyper.layers).map(layer).collect::<Result<_, Error>>()?,
            embeddings: source.table("token_embd.weight", hyper.vocabulary, hyper.width)?,
            positions: source.table("position_embd.weight", hyper.context, hyper.width)?,
            sentences: match hyper.sentences {
                0 => None,
                sentences => Some(source.table("token_types.weight", sentences, hyper.width)?),
            },
            embeddings_norm: LayerNorm::load(source, "token_embd_norm", hyper.width)?,
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
        let positions: Vec<u32> = step.positions.iter().map(|&position| position as u32).collect();
        k.embed(&self.positions, &positions, 1.0, &mut w.y);
        k.add(&mut w.x, &w.y, rows * hyper.width);
        if let Some(sentences) = &self.sentences {
            k.embed(sentences, &vec![0; rows], 1.0, &mut w.y);
            k.add(&mut w.x, &w.y, rows * hyper.width);
        }
        self.embeddings_norm.apply(k, &mut w.x, hyper, rows);
        for Layer { block, up, down } in &self.layers {
            // q, k, v, a: [rows, heads, head]; x, y: [rows, width]
            block.project(k, rows, w);
            block.attend(k, hyper, step, w);

            // up: [rows, hidden]; x, y: [rows, width]
            k.matmul(&w.x, rows, &mut [up.product(&mut w.up)]);
            k.gelu(&mut w.up, rows * hyper.hidden);
            k.matmul_add(&w.up, rows, down.product(&mut w.y), rows * hyper.width, &mut w.x);
            block.output_norm.apply(k, &mut w.x, hyper, rows);
        }
    }
}

//! Qwen 3: each head's queries and keys are normalised.

use super::hyper::Hyper;
use super::layers::{Block, Ends, View};
use super::rope::Frequencies;
use super::source::Source;
use super::workspace::Workspace;
use crate::engine::Error;
use crate::engine::kernels::{Gate, Kernels, Pairs, Step};

/// The weights.
pub struct Qwen3<M, V> {
    ends: Ends<M, V>,
    layers: Vec<Layer<M, V>>,
    frequencies: Frequencies,
}

struct Layer<M, V> {
    block: Block<M, V>,
    /// [head], of each head.
    query_norm: V,
    /// [head], of each head.
    key_norm: V,
}

impl<M, V> Qwen3<M, V> {
    /// Takes the weights from `source`.
    ///
    /// # Errors
    /// When a tensor is missing or unfit.
    pub fn load<S>(source: &mut S, hyper: &Hyper) -> Result<Self, Error>
    where
        S: Source<Matrix = M, Vector = V>,
    {
        let frequencies = Frequencies::load(source, hyper)?;
        let layer = |layer| {
            Ok(Layer {
                block: Block::load(source, layer, hyper)?,
                query_norm: source.vector(&format!("blk.{layer}.attn_q_norm.weight"), hyper.head)?,
                key_norm: source.vector(&format!("blk.{layer}.attn_k_norm.weight"), hyper.head)?,
            })
        };
        Ok(Qwen3 {
            layers: (0..hyper.layers).map(layer).collect::<Result<_, Error>>()?,
            ends: Ends::load(source, hyper)?,
            frequencies,
        })
    }

    /// The end of the pass.
    pub fn ends(&self) -> &Ends<M, V> {
        &self.ends
    }

    /// Takes the tokens of `step` through all layers, into `w.x` [rows, width].
    pub fn forward<K>(&self, k: &K, hyper: &Hyper, step: &Step, cache: &mut K::Cache, w: &mut Workspace<K>)
    where
        K: Kernels<Matrix = M, Buffer = V>,
    {
        let rows = step.rows();
        // x: [rows, width]
        self.ends.embed(k, step, 1.0, w);
        k.angles(&step.positions, self.frequencies.of(&hyper.rope, w.context), &mut w.angles);
        for (index, layer) in self.layers.iter().enumerate() {
            let block = &layer.block;
            // a: [rows, heads, head]; x, y: [rows, width]
            let view = View {
                norm: &block.attention_norm,
                pairs: Pairs::Halves,
                head_norms: Some([&layer.query_norm, &layer.key_norm]),
                window: None,
                local: false,
            };
            block.heads.attend(k, hyper, step, index, &view, cache, w);
            k.matmul_add(&w.a, rows, block.heads.o.product(&mut w.y), rows * hyper.width, &mut w.x);
            block.heads.o.adapt(k, &w.a, &step.adapted, &mut w.x);

            // gate: [rows, hidden]; x, y: [rows, width]
            block.feed_forward.gated(k, hyper, step, &block.feed_forward_norm, Gate::Silu, w);
            k.matmul_add(&w.gate, rows, block.feed_forward.down.product(&mut w.y), rows * hyper.width, &mut w.x);
            block.feed_forward.down.adapt(k, &w.gate, &step.adapted, &mut w.x);
        }
    }
}

//! Qwen 2 and 2.5: queries, keys and values have biases.

use super::hyper::Hyper;
use super::layers::{Block, Ends, View};
use super::rope::Frequencies;
use super::source::Source;
use super::workspace::Workspace;
use crate::engine::Error;
use crate::engine::kernels::{Gate, Kernels, Pairs, Step};

/// The weights.
pub struct Qwen2<M, V> {
    ends: Ends<M, V>,
    layers: Vec<Block<M, V>>,
    frequencies: Frequencies,
}

impl<M, V> Qwen2<M, V> {
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
            let block = Block::load(source, layer, hyper)?;
            if [&block.heads.q, &block.heads.k, &block.heads.v].iter().any(|linear| linear.bias.is_none()) {
                let problem = format!("blk.{layer} lacks a bias of its queries, keys or values, which qwen2 has");
                return Err(Error::Inconsistent(problem));
            }
            Ok(block)
        };
        Ok(Qwen2 {
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
            // a: [rows, heads, head]; x, y: [rows, width]
            let view = View {
                norm: &layer.attention_norm,
                pairs: Pairs::Halves,
                head_norms: None,
                window: None,
                local: false,
            };
            layer.heads.attend(k, hyper, step, index, &view, cache, w);
            k.matmul_add(&w.a, rows, layer.heads.o.product(&mut w.y), rows * hyper.width, &mut w.x);
            layer.heads.o.adapt(k, &w.a, &step.adapted, &mut w.x);

            // gate: [rows, hidden]; x, y: [rows, width]
            layer.feed_forward.gated(k, hyper, step, &layer.feed_forward_norm, Gate::Silu, w);
            k.matmul_add(&w.gate, rows, layer.feed_forward.down.product(&mut w.y), rows * hyper.width, &mut w.x);
            layer.feed_forward.down.adapt(k, &w.gate, &step.adapted, &mut w.x);
        }
    }
}

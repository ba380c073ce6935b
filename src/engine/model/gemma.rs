//! Gemma 3: most layers look through a sliding window and rotate by frequencies of their own, the others see all.

use super::hyper::Hyper;
use super::layers::{Block, Ends, View};
use super::rope::Frequencies;
use super::source::Source;
use super::workspace::Workspace;
use crate::engine::Error;
use crate::engine::kernels::{Gate, Kernels, Pairs, Step};

/// The weights.
pub struct Gemma3<M, V> {
    ends: Ends<M, V>,
    layers: Vec<Layer<M, V>>,
    /// Of layers that see all.
    frequencies: Frequencies,
    /// Of layers with a window. [head / 2]
    frequencies_windowed: Vec<f64>,
}

/// The norms' weights have the 1 added that Gemma's formula adds: converters do that.
struct Layer<M, V> {
    block: Block<M, V>,
    /// [head], of each head.
    query_norm: V,
    /// [head], of each head.
    key_norm: V,
    /// [width]
    attention_post_norm: V,
    /// [width]
    feed_forward_post_norm: V,
}

impl<M, V> Gemma3<M, V> {
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
            let mut norm = |name: &str, len| source.vector(&format!("blk.{layer}.{name}.weight"), len);
            Ok(Layer {
                block,
                query_norm: norm("attn_q_norm", hyper.head)?,
                key_norm: norm("attn_k_norm", hyper.head)?,
                attention_post_norm: norm("post_attention_norm", hyper.width)?,
                feed_forward_post_norm: norm("post_ffw_norm", hyper.width)?,
            })
        };
        Ok(Gemma3 {
            layers: (0..hyper.layers).map(layer).collect::<Result<_, Error>>()?,
            ends: Ends::load(source, hyper)?,
            frequencies,
            frequencies_windowed: hyper.rope_windowed.frequencies(hyper.head, None),
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
        self.ends.embed(k, step, (hyper.width as f32).sqrt(), w);
        k.angles(&step.positions, self.frequencies.of(&hyper.rope, w.context), &mut w.angles);
        k.angles(&step.positions, &self.frequencies_windowed, &mut w.angles_windowed);
        for (index, Layer { block, query_norm, key_norm, attention_post_norm, feed_forward_post_norm }) in
            self.layers.iter().enumerate()
        {
            // Attention, normalised before and after, as are its queries and keys.
            // a: [rows, heads, head]; x, h, y: [rows, width]
            let windowed = hyper.windowed[index];
            let view = View {
                norm: &block.attention_norm,
                pairs: Pairs::Halves,
                head_norms: Some([query_norm, key_norm]),
                window: hyper.window.filter(|_| windowed),
                local: windowed,
            };
            block.heads.attend(k, hyper, step, index, &view, cache, w);
            k.matmul(&w.a, rows, &mut [block.heads.o.product(&mut w.y)]);
            block.heads.o.adapt(k, &w.a, &step.adapted, &mut w.y);
            k.norm(&w.y, attention_post_norm, hyper.eps, rows, &mut w.h);
            k.add(&mut w.x, &w.h, rows * hyper.width);

            // Feed-forward, normalised before and after. gate: [rows, hidden]; x, h, y: [rows, width]
            block.feed_forward.gated(k, hyper, step, &block.feed_forward_norm, Gate::Gelu, w);
            k.matmul(&w.gate, rows, &mut [block.feed_forward.down.product(&mut w.y)]);
            block.feed_forward.down.adapt(k, &w.gate, &step.adapted, &mut w.y);
            k.norm(&w.y, feed_forward_post_norm, hyper.eps, rows, &mut w.h);
            k.add(&mut w.x, &w.h, rows * hyper.width);
        }
    }
}

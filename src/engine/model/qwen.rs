//! Qwen 2 and 2.5.

use super::hyper::Hyper;
use super::layers::{Ends, FeedForward, Heads, frequencies};
use super::source::Source;
use super::workspace::Workspace;
use crate::engine::Error;
use crate::engine::kernels::{Attention, Gate, Kernels, Pairs, Rotation, Step};

/// The weights.
pub struct Qwen2<M, V> {
    ends: Ends<M, V>,
    layers: Vec<Layer<M, V>>,
    /// [head / 2]
    frequencies: Vec<f64>,
}

struct Layer<M, V> {
    attention_norm: V,
    heads: Heads<M, V>,
    feed_forward_norm: V,
    feed_forward: FeedForward<M, V>,
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
        let layer = |layer| {
            let heads = Heads::load(source, layer, hyper)?;
            if heads.q.bias.is_none() || heads.k.bias.is_none() || heads.v.bias.is_none() {
                let problem = format!("blk.{layer} lacks a bias of its queries, keys or values, which qwen2 has");
                return Err(Error::Inconsistent(problem));
            }
            Ok(Layer {
                attention_norm: source.vector(&format!("blk.{layer}.attn_norm.weight"), hyper.width)?,
                heads,
                feed_forward_norm: source.vector(&format!("blk.{layer}.ffn_norm.weight"), hyper.width)?,
                feed_forward: FeedForward::load(source, layer, hyper)?,
            })
        };
        let layers = (0..hyper.layers).map(layer).collect::<Result<_, Error>>()?;
        Ok(Qwen2 {
            ends: Ends::load(source, hyper)?,
            layers,
            frequencies: frequencies(hyper.head, hyper.rope_base, hyper.rope_scale, None),
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
        k.angles(&step.positions, &self.frequencies, &mut w.angles);
        for (index, layer) in self.layers.iter().enumerate() {
            // Attention, with biases. h: [rows, width]; q, a: [rows, heads, head]; k, v: [rows, kv heads, head]
            let (heads, norm) = (&layer.heads, (&layer.attention_norm, hyper.eps));
            let products = &mut [heads.q.product(&mut w.q), heads.k.product(&mut w.k), heads.v.product(&mut w.v)];
            k.norm_matmul(&w.x, norm, rows, &mut w.h, products);
            let rotation =
                |heads| Rotation { heads, size: hyper.head, pairs: Pairs::Halves, norm: None, angles: &w.angles };
            let rotations = [&rotation(hyper.heads), &rotation(hyper.kv_heads)];
            k.rotate_store([&mut w.q, &mut w.k, &mut w.v], rotations, step, index, cache);
            let attention = Attention {
                heads: hyper.heads,
                scale: hyper.attention_scale,
                window: None,
                softcap: hyper.attention_softcap,
            };
            k.attend(&w.q, cache, index, step, &attention, &mut w.a);
            k.matmul_add(&w.a, rows, heads.o.product(&mut w.y), rows * hyper.width, &mut w.x);

            // Feed-forward. h, y: [rows, width]; gate, up: [rows, hidden]
            let (feed_forward, norm) = (&layer.feed_forward, (&layer.feed_forward_norm, hyper.eps));
            let products = [feed_forward.gate.product(&mut w.gate), feed_forward.up.product(&mut w.up)];
            k.norm_gate(&w.x, norm, rows, &mut w.h, Gate::Silu, products, rows * hyper.hidden);
            k.matmul_add(&w.gate, rows, feed_forward.down.product(&mut w.y), rows * hyper.width, &mut w.x);
        }
    }
}

//! Gemma 3: most layers look through a sliding window and rotate by frequencies of their own, the others see all.

use super::hyper::Hyper;
use super::layers::{Ends, FeedForward, Heads, frequencies};
use super::source::Source;
use super::workspace::Workspace;
use crate::engine::Error;
use crate::engine::kernels::{Attention, Gate, Kernels, Pairs, Rotation, Step};

/// The weights.
pub struct Gemma3<M, V> {
    ends: Ends<M, V>,
    layers: Vec<Layer<M, V>>,
    /// Of layers that see all. [head / 2]
    frequencies: Vec<f64>,
    /// Of layers with a window. [head / 2]
    frequencies_windowed: Vec<f64>,
}

/// The norms' weights have the 1 added that Gemma's formula adds: converters do that.
struct Layer<M, V> {
    attention_norm: V,
    heads: Heads<M, V>,
    /// [head], of each head.
    query_norm: V,
    /// [head], of each head.
    key_norm: V,
    attention_post_norm: V,
    feed_forward_norm: V,
    feed_forward: FeedForward<M, V>,
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
        let layer = |layer| {
            let heads = Heads::load(source, layer, hyper)?;
            let feed_forward = FeedForward::load(source, layer, hyper)?;
            let mut norm = |name: &str, len| source.vector(&format!("blk.{layer}.{name}.weight"), len);
            Ok(Layer {
                attention_norm: norm("attn_norm", hyper.width)?,
                heads,
                query_norm: norm("attn_q_norm", hyper.head)?,
                key_norm: norm("attn_k_norm", hyper.head)?,
                attention_post_norm: norm("post_attention_norm", hyper.width)?,
                feed_forward_norm: norm("ffn_norm", hyper.width)?,
                feed_forward,
                feed_forward_post_norm: norm("post_ffw_norm", hyper.width)?,
            })
        };
        let layers = (0..hyper.layers).map(layer).collect::<Result<_, Error>>()?;
        Ok(Gemma3 {
            ends: Ends::load(source, hyper)?,
            layers,
            frequencies: frequencies(hyper.head, hyper.rope_base, hyper.rope_scale, None),
            // Only what sees far is stretched.
            frequencies_windowed: frequencies(hyper.head, hyper.rope_base_windowed, 1.0, None),
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
        k.angles(&step.positions, &self.frequencies, &mut w.angles);
        k.angles(&step.positions, &self.frequencies_windowed, &mut w.angles_windowed);
        for (index, layer) in self.layers.iter().enumerate() {
            let windowed = hyper.windowed[index];
            let angles = if windowed { &w.angles_windowed } else { &w.angles };

            // Attention, normalised before and after, as are its queries and keys.
            // h, y: [rows, width]; q, a: [rows, heads, head]; k, v: [rows, kv heads, head]
            let (heads, norm) = (&layer.heads, (&layer.attention_norm, hyper.eps));
            let products = &mut [heads.q.product(&mut w.q), heads.k.product(&mut w.k), heads.v.product(&mut w.v)];
            k.norm_matmul(&w.x, norm, rows, &mut w.h, products);
            let rotation = |heads, norm| Rotation {
                heads,
                size: hyper.head,
                pairs: Pairs::Halves,
                norm: Some((norm, hyper.eps)),
                angles,
            };
            let rotations = [&rotation(hyper.heads, &layer.query_norm), &rotation(hyper.kv_heads, &layer.key_norm)];
            k.rotate_store([&mut w.q, &mut w.k, &mut w.v], rotations, step, index, cache);
            let attention = Attention {
                heads: hyper.heads,
                scale: hyper.attention_scale,
                window: hyper.window.filter(|_| windowed),
                softcap: hyper.attention_softcap,
            };
            k.attend(&w.q, cache, index, step, &attention, &mut w.a);
            k.matmul(&w.a, rows, &mut [heads.o.product(&mut w.y)]);
            k.norm(&w.y, &layer.attention_post_norm, hyper.eps, rows, &mut w.h);
            k.add(&mut w.x, &w.h, rows * hyper.width);

            // Feed-forward, normalised before and after. h, y: [rows, width]; gate, up: [rows, hidden]
            let (feed_forward, norm) = (&layer.feed_forward, (&layer.feed_forward_norm, hyper.eps));
            let products = [feed_forward.gate.product(&mut w.gate), feed_forward.up.product(&mut w.up)];
            k.norm_gate(&w.x, norm, rows, &mut w.h, Gate::Gelu, products, rows * hyper.hidden);
            k.matmul(&w.gate, rows, &mut [feed_forward.down.product(&mut w.y)]);
            k.norm(&w.y, &layer.feed_forward_post_norm, hyper.eps, rows, &mut w.h);
            k.add(&mut w.x, &w.h, rows * hyper.width);
        }
    }
}

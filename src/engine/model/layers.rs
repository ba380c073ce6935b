//! What the architectures share: linear maps, the weights of attention and of the feed-forward network, the output.
//!
//! All are generic over what a matrix `M` and a vector `V` are: on a device that computes with them, or nothing at all
//! where a header is only checked.

use super::hyper::Hyper;
use super::source::Source;
use super::workspace::Workspace;
use crate::engine::Error;
use crate::engine::kernels::{Adapted, Attention, Gate, Kernels, LowRank, Pairs, Product, Rotation, Step};

/// A matrix, and what is added to its products.
pub struct Linear<M, V> {
    /// [out features, in features]
    pub weight: M,
    /// [out features]
    pub bias: Option<V>,
    /// What adapters add, by their numbers; none of those that leave this map as it is.
    pub low: Vec<Option<LowRank<V>>>,
}

impl<M, V> Linear<M, V> {
    /// `name.weight`, and `name.bias` if there is one.
    ///
    /// # Errors
    /// When the weight is missing or either is unfit.
    pub fn load<S>(source: &mut S, name: &str, outputs: usize, inputs: usize) -> Result<Self, Error>
    where
        S: Source<Matrix = M, Vector = V>,
    {
        Ok(Linear {
            weight: source.matrix(&format!("{name}.weight"), outputs, inputs)?,
            bias: source.find_vector(&format!("{name}.bias"), outputs)?,
            low: source.low(name, outputs, inputs)?,
        })
    }

    /// The product with activations, into `out`.
    pub fn product<'a, K>(&'a self, out: &'a mut K::Buffer) -> Product<'a, K>
    where
        K: Kernels<Matrix = M, Buffer = V>,
    {
        Product { matrix: &self.weight, bias: self.bias.as_ref(), out }
    }

    /// Adds to `out`, in the rows that adapters are for, what they add to the product with `x`.
    pub fn adapt<K>(&self, k: &K, x: &K::Buffer, adapted: &[Adapted], out: &mut K::Buffer)
    where
        K: Kernels<Matrix = M, Buffer = V>,
    {
        for Adapted { adapter, rows } in adapted {
            if let Some(Some(low)) = self.low.get(*adapter) {
                k.add_low_rank(x, low, rows, out);
            }
        }
    }
}

/// The projections of attention.
pub struct Heads<M, V> {
    /// To queries.
    pub q: Linear<M, V>,
    /// To keys.
    pub k: Linear<M, V>,
    /// To values.
    pub v: Linear<M, V>,
    /// From the heads' results.
    pub o: Linear<M, V>,
}

impl<M, V> Heads<M, V> {
    /// Those of a layer.
    ///
    /// # Errors
    /// When a tensor is missing or unfit.
    pub fn load<S>(source: &mut S, layer: usize, hyper: &Hyper) -> Result<Self, Error>
    where
        S: Source<Matrix = M, Vector = V>,
    {
        let (width, queries, keys) = (hyper.width, hyper.queries(), hyper.keys());
        // Some files have the first three in one.
        let fused = format!("blk.{layer}.attn_qkv.weight");
        let mut at = 0;
        let mut projection = |name: &str, outputs: usize| {
            let rows = at..at + outputs;
            at = rows.end;
            let name = format!("blk.{layer}.{name}");
            match source.find_rows(&fused, rows, queries + 2 * keys, width)? {
                Some(weight) => Ok(Linear { weight, bias: None, low: source.low(&name, outputs, width)? }),
                None => Linear::load(source, &name, outputs, width),
            }
        };
        Ok::<_, Error>(Heads {
            q: projection("attn_q", queries)?,
            k: projection("attn_k", keys)?,
            v: projection("attn_v", keys)?,
            o: Linear::load(source, &format!("blk.{layer}.attn_output"), width, queries)?,
        })
    }

    /// What the step's tokens see in their conversations, which they join in this layer: from `w.x`, normalised, into
    /// `w.a` [rows, heads, head].
    pub fn attend<K>(
        &self,
        k: &K,
        hyper: &Hyper,
        step: &Step,
        layer: usize,
        view: &View<'_, V>,
        cache: &mut K::Cache,
        w: &mut Workspace<K>,
    ) where
        K: Kernels<Matrix = M, Buffer = V>,
    {
        // h: [rows, width]; q, a: [rows, heads, head]; k, v: [rows, kv heads, head]
        let products = &mut [self.q.product(&mut w.q), self.k.product(&mut w.k), self.v.product(&mut w.v)];
        k.norm_matmul(&w.x, (view.norm, hyper.eps), step.rows(), &mut w.h, products);
        for (linear, out) in [(&self.q, &mut w.q), (&self.k, &mut w.k), (&self.v, &mut w.v)] {
            linear.adapt(k, &w.h, &step.adapted, out);
        }
        let (rope, angles) = match view.local {
            true => (&hyper.rope_windowed, &w.angles_windowed),
            false => (&hyper.rope, &w.angles),
        };
        let norms = view.head_norms.map_or([None; 2], |norms| norms.map(|norm| Some((norm, hyper.eps))));
        let rotation =
            |heads, norm: usize| Rotation { heads, size: hyper.head, pairs: view.pairs, norm: norms[norm], angles };
        let rotations = [&rotation(hyper.heads, 0), &rotation(hyper.kv_heads, 1)];
        let attention = Attention {
            heads: hyper.heads,
            scale: hyper.attention_scale * rope.gain(),
            window: view.window,
            softcap: hyper.attention_softcap,
        };
        let heads = [&mut w.q, &mut w.k, &mut w.v];
        k.rotate_attend(heads, rotations, (layer, step), cache, &attention, &mut w.a);
    }
}

/// How a layer looks at its conversation.
pub struct View<'a, V> {
    /// The weight of the norm before it. [width]
    pub norm: &'a V,
    /// Which dimensions of a head are rotated together.
    pub pairs: Pairs,
    /// The weights by which each head's queries and keys are normalised. [head] each
    pub head_norms: Option<[&'a V; 2]>,
    /// How many positions a token sees, if not all up to it.
    pub window: Option<usize>,
    /// Whether it turns by the angles of layers with a window.
    pub local: bool,
}

/// A gated feed-forward network.
pub struct FeedForward<M, V> {
    /// To what the gate's function is applied to.
    pub gate: Linear<M, V>,
    /// To what it is multiplied with.
    pub up: Linear<M, V>,
    /// Back.
    pub down: Linear<M, V>,
}

impl<M, V> FeedForward<M, V> {
    /// That of a layer.
    ///
    /// # Errors
    /// When a tensor is missing or unfit.
    pub fn load<S>(source: &mut S, layer: usize, hyper: &Hyper) -> Result<Self, Error>
    where
        S: Source<Matrix = M, Vector = V>,
    {
        Ok(FeedForward {
            gate: Linear::load(source, &format!("blk.{layer}.ffn_gate"), hyper.hidden, hyper.width)?,
            up: Linear::load(source, &format!("blk.{layer}.ffn_up"), hyper.hidden, hyper.width)?,
            down: Linear::load(source, &format!("blk.{layer}.ffn_down"), hyper.width, hyper.hidden)?,
        })
    }

    /// What goes back down: from `w.x`, normalised, into `w.gate` [rows, hidden].
    pub fn gated<K>(&self, k: &K, hyper: &Hyper, step: &Step, norm: &V, function: Gate, w: &mut Workspace<K>)
    where
        K: Kernels<Matrix = M, Buffer = V>,
    {
        let (rows, norm, len) = (step.rows(), (norm, hyper.eps), step.rows() * hyper.hidden);
        let mut products = [self.gate.product(&mut w.gate), self.up.product(&mut w.up)];
        if step.adapted.is_empty() {
            k.norm_gate(&w.x, norm, rows, &mut w.h, function, products, len);
            return;
        }
        k.norm_matmul(&w.x, norm, rows, &mut w.h, &mut products);
        self.gate.adapt(k, &w.h, &step.adapted, &mut w.gate);
        self.up.adapt(k, &w.h, &step.adapted, &mut w.up);
        k.gate(function, &mut w.gate, &w.up, len);
    }
}

/// The parts that every decoder's layer has: attention and a feed-forward network, each normalised before.
pub struct Block<M, V> {
    /// [width]
    pub attention_norm: V,
    /// The projections of attention.
    pub heads: Heads<M, V>,
    /// [width]
    pub feed_forward_norm: V,
    /// The feed-forward network.
    pub feed_forward: FeedForward<M, V>,
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
            attention_norm: source.vector(&format!("blk.{layer}.attn_norm.weight"), hyper.width)?,
            heads: Heads::load(source, layer, hyper)?,
            feed_forward_norm: source.vector(&format!("blk.{layer}.ffn_norm.weight"), hyper.width)?,
            feed_forward: FeedForward::load(source, layer, hyper)?,
        })
    }
}

/// The table of embeddings, and the way back from activations to tokens.
pub struct Ends<M, V> {
    /// [vocabulary, width]
    embeddings: M,
    /// [width]
    norm: V,
    /// [vocabulary, width]; the same weights as the embeddings' where a file has no others.
    output: Linear<M, V>,
}

impl<M, V> Ends<M, V> {
    /// Those of a model.
    ///
    /// # Errors
    /// When a tensor is missing or unfit.
    pub fn load<S>(source: &mut S, hyper: &Hyper) -> Result<Self, Error>
    where
        S: Source<Matrix = M, Vector = V>,
    {
        let (vocabulary, width) = (hyper.vocabulary, hyper.width);
        let low = source.low("output", vocabulary, width)?;
        Ok(Ends {
            embeddings: source.table("token_embd.weight", vocabulary, width)?,
            norm: source.vector("output_norm.weight", width)?,
            output: match source.find_matrix("output.weight", vocabulary, width)? {
                Some(weight) => Linear { weight, bias: source.find_vector("output.bias", vocabulary)?, low },
                None => Linear { weight: source.matrix("token_embd.weight", vocabulary, width)?, bias: None, low },
            },
        })
    }

    /// Activations of a step's tokens, into `w.x` [rows, width].
    pub fn embed<K>(&self, k: &K, step: &Step, scale: f32, w: &mut Workspace<K>)
    where
        K: Kernels<Matrix = M, Buffer = V>,
    {
        k.embed(&self.embeddings, &step.tokens, scale, &mut w.x);
    }

    /// What the last layer gives for those rows of `w.x`, normalised, into `w.h` [rows, width].
    pub fn states<K>(&self, k: &K, hyper: &Hyper, rows: &[usize], w: &mut Workspace<K>)
    where
        K: Kernels<Matrix = M, Buffer = V>,
    {
        k.gather(&w.x, rows, hyper.width, &mut w.y);
        k.norm(&w.y, &self.norm, hyper.eps, rows.len(), &mut w.h);
    }

    /// Logits of those rows of `w.x`, into `w.logits` [rows, vocabulary].
    pub fn logits<K>(&self, k: &K, hyper: &Hyper, step: &Step, rows: &[usize], w: &mut Workspace<K>)
    where
        K: Kernels<Matrix = M, Buffer = V>,
    {
        // [rows, width] -> [rows, width] -> [rows, vocabulary]
        k.gather(&w.x, rows, hyper.width, &mut w.y);
        let products = &mut [self.output.product(&mut w.logits)];
        k.norm_matmul(&w.y, (&self.norm, hyper.eps), rows.len(), &mut w.h, products);
        self.output.adapt(k, &w.h, &step.adapted_among(rows), &mut w.logits);
        if let Some(cap) = hyper.logit_softcap {
            k.softcap(&mut w.logits, cap, rows.len() * hyper.vocabulary);
        }
    }
}

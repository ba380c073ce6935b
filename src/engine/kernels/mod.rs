//! The engine's lower waist: the operations that a device offers. A forward pass is written in them once and runs on
//! every device.
//!
//! Activations are rows of floats in a [`Kernels::Buffer`] where the device works; a row is a token. Buffers are as long
//! as the largest step needs, so every operation is told how many rows it is about.

pub mod cpu;
pub mod cuda;
pub mod encoder;
mod results;

pub use results::Results;

use super::blocks;
use super::quant::Format;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of weights where they lie, such as in a mapped file.
pub type Weights = Arc<dyn Bytes>;

/// Bytes that lie somewhere.
pub trait Bytes: AsRef<[u8]> + Send + Sync {
    /// That range is read next: what is mapped had better be in memory.
    fn fetch(&self, _range: Range<usize>) {}

    /// That range isn't read for a while: what is mapped needs to occupy no memory.
    fn forget(&self, _range: Range<usize>) {}

    /// Whether they lie in a mapped file, so that what was forgotten takes no memory.
    fn is_mapped(&self) -> bool {
        false
    }
}

impl Bytes for Vec<u8> {}

/// The memory that something needs is not to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes of memory for {what} are not to be had")]
pub struct OutOfMemory {
    /// What it was for.
    pub what: &'static str,
    /// How much.
    pub bytes: u64,
}

/// How the numbers of keys and values are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KvKind {
    /// As halves.
    #[default]
    F16,
    /// In eight bits: four of exponent, three of mantissa. Not rotated: that made Qwen 2.5's answers seven times as wrong.
    Fp8,
    /// In four bits, 32 with a scale, after a rotation that spreads what stands out.
    Q4,
}

impl KvKind {
    /// All kinds.
    pub const ALL: [KvKind; 3] = [KvKind::F16, KvKind::Fp8, KvKind::Q4];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            KvKind::F16 => "f16",
            KvKind::Fp8 => "fp8",
            KvKind::Q4 => "q4",
        }
    }

    /// Bytes of the key or value of a head of `size` dimensions.
    pub fn row_bytes(self, size: usize) -> usize {
        match self {
            KvKind::F16 => 2 * size,
            KvKind::Fp8 => size,
            KvKind::Q4 => size.div_ceil(32) * 18,
        }
    }

    /// Whether heads of so many dimensions can be stored so.
    pub fn fits(self, size: usize) -> bool {
        self != KvKind::Q4 || size.is_multiple_of(32)
    }
}

/// How large a cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers, each with keys and values of its own.
    pub layers: usize,
    /// Blocks of so many positions each: [`BLOCK`](super::blocks::BLOCK).
    pub blocks: usize,
    /// Heads of keys and values.
    pub heads: usize,
    /// Dimensions of a head.
    pub size: usize,
    /// How its numbers are stored.
    pub kind: KvKind,
}

impl CacheShape {
    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        self.layers * self.heads * 2 * blocks::BLOCK * self.kind.row_bytes(self.size)
    }
}

/// The tokens of a step, by row.
#[derive(Debug, Clone, Default)]
pub struct Step<'a> {
    /// What they are.
    pub tokens: Vec<u32>,
    /// Whose conversation each belongs to. Tokens of a slot that follow each other here follow each other there.
    pub slots: Vec<usize>,
    /// Where in the conversation.
    pub positions: Vec<usize>,
    /// The rows that logits are wanted of.
    pub wanted: Vec<usize>,
    /// The rows that adapters add to; none of those that the model alone answers.
    pub adapted: Vec<Adapted>,
    /// Of each slot, the cache's blocks in which its positions lie.
    pub tables: &'a [Vec<u32>],
}

/// The rows of a step that an adapter adds to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapted {
    /// Which of the model's adapters.
    pub adapter: usize,
    /// The rows, ascending.
    pub rows: Vec<usize>,
}

impl Step<'_> {
    /// How many tokens there are.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// What adapters add to where these rows alone go on, in their order, which is ascending.
    pub fn adapted_among(&self, rows: &[usize]) -> Vec<Adapted> {
        let among = |Adapted { adapter, rows: all }: &Adapted| {
            let rows = (0..rows.len()).filter(|&at| all.binary_search(&rows[at]).is_ok()).collect();
            Adapted { adapter: *adapter, rows }
        };
        self.adapted.iter().map(among).collect()
    }
}

/// One of several products with the same activations: `out[row] = matrix * x[row] + bias`.
pub struct Product<'a, K: Kernels> {
    /// The weights, [out features, in features].
    pub matrix: &'a K::Matrix,
    /// [out features]
    pub bias: Option<&'a K::Buffer>,
    /// [rows, out features]
    pub out: &'a mut K::Buffer,
}

/// What an adapter adds to the products of a matrix: `b * (a * x)`.
pub struct LowRank<V> {
    /// How many numbers there are in between.
    pub rank: usize,
    /// [rank, in features]
    pub a: V,
    /// [rank, out features], with the adapter's scale in it.
    pub b: V,
}

/// Which dimensions of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// 2i with 2i + 1: how GGUF stores Llama's heads.
    Adjacent,
    /// i with i + size / 2.
    Halves,
}

/// How a buffer of heads is to be rotated.
pub struct Rotation<'a, K: Kernels> {
    /// Heads in a row.
    pub heads: usize,
    /// Dimensions of a head.
    pub size: usize,
    /// Which of them are paired.
    pub pairs: Pairs,
    /// [rows, size / 2] cosines and sines, from [`Kernels::angles`].
    pub angles: &'a K::Buffer,
    /// The weight [size] and epsilon by which each head is normalised first.
    pub norm: Option<(&'a K::Buffer, f32)>,
}

/// How attention is computed.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Heads of queries: a multiple of the cache's heads, which serve as many each.
    pub heads: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// How many positions a token sees, itself included; all up to it unless said.
    pub window: Option<usize>,
    /// Scores are squashed to within this: `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

/// The activation function of a gated feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// x * sigmoid(x)
    Silu,
    /// GELU in its approximation by tanh.
    Gelu,
}

/// A device.
pub trait Kernels: Send + Sync + Sized {
    /// Floats.
    type Buffer: Send + Sync;
    /// Weights of a linear map, or a table of embeddings, as a file stores them.
    type Matrix: Send + Sync;
    /// Keys and values of all layers, in blocks.
    type Cache: Send + Sync;

    /// A buffer of `len` zeros.
    ///
    /// # Errors
    /// The device has no room.
    fn buffer(&self, len: usize) -> Result<Self::Buffer, OutOfMemory>;

    /// A buffer of so many rows of zeros that products are computed of: with whatever else the device needs for that.
    ///
    /// # Errors
    /// The device has no room.
    fn activations(&self, rows: usize, width: usize) -> Result<Self::Buffer, OutOfMemory> {
        self.buffer(rows * width)
    }

    /// A buffer of these numbers.
    ///
    /// # Errors
    /// The device has no room.
    fn upload(&self, values: &[f32]) -> Result<Self::Buffer, OutOfMemory>;

    /// Appends the first `len` numbers of a buffer to `out`.
    fn read(&self, x: &Self::Buffer, len: usize, out: &mut Vec<f32>);

    /// The same, and whether all of those are numbers.
    fn land(&self, x: &Self::Buffer, len: usize, out: &mut Results) -> bool {
        let out = out.here();
        let before = out.len();
        self.read(x, len, out);
        // A stretch at a time: who leaves at the first that is none looks at one at a time.
        let sound = |stretch: &[f32]| stretch.iter().fold(true, |sound, value| sound & value.is_finite());
        out[before..].chunks(4096).all(sound)
    }

    /// The first `len` numbers of a buffer.
    fn download(&self, x: &Self::Buffer, len: usize) -> Vec<f32> {
        let mut out = Vec::new();
        self.read(x, len, &mut out);
        out
    }

    /// Whether matrices and tables of this format are computed with.
    fn computes(&self, _format: Format) -> bool {
        true
    }

    /// A matrix of `rows` times `cols` weights, row by row.
    ///
    /// # Errors
    /// The device has no room.
    fn matrix(&self, weights: Weights, format: Format, rows: usize, cols: usize) -> Result<Self::Matrix, OutOfMemory>;

    /// A matrix or table with all weights multiplied: what goes with [`Format::NVFP4`], whose own scales are narrow.
    /// None where the device does not do that.
    fn scaled(&self, matrix: Self::Matrix, by: f32) -> Option<Self::Matrix>;

    /// A table of embeddings, which rows are looked up in and which nothing is multiplied with.
    ///
    /// # Errors
    /// The device has no room.
    fn table(&self, weights: Weights, format: Format, rows: usize, cols: usize) -> Result<Self::Matrix, OutOfMemory> {
        self.matrix(weights, format, rows, cols)
    }

    /// Returns when all is as quick as it will be: matrices may be laid out anew while they are computed with.
    fn settle(&self) {}

    /// An empty cache.
    ///
    /// # Errors
    /// The device has no room.
    fn cache(&self, shape: CacheShape) -> Result<Self::Cache, OutOfMemory>;

    /// Makes one block of a cache what another one is.
    fn copy_block(&self, cache: &mut Self::Cache, copy: blocks::Copy);

    /// Rows of a step at most: enough that reading the weights is amortised.
    fn rows_at_once(&self) -> usize {
        256
    }

    /// Does the operations of a pass. They are the same, on the same buffers, for every step of the same `owner` with as
    /// many rows and as many wanted: a device may record them once and repeat that.
    fn pass(&self, _step: &Step, _owner: u64, mut operations: impl FnMut()) {
        operations();
    }

    /// `out[row] = table[tokens[row]] * scale`
    fn embed(&self, table: &Self::Matrix, tokens: &[u32], scale: f32, out: &mut Self::Buffer);

    /// `out[row] = x[row] / rms(x[row]) * weight`
    fn norm(&self, x: &Self::Buffer, weight: &Self::Buffer, eps: f32, rows: usize, out: &mut Self::Buffer);

    /// All products of the same activations at once.
    fn matmul(&self, x: &Self::Buffer, rows: usize, products: &mut [Product<'_, Self>]);

    /// The products of `x` normalised; `h` is room for that. [rows, in features]
    fn norm_matmul(
        &self,
        x: &Self::Buffer,
        (weight, eps): (&Self::Buffer, f32),
        rows: usize,
        h: &mut Self::Buffer,
        products: &mut [Product<'_, Self>],
    ) {
        self.norm(x, weight, eps, rows, h);
        self.matmul(h, rows, products);
    }

    /// `gate = function(gate) * up` of the products of `x` normalised; `h` is room for that, and the second product's
    /// `out` for what it gives.
    fn norm_gate(
        &self,
        x: &Self::Buffer,
        norm: (&Self::Buffer, f32),
        rows: usize,
        h: &mut Self::Buffer,
        function: Gate,
        mut products: [Product<'_, Self>; 2],
        len: usize,
    ) {
        self.norm_matmul(x, norm, rows, h, &mut products);
        let [gate, up] = products;
        self.gate(function, gate.out, up.out, len);
    }

    /// `sum[row] += matrix * x[row] + bias`. The product's own `out` is room for what is added.
    fn matmul_add(
        &self,
        x: &Self::Buffer,
        rows: usize,
        product: Product<'_, Self>,
        len: usize,
        sum: &mut Self::Buffer,
    ) {
        let Product { matrix, bias, out } = product;
        self.matmul(x, rows, &mut [Product { matrix, bias, out: &mut *out }]);
        self.add(sum, out, len);
    }

    /// What an adapter adds to a matrix: `a` is [rank, in features], `b` [rank, out features]. None where the device does not
    /// do that.
    fn low_rank(&self, _rank: usize, _a: Vec<f32>, _b: Vec<f32>) -> Option<LowRank<Self::Buffer>> {
        None
    }

    /// `out[row] += b * (a * x[row])` for these rows. Where there are adapters, the products of normalised activations
    /// leave those in the room that they were given.
    fn add_low_rank(&self, _x: &Self::Buffer, _low: &LowRank<Self::Buffer>, _rows: &[usize], _out: &mut Self::Buffer) {
        unreachable!("a device that makes nothing of low rank is given nothing of it")
    }

    /// Cosine and sine of every position times every frequency, in pairs: [positions, frequencies, 2].
    fn angles(&self, positions: &[usize], frequencies: &[f64], out: &mut Self::Buffer);

    /// Normalises heads if asked, then rotates them by their positions' angles.
    fn rotate(&self, x: &mut Self::Buffer, rows: usize, rotation: &Rotation<'_, Self>);

    /// Puts the keys and values of a step [rows, heads, size] where its slots and positions say.
    fn store(&self, k: &Self::Buffer, v: &Self::Buffer, step: &Step, layer: usize, cache: &mut Self::Cache);

    /// Rotates queries and keys, and puts keys and values into the cache.
    fn rotate_store(
        &self,
        [q, k, v]: [&mut Self::Buffer; 3],
        [of_q, of_k]: [&Rotation<'_, Self>; 2],
        step: &Step,
        layer: usize,
        cache: &mut Self::Cache,
    ) {
        self.rotate(q, step.rows(), of_q);
        self.rotate(k, step.rows(), of_k);
        self.store(k, v, step, layer, cache);
    }

    /// `out[row, head] = softmax(scale * q[row, head] * keys) * values`, over the positions of its slot that it sees.
    fn attend(
        &self,
        q: &Self::Buffer,
        cache: &Self::Cache,
        layer: usize,
        step: &Step,
        attention: &Attention,
        out: &mut Self::Buffer,
    );

    /// Rotates queries and keys, puts keys and values into the cache, and attends.
    fn rotate_attend(
        &self,
        [q, k, v]: [&mut Self::Buffer; 3],
        rotations: [&Rotation<'_, Self>; 2],
        (layer, step): (usize, &Step),
        cache: &mut Self::Cache,
        attention: &Attention,
        out: &mut Self::Buffer,
    ) {
        self.rotate_store([&mut *q, k, v], rotations, step, layer, cache);
        self.attend(q, cache, layer, step, attention, out);
    }

    /// `gate = function(gate) * up`, for the first `len` numbers.
    fn gate(&self, function: Gate, gate: &mut Self::Buffer, up: &Self::Buffer, len: usize);

    /// `x += y`, for the first `len` numbers.
    fn add(&self, x: &mut Self::Buffer, y: &Self::Buffer, len: usize);

    /// `out[i] = x[rows[i]]`, rows being `width` long.
    fn gather(&self, x: &Self::Buffer, rows: &[usize], width: usize, out: &mut Self::Buffer);

    /// `x = cap * tanh(x / cap)`, for the first `len` numbers.
    fn softcap(&self, x: &mut Self::Buffer, cap: f32, len: usize);
}

use super::Machine;
use crate::engine::footprint::Footprint;
use crate::engine::gguf::{Header, Tensor};
use crate::engine::model::Hyper;
use crate::engine::quant::Format;

/// What a pass of a model has to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// Bytes of weights that it reads: all but a table of embeddings that serves for nothing else.
    pub bytes: u64,
    /// Bytes of keys and values that a token reads of each position.
    position_bytes: f64,
    /// What a token takes in all layers.
    layers: Operations,
    /// What the logits of a token take.
    head: Operations,
    /// Operations with one position, and how many a layer sees at most, for each layer.
    attention: Vec<(f64, Option<usize>)>,
}

/// Multiplications and additions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Operations {
    int8: f64,
    float32: f64,
}

impl Operations {
    fn of<'a>(matrices: impl Iterator<Item = &'a Tensor>) -> Self {
        matrices.fold(Self::default(), |mut sum, matrix| {
            let count = 2.0 * matrix.elements() as f64;
            match Format::of(matrix.kind) {
                Some(Format::F32 | Format::F16 | Format::BF16) | None => sum.float32 += count,
                Some(_) => sum.int8 += count,
            }
            sum
        })
    }
}

/// What a token costs in some test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Bytes that are read.
    pub bytes: f64,
    operations: Operations,
}

impl Work {
    /// Of a model of this shape.
    pub fn of(header: &Header, hyper: &Hyper) -> Work {
        let separate = header.tensor("output.weight").is_some();
        let read = || header.tensors().iter().filter(|tensor| !(separate && tensor.name == "token_embd.weight"));
        let matrices = || read().filter(|tensor| tensor.dims.len() > 1);
        let is_head = |tensor: &&Tensor| ["output.weight", "token_embd.weight"].contains(&tensor.name.as_str());
        // A product with a key and one with a value, for each head.
        let attention = 4.0 * (hyper.heads * hyper.head) as f64;
        Work {
            bytes: read().map(|tensor| tensor.bytes).sum(),
            position_bytes: Footprint::of(header).kv_per_token as f64,
            layers: Operations::of(matrices().filter(|tensor| !is_head(tensor))),
            head: Operations::of(matrices().filter(is_head)),
            attention: hyper.windowed.iter().map(|&windowed| (attention, hyper.window.filter(|_| windowed))).collect(),
        }
    }

    /// What a token of a prompt of `tokens` behind `depth` others costs, which passes of `chunk` tokens read.
    pub fn prefill(&self, depth: usize, tokens: usize, chunk: usize) -> Cost {
        let seen = depth as f64 + tokens as f64 / 2.0;
        // A pass reads the weights once, and what lies in the cache once. Only the last token's logits are wanted.
        let passes = tokens.div_ceil(chunk) as f64;
        let bytes = passes * (self.bytes as f64 + self.position_bytes * seen) / tokens as f64;
        Cost { bytes, operations: self.operations(seen, 1.0 / tokens as f64) }
    }

    /// What a token of `streams` answers of `tokens` behind `depth` others costs.
    pub fn decode(&self, depth: usize, tokens: usize, streams: usize) -> Cost {
        // On average a token finds half of those before it that are timed, too.
        let seen = depth as f64 + tokens as f64 / 2.0;
        let bytes = self.bytes as f64 / streams as f64 + self.position_bytes * seen;
        Cost { bytes, operations: self.operations(seen, 1.0) }
    }

    fn operations(&self, seen: f64, logits: f64) -> Operations {
        let within = |window: Option<usize>| window.map_or(seen, |window| seen.min(window as f64));
        let attention: f64 = self.attention.iter().map(|&(each, window)| each * within(window)).sum();
        Operations {
            int8: self.layers.int8 + logits * self.head.int8,
            float32: self.layers.float32 + logits * self.head.float32 + attention,
        }
    }
}

impl Cost {
    /// Tokens a second if nothing but reading, or nothing but computing, whichever takes longer, had to be done.
    pub fn roofline(&self, machine: &Machine) -> Option<f64> {
        let reading = self.bytes / machine.read_bytes_per_second?;
        let peak = machine.operations_per_second?;
        let computing = self.operations.int8 / peak.int8 + self.operations.float32 / peak.float32;
        Some(reading.max(computing).recip())
    }
}

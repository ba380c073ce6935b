//! Agreement with `transformers` in floats, frozen by `tests/parity/architectures.py`: tiny models of every architecture.

use crate::engine::gguf::Gguf;
use crate::engine::kernels::cpu::{Cpu, Isa};
use crate::engine::model::{Batch, Model};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Keys and values are kept in halves, which `transformers` does not do: so much of what log-probabilities vary by.
const NOISE: f32 = 1e-5;
/// And so much of any.
const MOST: f32 = 0.05;

/// What a decoder says.
#[derive(Deserialize)]
struct Decoder {
    tokens: Vec<u32>,
    /// After the token of this position, these are the most likely, each with its log-probability.
    steps: Vec<(usize, Vec<u32>, Vec<f32>)>,
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures").join(name)
}

fn expected<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    serde_json::from_str(&std::fs::read_to_string(fixture(&format!("{name}.json"))).unwrap()).unwrap()
}

/// The model on one of the processor's sets of instructions.
fn model(name: &str, isa: Isa) -> Model {
    let gguf = Arc::new(Gguf::open(&fixture(&format!("{name}.gguf"))).unwrap());
    Model::on_cpu(&gguf, Cpu::with_isa(2, isa)).unwrap()
}

fn check(name: &str) {
    for isa in [Isa::Scalar, Isa::detect()] {
        let model = model(name, isa);
        let Decoder { tokens, steps } = expected(name);
        let mut cache = model.cache(1, tokens.len()).unwrap();
        let mut batch = Batch::new();
        tokens.iter().enumerate().for_each(|(position, &token)| batch.push(token, 0, position, true));
        let logits = model.forward(&mut cache, &batch).unwrap();
        let (mut most, mut errors, mut variance, mut count) = (0.0_f32, 0.0, 0.0, 0);
        for (position, best, theirs) in steps {
            let logits = logits.row(position);
            let total = logits.iter().map(|logit| logit.exp()).sum::<f32>().ln();
            let mean = theirs.iter().sum::<f32>() / theirs.len() as f32;
            for (token, theirs) in best.into_iter().zip(theirs) {
                let error = (logits[token as usize] - total - theirs).abs();
                most = most.max(error);
                errors += error.powi(2);
                variance += (theirs - mean).powi(2);
                count += 1;
            }
        }
        let noise = errors / variance;
        assert!(count == 11 * 64 && noise < NOISE && most < MOST, "{name}, {isa:?}: {noise}, {most} at most");
    }
}

#[test]
fn llama() {
    check("llama-2");
    check("llama-3");
    check("llama-linear-biases");
    check("llama-yarn");
    check("mistral");
}

#[test]
fn qwen() {
    check("qwen2-yarn");
    check("qwen3");
}

#[test]
fn gemma3() {
    check("gemma3");
    check("gemma3-scale-softcap");
}

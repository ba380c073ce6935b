//! Agreement with `transformers` in floats, frozen by `tests/parity/architectures.py`: tiny models of every architecture.

use crate::engine::blocks::Chain;
use crate::engine::footprint::{Footprint, Servable};
use crate::engine::gguf::Gguf;
use crate::engine::kernels::cpu::{Cpu, Isa};
use crate::engine::kernels::cuda::Which;
use crate::engine::model::{Batch, Device, Embedder, Model, Options, Pooling};
use crate::engine::quant::tests::nmse;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Keys and values are kept in halves, which `transformers` does not do: so much of what log-probabilities vary by.
const NOISE: f32 = 1e-5;
/// And so much of any.
const MOST: f32 = 0.05;

/// What a decoder says.
#[derive(Deserialize)]
pub(super) struct Decoder {
    pub tokens: Vec<u32>,
    /// After the token of this position, these are the most likely, each with its log-probability.
    pub steps: Vec<(usize, Vec<u32>, Vec<f32>)>,
}

/// What an encoder gives for each token.
#[derive(Deserialize)]
struct Encoder {
    tokens: Vec<u32>,
    hidden: Vec<Vec<f64>>,
}

pub(super) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures").join(name)
}

fn expected<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    serde_json::from_str(&std::fs::read_to_string(fixture(&format!("{name}.json"))).unwrap()).unwrap()
}

/// The model on one of the processor's sets of instructions.
fn model(name: &str, isa: Isa) -> Model {
    let gguf = Arc::new(Gguf::open(&fixture(&format!("{name}.gguf"))).unwrap());
    Model::on_cpu(&gguf, &[], Cpu::with_isa(2, isa)).unwrap()
}

fn check(name: &str) {
    for isa in [Isa::Scalar, Isa::detect()] {
        agrees(&model(name, isa), Chain::default(), &expected(name), &format!("{name}, {isa:?}"));
    }
}

/// That a model says the expected in conversations that begin so.
#[track_caller]
pub(super) fn agrees(model: &Model, root: Chain, expected: &Decoder, what: &str) {
    let Decoder { tokens, steps } = expected;
    let mut cache = model.cache(1, tokens.len()).unwrap();
    cache.blocks().begin(0, root, tokens).unwrap();
    let mut batch = Batch::new();
    tokens.iter().enumerate().for_each(|(position, &token)| batch.push(token, 0, position, true));
    let logits = model.forward(&mut cache, &batch).unwrap();
    let (mut most, mut errors, mut variance, mut count) = (0.0_f32, 0.0, 0.0, 0);
    for (position, best, theirs) in steps {
        let logits = logits.row(*position);
        let total = logits.iter().map(|logit| logit.exp()).sum::<f32>().ln();
        let mean = theirs.iter().sum::<f32>() / theirs.len() as f32;
        for (&token, theirs) in best.iter().zip(theirs) {
            let error = (logits[token as usize] - total - theirs).abs();
            most = most.max(error);
            errors += error.powi(2);
            variance += (theirs - mean).powi(2);
            count += 1;
        }
    }
    let noise = errors / variance;
    assert!(count == 11 * 64 && noise < NOISE && most < MOST, "{what}: {noise}, {most} at most");
}

#[test]
fn llama() {
    check("llama-2");
    check("llama-3");
    check("llama-linear-biases");
    check("llama-yarn");
    check("llama-longrope-near");
    check("llama-longrope-far");
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

/// The vectors of texts: each token's own.
fn states(mut model: Model, texts: &[&[u32]]) -> Vec<Vec<f32>> {
    model.hyper.pooling = Some(Pooling::Tokens);
    Embedder::new(model, 64, 3).unwrap().embed(texts).unwrap()
}

/// That the last layer gives what `transformers` says, whichever texts go through beside it.
fn check_states(name: &str, error: f64) {
    for isa in [Isa::Scalar, Isa::detect()] {
        let Encoder { tokens, hidden } = expected(name);
        let found = states(model(name, isa), &[&tokens]).concat();
        let nmse = nmse(&found, &hidden.concat());
        assert!(nmse < error, "{name}, {isa:?}: nmse {nmse}");
        // Beside others, some of which need another pass.
        let long: Vec<u32> = (0..64).collect();
        let texts: [&[u32]; 7] = [&long, &tokens, &long, &long, &tokens[..1], &long, &tokens];
        let beside = states(model(name, isa), &texts);
        assert_eq!((beside.len(), &beside[1], &beside[6]), (7, &found, &found), "{name}, {isa:?}");
        assert_eq!(beside[2].len(), 64 * hidden[0].len());
    }
}

#[test]
fn encoders() {
    check_states("bert", 1e-10);
    check_states("nomic-bert", 1e-10);
    check_states("qwen3-embedding", 1e-5);
}

#[test]
fn vectors_are_pooled_as_files_say() {
    let check = |name: &str, pooled: &dyn Fn(&[Vec<f64>]) -> Vec<f64>| {
        let Encoder { tokens, hidden } = expected(name);
        let mut embedder = Embedder::new(model(name, Isa::detect()), 40, 1).unwrap();
        let found = embedder.embed(&[&tokens]).unwrap().concat();
        let nmse = nmse(&found, &pooled(&hidden));
        assert!(nmse < 1e-5, "{name}: nmse {nmse}");
    };
    check("qwen3-embedding", &|hidden| hidden[39].clone());
    check("bert", &|hidden| (0..32).map(|i| hidden.iter().map(|x| x[i]).sum::<f64>() / 40.0).collect());
    assert_eq!(Pooling::First.pool(&[1.0, 2.0], 2), [1.0, 2.0]);
    assert!(Pooling::First.wants(0, 9) && !Pooling::First.wants(1, 9) && Pooling::First.wants(0, 1));
}

#[test]
fn what_cannot_be_embedded_is_told() {
    let check = |text: &[u32], words: &str| {
        let error = Embedder::new(model("bert", Isa::detect()), 8, 1).unwrap().embed(&[&[1], text]).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    };
    check(&[], "text 1 has 0 tokens, not 1 to 8");
    check(&[1; 9], "text 1 has 9 tokens, not 1 to 8");
    check(&[96], "there is no token 96");
    let refused = |name: &str, context: usize, words: &str| {
        let Err(error) = Embedder::new(model(name, Isa::detect()), context, 1) else { panic!("{words}") };
        assert!(error.to_string().contains(words), "{error}");
    };
    refused("qwen3", 8, "the model answers");
    refused("bert", 129, "texts of 129 tokens, of a model for 1 to 128");
    assert!(model("bert", Isa::detect()).cache(1, 8).err().unwrap().to_string().contains("holds no conversations"));
    let gguf = Arc::new(Gguf::open(&fixture("bert.gguf")).unwrap());
    let error =
        Model::load(gguf, Options { device: Device::Cuda(Which::Number(0)), ..Options::default() }).err().unwrap();
    assert!(error.to_string().contains("bert models run on the processor"), "{error}");
}

#[test]
fn footprints_of_encoders_have_no_keys_and_values() {
    let footprint = Footprint::of(&Gguf::header(&fixture("bert.gguf")).unwrap());
    assert_eq!((footprint.servable.clone(), footprint.embeds, footprint.kv_per_token), (Servable::Yes, true, 0));
    assert_eq!(footprint.total(100, 1), footprint.total(100, 8));
    assert!(footprint.total(512, 1) > footprint.total(256, 1));
    assert!(!Footprint::of(&Gguf::header(&fixture("qwen3.gguf")).unwrap()).embeds);
}

//! The models that real users run, from the folder that `scripts/test-models.sh` fills.

use super::logits;
use crate::engine::gguf::Gguf;
use crate::engine::kernels::KvKind;
use crate::engine::kernels::cpu::{Cpu, Isa};
use crate::engine::kv_cache::{Capacity, KvCache};
use crate::engine::model::{Batch, Model, Options};
use crate::engine::tokenizer::{Special, Tokenizer};
use std::path::PathBuf;
use std::sync::Arc;

fn open(file: &str) -> Arc<Gguf> {
    let folder = std::env::var_os("SOVEREIGN_TEST_MODELS").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/sovereign/test-models");
    Arc::new(Gguf::open(&folder.unwrap_or_else(home).join(file)).expect("run `make models` first"))
}

fn load(file: &str) -> (Model, Tokenizer) {
    let gguf = open(file);
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    (Model::load(gguf, Options::default()).unwrap(), tokenizer)
}

fn most_likely(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.unwrap().0 as u32
}

/// The most likely continuation of `tokens` in a slot that holds none.
fn continuation(model: &Model, cache: &mut KvCache, tokens: &[u32], count: usize) -> Vec<u32> {
    let mut batch = Batch::new();
    tokens.iter().enumerate().for_each(|(at, &token)| batch.push(token, 0, at, at == tokens.len() - 1));
    let mut found = Vec::new();
    while found.len() < count {
        let token = most_likely(model.forward(cache, &batch).unwrap().row(0));
        found.push(token);
        batch.clear();
        batch.push(token, 0, cache.len(0), true);
    }
    found
}

fn check(file: &str, prompt: &str, add_bos: bool, expected: &str) {
    let (model, tokenizer) = load(file);
    let tokens = tokenizer.encode(prompt, Special::Parse, add_bos);
    let mut cache = model.cache(2, 128).unwrap();
    let found = continuation(&model, &mut cache, &tokens, 8);
    let text = tokenizer.decode(&found);
    assert!(text.starts_with(expected), "{prompt:?} goes on with {text:?}");

    // Read again together with its continuation, and in pieces, every token is as likely as when it was written.
    let all: Vec<u32> = tokens.iter().chain(&found).copied().collect();
    let whole = logits(&model, &mut cache, 1, &all, all.len());
    let vocabulary = model.hyper().vocabulary;
    let read_again = whole.chunks(vocabulary).skip(tokens.len() - 1).map(most_likely);
    assert_eq!(read_again.take(8).collect::<Vec<_>>(), found);
    cache.truncate(1, 0);
    assert!(logits(&model, &mut cache, 1, &all, 3) == whole, "{file}: pieces differ from the whole");
}

#[test]
fn gemma_270m() {
    check("gemma-3-270m-q4_k_m.gguf", "The capital of France is", true, " the capital");
}

#[test]
fn qwen_coder_1_5b() {
    let prompt = "<|im_start|>user\nWhat is 2 + 2? Answer with the number only.<|im_end|>\n<|im_start|>assistant\n";
    check("qwen2.5-coder-1.5b-instruct-q4_k_m.gguf", prompt, false, "4");
}

/// The logits after each token of a text, by all sets of instructions.
fn by_all(file: &str, text: &str) -> Vec<Vec<f32>> {
    let gguf = open(file);
    let tokens = Tokenizer::from_gguf(&gguf).unwrap().encode(text, Special::Plain, true);
    let of = |isa| {
        let model = Model::on_cpu(&gguf, &[], Cpu::with_isa(2, isa)).unwrap();
        logits(&model, &mut model.cache(1, 128).unwrap(), 0, &tokens, tokens.len())
    };
    Isa::all().into_iter().map(of).collect()
}

/// Not nearly: where activations are rounded to bytes, what differs in the last bit soon differs much.
#[test]
fn all_instructions_give_the_same_bits() {
    const TEXT: &str = "Once upon a time, in a village by the sea, there lived an old engineer who repaired pumps.";
    for (file, text) in [
        ("gemma-3-270m-q4_k_m.gguf", TEXT),
        // The plain ones take their time.
        ("qwen2.5-coder-1.5b-instruct-q4_k_m.gguf", &TEXT[..16]),
    ] {
        let all = by_all(file, text);
        assert!(all.iter().all(|logits| *logits == all[0]), "{file}");
    }
}

/// The mean divergence (KL) of what is predicted with keys and values of this kind from what is with halves.
fn divergence_of(model: &Model, tokens: &[u32], kind: KvKind) -> f64 {
    let predicted = |kind| -> Vec<f32> {
        let mut cache = model.cache_of(Capacity { kind, ..Capacity::whole(1, 512) }).unwrap();
        logits(model, &mut cache, 0, tokens, 64)
    };
    let vocabulary = model.hyper().vocabulary;
    let (halves, fewer) = (predicted(KvKind::F16), predicted(kind));
    let mut sum = 0.0;
    for (p, q) in halves.chunks(vocabulary).zip(fewer.chunks(vocabulary)) {
        let total = |row: &[f32]| row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        let (of_p, of_q) = (total(p), total(q));
        let term = |(&p, &q): (&f32, &f32)| {
            let (p, q) = (f64::from(p) - of_p, f64::from(q) - of_q);
            p.exp() * (p - q)
        };
        sum += p.iter().zip(q).map(term).sum::<f64>();
    }
    sum / tokens.len() as f64
}

#[test]
fn fewer_bits_of_keys_and_values_change_little() {
    let text = include_str!("../../kv_cache.rs");
    for (file, bounds) in [
        ("gemma-3-270m-q4_k_m.gguf", &[(KvKind::Fp8, 0.06), (KvKind::Q4, 0.4)][..]),
        ("qwen2.5-coder-1.5b-instruct-q4_k_m.gguf", &[(KvKind::Fp8, 0.15)]),
    ] {
        let (model, tokenizer) = load(file);
        let tokens = tokenizer.encode(text, Special::Plain, true);
        for &(kind, most) in bounds {
            let divergence = divergence_of(&model, &tokens[..300], kind);
            println!("{file} with keys and values as {}: {divergence:.5}", kind.name());
            assert!((0.0..most).contains(&divergence), "{file} as {kind:?}: {divergence}");
        }
    }
}

//! Models for embeddings, with the files that sentence-transformers adds: see `tests/parity/embedders.py`.

use super::{folder, refused, replaced};
use crate::engine::gguf::Gguf;
use crate::engine::model::{Embedder, Model, Options, Pooling};
use crate::engine::quant::tests::nmse;
use crate::engine::safetensors::json;
use crate::engine::tokenizer::{Special, Tokenizer};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

/// What sentence-transformers says.
#[derive(Deserialize)]
struct Expected {
    /// Tokens that texts are cut to.
    limit: usize,
    /// Texts, all their tokens, and their vectors.
    rows: Vec<(String, Vec<u32>, Vec<f64>)>,
}

#[track_caller]
fn check(name: &str, pooling: Pooling, allowed: f64) -> Arc<Gguf> {
    let expected: Expected = json(&folder(name).join("expected.json")).unwrap();
    let gguf = Arc::new(Gguf::open(&folder(name)).unwrap());
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let model = Model::load(gguf.clone(), Options { threads: Some(1), ..Options::default() }).unwrap();
    assert_eq!((model.hyper().pooling, model.hyper().context), (Some(pooling), expected.limit));
    let mut embedder = Embedder::new(model, expected.limit, 1).unwrap();
    let mut cut = 0;
    for (text, theirs, vector) in &expected.rows {
        let mut tokens = tokenizer.encode(text, Special::Parse, true);
        assert_eq!(tokens, *theirs, "{name}: {text:?}");
        cut += usize::from(tokenizer.shorten(&mut tokens, expected.limit));
        let found = embedder.embed(&[&tokens]).unwrap().concat();
        let length = found.iter().map(|x| x * x).sum::<f32>().sqrt();
        let error = nmse(&found.iter().map(|x| x / length).collect::<Vec<_>>(), vector);
        assert!(error < allowed, "{name}: nmse {error} of {text:?}");
    }
    assert!(cut > 0, "{name}: no text is too long");
    let footprint = crate::engine::footprint::Footprint::of(&Gguf::header(&folder(name)).unwrap());
    assert!(footprint.embeds && footprint.servable == crate::engine::footprint::Servable::Yes);
    gguf
}

#[test]
fn bert() {
    let gguf = check("bert", Pooling::Mean, 1e-9);
    // Forty positions, of which texts use those up to the limit.
    assert_eq!(gguf.tensor("position_embd.weight").unwrap().dims, [32, 24]);
}

#[test]
fn nomic_bert() {
    check("nomic-bert", Pooling::First, 1e-9);
}

#[test]
fn xlm_roberta() {
    let gguf = check("xlm-roberta", Pooling::First, 1e-9);
    // Of forty positions the first two are no text's.
    assert_eq!(gguf.tensor("position_embd.weight").unwrap().dims, [32, 24]);
}

#[test]
fn qwen3() {
    let gguf = check("qwen3-embedding", Pooling::Last, 1e-5);
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    // What is put behind texts is not what ends an answer, and both do.
    assert_eq!(tokenizer.eos(), tokenizer.token("<|pad|>"));
    assert!(["<|pad|>", "<|end|>"].iter().all(|name| tokenizer.is_end(tokenizer.token(name).unwrap())));
}

/// MiniLM as sentence-transformers keeps it, and the file that `scripts/minilm.sh` makes of it.
#[test]
fn minilm_is_what_its_file_is() {
    let models = std::env::var_os("SOVEREIGN_TEST_MODELS").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/sovereign/test-models");
    let models = models.unwrap_or_else(home);
    let [folder, file] = ["all-minilm-l6-v2", "all-minilm-l6-v2-f32.gguf"].map(|name| {
        let gguf = Arc::new(Gguf::open(&models.join(name)).expect("run `make models` first"));
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let model = Model::load(gguf, Options { threads: Some(1), ..Options::default() }).unwrap();
        let context = model.hyper().context;
        (tokenizer, Embedder::new(model, context, 1).unwrap())
    });
    let ((tokenizer, mut embedder), (other, mut others)) = (folder, file);
    // What sentence-transformers cuts texts to, and what the weights have positions for.
    assert_eq!((embedder.context(), others.context()), (256, 512));
    for text in [
        "A man is eating pasta.",
        "Über naïve [MASK] 日本語 ##x \u{2581}a unaffable\u{301}!",
        "",
        &"again ".repeat(200),
    ] {
        let tokens = tokenizer.encode(text, Special::Parse, true);
        assert_eq!(tokens, other.encode(text, Special::Parse, true), "{text:?}");
        assert_eq!(embedder.embed(&[&tokens]).unwrap(), others.embed(&[&tokens]).unwrap(), "{text:?}");
    }
}

#[test]
fn what_would_change_vectors_is_refused() {
    let bert = |file, from, to, parts: &[&str]| refused("bert", file, replaced(from, to), parts);
    bert("config.json", "\"gelu\"", "\"relu\"", &["config.json", "hidden_act", "relu"]);
    bert(
        "config.json",
        "{",
        "{\"position_embedding_type\": \"relative_key\", ",
        &["position_embedding_type", "relative_key"],
    );
    bert("modules.json", "models.Normalize", "models.Dense", &["modules.json", "models.Dense"]);
    bert("modules.json", "\"1_Pooling\"", "\"../Pooling\"", &["modules.json", "../Pooling"]);
    bert("sentence_bert_config.json", "24", "-1", &["sentence_bert_config.json", "max_seq_length", "-1"]);
    let pooling = "1_Pooling/config.json";
    bert(pooling, "\"pooling_mode_max_tokens\": false", "\"pooling_mode_max_tokens\": true", &[pooling, "several"]);
    bert(pooling, "mean_tokens", "mean_sqrt_len_tokens", &[pooling, "pooling_mode_mean_sqrt_len_tokens"]);
    bert(pooling, "\"pooling_mode_mean_tokens\": true", "\"x\": true", &[pooling, "pooling_mode"]);
    bert("tokenizer.json", "\"##\"", "\"@@\"", &["tokenizer.json", "continuing_subword_prefix", "@@"]);
    bert("tokenizer.json", "BertPreTokenizer", "Whitespace", &["tokenizer.json", "pre_tokenizer"]);
    bert("tokenizer.json", "\"clean_text\":true", "\"clean_text\":false", &["tokenizer.json", "clean_text"]);
    bert(
        "tokenizer.json",
        "{\"id\":\"[SEP]\",\"type_id\":0}",
        "{\"id\":\"[END]\",\"type_id\":0}",
        &["post_processor", "[END]"],
    );
    bert("model.safetensors", "output.dense", "output.sense", &["output.sense", "unknown"]);
    let roberta = |from, to, parts: &[&str]| refused("xlm-roberta", "tokenizer.json", replaced(from, to), parts);
    roberta("\"byte_fallback\":false", "\"byte_fallback\":true", &["byte_fallback"]);
    roberta("\"unk_id\":3", "\"unk_id\":9999", &["unk_id"]);
    roberta("\"type\":\"Precompiled\"", "\"type\":\"Lowercase\"", &["normalizer", "Lowercase"]);
    roberta("\"type\":\"Metaspace\"", "\"type\":\"Punctuation\"", &["pre_tokenizer", "Metaspace"]);
    roberta("\"precompiled_charsmap\":\"", "\"precompiled_charsmap\":\"*", &["precompiled_charsmap", "base64"]);
    let nomic = |from, to, parts: &[&str]| refused("nomic-bert", "config.json", replaced(from, to), parts);
    nomic("\"prenorm\": false", "\"prenorm\": true", &["config.json", "prenorm"]);
    nomic("\"rotary_emb_fraction\": 1.0", "\"rotary_emb_fraction\": 0.5", &["rotary_emb_fraction", "0.5"]);
}

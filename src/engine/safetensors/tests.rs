mod embedders;
mod ropes;

use super::*;
use crate::engine::gguf::Kind;
use crate::engine::model::{Batch, Model, Options};
use crate::engine::quant::tests::nmse;
use crate::engine::tokenizer::{Special, Tokenizer};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What transformers says of a model: see `tests/parity/folders.py`.
#[derive(serde::Deserialize)]
struct Expected {
    tokens: Vec<u32>,
    logits: BTreeMap<usize, Vec<f32>>,
    #[serde(default)]
    texts: Vec<(String, Vec<u32>)>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/safetensors").join(name)
}

#[track_caller]
fn check(name: &str, allowed: f64) -> Arc<Gguf> {
    let expected: Expected = json(&folder(name).join("expected.json")).unwrap();
    let gguf = Arc::new(Gguf::open(&folder(name)).unwrap());
    let model = Model::load(gguf.clone(), Options { threads: Some(1), ..Options::default() }).unwrap();
    let mut batch = Batch::new();
    for (position, &token) in expected.tokens.iter().enumerate() {
        batch.push(token, 0, position, expected.logits.contains_key(&position));
    }
    let logits = model.forward(&mut model.cache(1, 64).unwrap(), &batch).unwrap();
    for (row, (position, expected)) in expected.logits.iter().enumerate() {
        let wide: Vec<f64> = expected.iter().map(|&x| x.into()).collect();
        let error = nmse(logits.row(row), &wide);
        assert!(error < allowed, "{name}, position {position}: nmse {error}");
    }
    if !expected.texts.is_empty() {
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        for (text, tokens) in &expected.texts {
            assert_eq!(tokenizer.encode(text, Special::Parse, false), *tokens, "{name}: {text:?}");
        }
    }
    // The header alone tells the same.
    let header = Gguf::header(&folder(name)).unwrap();
    assert_eq!(header.tensors(), gguf.tensors());
    let footprint = crate::engine::footprint::Footprint::of(&header);
    assert_eq!(footprint.servable, crate::engine::footprint::Servable::Yes);
    gguf
}

/// Keys and values are kept as halves, here and not there.
const FLOATS: f64 = 2e-6;
/// Activations are rounded to 8 bits.
const FOUR_BITS: f64 = 3e-3;

#[test]
fn llama_in_several_files() {
    let gguf = check("llama-sharded", FLOATS);
    assert_eq!(gguf.tensor("blk.1.ffn_down.weight").unwrap().kind, Kind::BF16);
    let metadata = gguf.metadata();
    assert_eq!(metadata.get::<&str>("tokenizer.ggml.pre").unwrap(), "llama-bpe");
    assert!(metadata.get::<&str>("tokenizer.chat_template").unwrap().contains("m.content"));
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    assert!(tokenizer.bos().is_some() && tokenizer.begins_with() == tokenizer.bos());
    assert!(tokenizer.is_end(tokenizer.eos().unwrap()));
}

#[test]
fn gemma3() {
    check("gemma3", FLOATS);
}

#[test]
fn tied_qwen3() {
    let gguf = check("qwen3-tied", FLOATS);
    assert!(gguf.tensor("output.weight").is_none());
}

#[test]
fn floats_of_8_bits() {
    for name in ["mistral-fp8-tensor", "llama-fp8-row", "qwen2-fp8-block"] {
        let gguf = check(name, FLOATS);
        assert_eq!(gguf.tensor("blk.0.ffn_up.weight").unwrap().kind, Kind::F16);
    }
}

#[test]
fn floats_of_4_bits() {
    for name in ["llama-nvfp4-modelopt", "qwen3-nvfp4-compressed"] {
        let gguf = check(name, FOUR_BITS);
        assert_eq!(gguf.tensor("blk.0.ffn_up.weight").unwrap().kind, Kind::NVFP4);
    }
}

fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copied(&path, &to),
            false => drop(std::fs::copy(&path, to).unwrap()),
        }
    }
}

#[test]
fn one_head_of_keys_is_put_in_pairs_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = r#"{"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "max_position_embeddings": 8,
        "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1}"#;
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let header =
        r#"{"model.layers.0.self_attn.k_proj.weight": {"dtype": "F32", "shape": [4, 1], "data_offsets": [0, 16]}}"#;
    let rows: Vec<u8> = [0.0_f32, 1.0, 2.0, 3.0].into_iter().flat_map(f32::to_le_bytes).collect();
    let weights = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &rows].concat();
    std::fs::write(folder.path().join("model.safetensors"), weights).unwrap();
    let gguf = Gguf::open(folder.path()).unwrap();
    let found = gguf.bytes(gguf.tensor("blk.0.attn_k.weight").unwrap()).into_owned();
    let expected: Vec<u8> = [0.0_f32, 2.0, 1.0, 3.0].into_iter().flat_map(f32::to_le_bytes).collect();
    assert_eq!(found, expected);
}

/// A folder with one of its files changed is refused, naming that.
#[track_caller]
fn refused(name: &str, file: &str, edit: impl Fn(Vec<u8>) -> Vec<u8>, parts: &[&str]) {
    let copy = tempfile::tempdir().unwrap();
    copied(&folder(name), copy.path());
    let path = copy.path().join(file);
    std::fs::write(&path, edit(std::fs::read(&path).unwrap())).unwrap();
    let opened = Gguf::open(copy.path()).map(Arc::new).map_err(|error| error.to_string());
    let loaded = opened.and_then(|gguf| Model::load(gguf, Options::default()).map_err(|error| error.to_string()));
    let message = loaded.err().expect("the folder was accepted");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

fn replaced(from: &'static str, to: &'static str) -> impl Fn(Vec<u8>) -> Vec<u8> {
    move |bytes| {
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
    }
}

#[test]
fn what_is_wrong_is_named() {
    let config = |from, to, parts: &[&str]| refused("qwen3-tied", "config.json", replaced(from, to), parts);
    config("\"qwen3\"", "\"gpt2\"", &["config.json", "model_type", "gpt2"]);
    config("\"hidden_size\": 32", "\"hidden_size\": -1", &["config.json", "hidden_size", "-1"]);
    config("\"hidden_size\"", "\"hidden\"", &["config.json", "hidden_size", "missing"]);
    config("\"hidden_size\": 32", "\"hidden_size\": 64", &["dimensions [32], expected [64]"]);
    config("\"rope_type\": \"default\"", "\"rope_type\": \"axial\"", &["config.json", "rope_type", "axial"]);
    config("{", "", &["config.json"]);

    let tensors = |from, to, parts: &[&str]| refused("qwen3-tied", "model.safetensors", replaced(from, to), parts);
    tensors("self_attn.q_proj", "self_attn.x_proj", &["model.safetensors", "self_attn.x_proj", "unknown"]);
    tensors("\"F16\"", "\"F99\"", &["model.safetensors", "F99"]);
    tensors("\"F16\"", "\"I16\"", &["model.safetensors", "I16"]);
    tensors("layers.1.input_layernorm", "layers.0.input_layernorm", &["model.safetensors", "occurs twice"]);
    refused("qwen3-tied", "model.safetensors", |bytes| bytes[..bytes.len() - 1].to_vec(), &["data_offsets"]);
    refused("qwen3-tied", "model.safetensors", |bytes| bytes[..7].to_vec(), &["model.safetensors", "too few"]);
    refused("qwen3-tied", "model.safetensors", |_| vec![255; 64], &["its header should have"]);

    let shards = |from, to, parts: &[&str]| {
        refused("llama-sharded", "model.safetensors.index.json", replaced(from, to), parts);
    };
    shards("model-00002", "model-00009", &["model-00009"]);
    shards("model-00002", "../model", &["no name of a file in the folder"]);

    let tokenizer = |from, to, parts: &[&str]| refused("llama-sharded", "tokenizer.json", replaced(from, to), parts);
    tokenizer("\\\\p{N}{1,3}", "\\\\p{N}{1,4}", &["tokenizer.json", "pre_tokenizer"]);
    tokenizer("\"type\":\"BPE\"", "\"type\":\"WordLevel\"", &["tokenizer.json", "WordLevel"]);
    tokenizer("\"!\":0", "\"!\":16000000", &["tokenizer.json", "16000000"]);
    refused(
        "qwen2-fp8-block",
        "model.safetensors",
        replaced("q_proj.weight_scale_inv", "q_proj.weight_scale_xxx"),
        &["q_proj.weight\"", "no weight_scale"],
    );
}

proptest! {
    /// Whatever the header is, it is refused, or all that it says is within the file.
    #[test]
    fn damaged_headers_never_panic(
        edits in proptest::collection::vec((0_usize..2000, any::<u8>()), 0..6),
        cut in 0_usize..100,
    ) {
        let mut bytes = std::fs::read(folder("qwen3-tied").join("model.safetensors")).unwrap();
        for (at, byte) in edits {
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut);
        if let Ok(tensors) = file::header(&mut &bytes[..], bytes.len() as u64, 0, Path::new("test")) {
            for (_, entry) in tensors {
                prop_assert!(entry.place.start <= entry.place.end && entry.place.end <= bytes.len() as u64);
            }
        }
    }
}

//! Files that are refused, each with an error that names what is wrong.

use super::tiny::{Tiny, open};
use crate::engine::footprint::{Footprint, Servable};
use crate::engine::gguf::{Kind, Scalar, Writer};
use crate::engine::kernels::KvKind;
use crate::engine::kv_cache::Capacity;
use crate::engine::model::{Model, Options};
use crate::engine::quant::Format;

fn refused(writer: &Writer, words: &str) {
    let gguf = open(writer);
    let Err(error) = Model::load(gguf.clone(), Options { threads: Some(1), ..Options::default() }) else {
        panic!("loaded: {words}")
    };
    assert!(error.to_string().contains(words), "{error}");
    // The header alone tells the same.
    let footprint = Footprint::of(&gguf);
    assert_eq!(footprint.servable, Servable::No(error.to_string()));
    assert_eq!((footprint.kv_per_token, footprint.workspace(4096, 2)), (0, 0));
}

/// A tiny model's file with a tensor changed: left out, or of other dimensions or kind.
fn with_tensor(tiny: &Tiny, name: &str, change: Option<(&[u64], Kind)>) -> Writer<'static> {
    let gguf = tiny.gguf();
    let mut writer = header(tiny, &[]);
    for tensor in gguf.tensors() {
        match change {
            _ if tensor.name != name => {
                writer.tensor(&tensor.name, &tensor.dims, tensor.kind, gguf.bytes(tensor).to_vec());
            }
            Some((dims, kind)) => {
                let rows: u64 = dims[1..].iter().product();
                let bytes = vec![0; (kind.row_bytes(dims[0]).unwrap() * rows) as usize];
                writer.tensor(name, dims, kind, bytes);
            }
            None => {}
        }
    }
    writer
}

/// The metadata of a tiny model without the keys in `without`.
fn header(tiny: &Tiny, without: &[&str]) -> Writer<'static> {
    let mut writer = Writer::new();
    let key = |name: &str| format!("{}.{name}", tiny.architecture);
    let figures = [
        ("context_length", 128),
        ("embedding_length", tiny.width),
        ("block_count", tiny.layers),
        ("feed_forward_length", tiny.hidden),
        ("attention.head_count", tiny.heads),
        ("attention.head_count_kv", tiny.kv_heads),
    ];
    writer.set("general.architecture", tiny.architecture);
    for (name, figure) in figures.into_iter().filter(|(name, _)| !without.contains(name)) {
        writer.set(&key(name), figure as u32);
    }
    if !without.contains(&"attention.layer_norm_rms_epsilon") {
        writer.set(&key("attention.layer_norm_rms_epsilon"), 1e-5_f32);
    }
    writer
}

/// A tiny model's file with a key set otherwise.
fn with_key<T: Scalar>(tiny: &Tiny, name: &str, value: T) -> Writer<'static> {
    let gguf = tiny.gguf();
    let mut writer = header(tiny, &[name]);
    writer.set(&format!("{}.{name}", tiny.architecture), value);
    for tensor in gguf.tensors() {
        writer.tensor(&tensor.name, &tensor.dims, tensor.kind, gguf.bytes(tensor).to_vec());
    }
    writer
}

#[test]
fn tensors_are_checked_by_name_shape_and_kind() {
    let llama = &Tiny::new("llama");
    let refused = |name: &str, change: Option<(&[u64], Kind)>, words: &str| {
        refused(&with_tensor(llama, name, change), words);
    };
    refused(
        "blk.1.ffn_up.weight",
        None,
        "the tensor blk.1.ffn_up.weight is missing, expected with the dimensions [32, 64]",
    );
    refused("token_embd.weight", None, "token_embd.weight is missing");
    refused(
        "blk.0.attn_k.weight",
        Some((&[32, 32], Kind::F32)),
        "the tensor blk.0.attn_k.weight has the dimensions [32, 32], expected [32, 16]",
    );
    refused(
        "blk.0.attn_norm.weight",
        Some((&[64], Kind::F32)),
        "blk.0.attn_norm.weight has the dimensions [64], expected [32]",
    );
    refused(
        "blk.0.attn_q.weight",
        Some((&[32, 32], Kind::I8)),
        "the tensor blk.0.attn_q.weight is of the kind I8; supported are F32",
    );
    refused(
        "output_norm.weight",
        Some((&[32], Kind::Q8_0)),
        "output_norm.weight is of the kind Q8_0; vectors are of floats",
    );
    refused(
        "output.weight",
        Some((&[32, 51], Kind::F32)),
        "output.weight has the dimensions [32, 51], expected [32, 50]",
    );

    let mut more = with_tensor(llama, "", None);
    more.tensor_f32("blk.0.attn_q_norm.weight", &[8], &[1.0; 8]);
    super::refusals::refused(&more, "blk.0.attn_q_norm.weight is unknown to this architecture");

    let qwen = &Tiny::new("qwen2");
    super::refusals::refused(&with_tensor(qwen, "blk.1.attn_k.bias", None), "blk.1 lacks a bias");
}

#[test]
fn figures_are_checked() {
    let llama = &Tiny::new("llama");
    let check = |name: &str, value: u32, words: &str| refused(&with_key(llama, name, value), words);
    check("attention.head_count", 0, "\"llama.attention.head_count\" is 0, not within 1..=1024");
    check("attention.head_count", u32::MAX, "\"llama.attention.head_count\" is 4294967295");
    check("attention.head_count_kv", 0, "head_count_kv\" is 0");
    check("attention.head_count_kv", 3, "4 heads of queries cannot share 3 heads of keys evenly");
    check("attention.head_count", 8, "blk.0.attn_k.weight has the dimensions [32, 16], expected [32, 8]");
    check("embedding_length", 0, "embedding_length\" is 0");
    check("embedding_length", 64, "blk.0.attn_norm.weight has the dimensions [32], expected [64]");
    check("embedding_length", 33, "llama.attention.key_length");
    check("block_count", 0, "block_count\" is 0");
    check("block_count", 1000, "blk.2.attn_norm.weight is missing");
    check("block_count", u32::MAX, "block_count\" is 4294967295");
    check("block_count", 1, "the tensor blk.1.attn_norm.weight is unknown");
    check("feed_forward_length", 0, "feed_forward_length\" is 0");
    check("context_length", 0, "context_length\" is 0");
    check("attention.key_length", 7, "a head of 7 dimensions cannot be rotated in pairs");
    check("attention.key_length", 100_000, "key_length\" is 100000");
    check("attention.value_length", 16, "keys of 8 and values of 16 dimensions are not supported");
    check("rope.dimension_count", 4, "rotating 4 of a head's 8 dimensions is not supported");
    check("expert_count", 8, "mixtures of experts are not supported");
    refused(&with_key(llama, "rope.freq_base", 0.0_f32), "rope.freq_base\" is 0");
    refused(&with_key(llama, "rope.scaling.type", "spiral"), "rope scaling of the type \"spiral\" is not supported");
    refused(&with_key(llama, "rope.scaling.factor", -1.0_f32), "rope.scaling.factor\" is -1");
    refused(&with_key(llama, "rope.scaling.type", "longrope"), "rope_factors_short.weight is missing");
    refused(&with_key(llama, "rope.scaling.alpha", 1000.0_f32), "rope.scaling.alpha");
    refused(&with_key(llama, "attention.layer_norm_rms_epsilon", -1.0_f32), "epsilon\" is -1");
    refused(&header(llama, &["block_count"]), "llama.block_count");
}

#[test]
fn other_architectures_are_named() {
    let mut writer = Writer::new();
    writer.set("general.architecture", "mamba").tensor_f32("token_embd.weight", &[4, 4], &[0.0; 16]);
    refused(
        &writer,
        "the architecture \"mamba\" is not supported; these are: llama, qwen2, qwen3, gemma3, bert, nomic-bert",
    );
    assert_eq!(Footprint::of(&open(&writer)).weights, 64);
}

#[test]
fn weights_that_are_no_numbers_are_told() {
    let tiny = Tiny::new("llama");
    let bad = with_tensor(&tiny, "blk.0.ffn_norm.weight", Some((&[32], Kind::F32)));
    let mut bytes = bad.to_vec();
    // The norm's weights are all zero now; the first of the table of embeddings becomes none at all.
    let at = open(&bad).tensor("token_embd.weight").unwrap().offset as usize;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let gguf = std::sync::Arc::new(crate::engine::gguf::Gguf::open(file.path()).unwrap());
    let model = Model::load(gguf, Options { threads: Some(1), ..Options::default() }).unwrap();
    let mut cache = model.cache(1, 8).unwrap();
    let mut batch = crate::engine::model::Batch::new();
    batch.push(0, 0, 0, true);
    assert!(model.forward(&mut cache, &batch).unwrap_err().to_string().contains("no number"));
    assert_eq!(cache.len(0), 0);
    batch.clear();
    batch.push(1, 0, 0, true);
    assert!(model.forward(&mut cache, &batch).is_ok());
}

#[test]
fn footprints_are_exact() {
    let check = |tiny: Tiny, kv_per_token: u64| {
        let gguf = tiny.gguf();
        let footprint = Footprint::of(&gguf);
        assert_eq!(footprint.servable, Servable::Yes);
        assert_eq!(footprint.weights, gguf.tensors().iter().map(|tensor| tensor.bytes).sum::<u64>());
        assert_eq!(footprint.kv_per_token, kv_per_token);
        // Whole blocks: room for 128 tokens in each conversation.
        let expected = footprint.weights + 3 * 128 * kv_per_token + footprint.workspace(100, 3);
        assert_eq!(footprint.total(100, 3), expected);
    };
    // With fewer bits keys and values take less, and all conversations may have fewer tokens than as many whole ones.
    let footprint = Footprint::of(&Tiny { head: 32, ..Tiny::new("llama") }.gguf());
    let rest = footprint.weights + footprint.workspace(100, 3);
    for (kind, head) in [(KvKind::F16, 64), (KvKind::Fp8, 32), (KvKind::Q4, 18)] {
        let capacity = Capacity { kind, tokens: Some(200), ..Capacity::whole(3, 100) };
        assert_eq!(footprint.bytes(capacity), rest + 224 * 2 * 2 * 2 * head);
    }
    check(Tiny::new("llama"), 2 * 2 * 2 * 2 * 8);
    check(Tiny::new("qwen2"), 2 * 2 * 2 * 2 * 8);
    check(Tiny { format: Format::Q8_0, kv_heads: 1, head: 16, ..Tiny::new("gemma3") }, 2 * 2 * 7 * 16);
}

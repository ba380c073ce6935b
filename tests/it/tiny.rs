//! A model file that is sound and says nothing.

use super::{Kind, Writer};
use std::borrow::Cow;

const WIDTH: u64 = 32;
const HIDDEN: u64 = 64;
const KEYS: u64 = 16;

/// A `llama` of one layer and `vocabulary` tokens, about 256 bytes a token; another `seed` makes other bytes.
pub fn model(vocabulary: u64, seed: u64) -> Vec<u8> {
    of("llama", vocabulary, seed)
}

/// The same shape under the name of another architecture.
pub fn of(architecture: &str, vocabulary: u64, seed: u64) -> Vec<u8> {
    let mut writer = Writer::new();
    let key = |key: &str| format!("{architecture}.{key}");
    writer.set("general.architecture", architecture);
    writer.set("general.name", "Tiny");
    writer.set("general.license", "mit");
    writer.set("general.file_type", 0_u32);
    for (name, value) in [
        ("context_length", 64_u32),
        ("block_count", 1),
        ("embedding_length", WIDTH as u32),
        ("feed_forward_length", HIDDEN as u32),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("vocab_size", vocabulary as u32),
    ] {
        writer.set(&key(name), value);
    }
    writer.set(&key("attention.layer_norm_rms_epsilon"), 1e-5_f32);
    writer.set("tokenizer.ggml.model", "llama");
    let tokens: Vec<String> = (0..vocabulary).map(|token| format!("t{token}")).collect();
    writer.array("tokenizer.ggml.tokens", &tokens);
    writer.array("tokenizer.ggml.scores", &vec![0.0_f32; tokens.len()]);
    writer.array("tokenizer.ggml.token_type", &vec![1_i32; tokens.len()]);
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut tensor = |name: &str, dims: &[u64]| {
        let values = (0..dims.iter().product::<u64>()).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32
        });
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        writer.tensor(name, dims, Kind::F32, Cow::Owned(bytes));
    };
    tensor("token_embd.weight", &[WIDTH, vocabulary]);
    tensor("output_norm.weight", &[WIDTH]);
    tensor("output.weight", &[WIDTH, vocabulary]);
    tensor("blk.0.attn_norm.weight", &[WIDTH]);
    tensor("blk.0.attn_q.weight", &[WIDTH, WIDTH]);
    tensor("blk.0.attn_k.weight", &[WIDTH, KEYS]);
    tensor("blk.0.attn_v.weight", &[WIDTH, KEYS]);
    tensor("blk.0.attn_output.weight", &[WIDTH, WIDTH]);
    tensor("blk.0.ffn_norm.weight", &[WIDTH]);
    tensor("blk.0.ffn_gate.weight", &[WIDTH, HIDDEN]);
    tensor("blk.0.ffn_up.weight", &[WIDTH, HIDDEN]);
    tensor("blk.0.ffn_down.weight", &[HIDDEN, WIDTH]);
    writer.to_vec()
}

//! An adapter: a GGUF file, or one of the two files of a folder. The first byte says which.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sovereign_fuzz::engine::footprint::Footprint;
use sovereign_fuzz::engine::gguf::{Gguf, Writer};
use sovereign_fuzz::engine::lora::Lora;
use std::path::Path;
use std::sync::LazyLock;

/// A model of one layer, four wide.
static BASE: LazyLock<Gguf> = LazyLock::new(|| {
    let mut file = Writer::new();
    file.set("general.architecture", "llama").set("llama.attention.layer_norm_rms_epsilon", 1e-5_f32);
    let figures = ["context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count"];
    for (figure, value) in figures.into_iter().zip([8_u32, 4, 1, 4, 1]) {
        file.set(&format!("llama.{figure}"), value);
    }
    for name in ["token_embd", "blk.0.attn_q", "blk.0.attn_k", "blk.0.attn_v", "blk.0.attn_output"] {
        file.tensor_f32(&format!("{name}.weight"), &[4, 4], &[0.5; 16]);
    }
    for name in ["ffn_gate", "ffn_up", "ffn_down"] {
        file.tensor_f32(&format!("blk.0.{name}.weight"), &[4, 4], &[0.5; 16]);
    }
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
        file.tensor_f32(&format!("{name}.weight"), &[4], &[1.0; 4]);
    }
    sovereign_fuzz::opened(&file.to_vec()).expect("the model is sound")
});

const CONFIG: &[u8] = include_bytes!("../seeds/lora/config");
const WEIGHTS: &[u8] = include_bytes!("../seeds/lora/weights");

fn open(path: &Path) {
    let Ok(lora) = Lora::open(path, &BASE) else { return };
    let _ = Lora::header(path, &BASE);
    for name in ["blk.0.attn_q", "blk.0.attn_k", "blk.0.ffn_up", "output"] {
        if let Ok(Some((_, pair))) = lora.pair(name, 4, 4) {
            let _ = lora.read(pair);
        }
    }
    let _ = Footprint::adapted(&BASE, &[lora]);
}

fuzz_target!(|input: &[u8]| {
    let Some((form, bytes)) = input.split_first() else { return };
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
    let (config, weights) = match form {
        b'g' => {
            let file = folder.path().join("adapter.gguf");
            return if std::fs::write(&file, bytes).is_ok() { open(&file) };
        }
        b'c' => (bytes, &WEIGHTS[1..]),
        _ => (&CONFIG[1..], bytes),
    };
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes);
    if write("adapter_config.json", config).and_then(|()| write("adapter_model.safetensors", weights)).is_ok() {
        open(folder.path());
    }
});

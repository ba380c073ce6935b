//! The engine, as the fuzz targets see it.

#[path = "../../src/engine/mod.rs"]
pub mod engine;

use engine::gguf::{Gguf, Writer};
use engine::grammar::{Grammars, Source};
use engine::tokenizer::Tokenizer;
use std::sync::{Arc, LazyLock};

/// A vocabulary of bytes.
pub static GRAMMARS: LazyLock<Grammars> = LazyLock::new(|| {
    let mut tokens: Vec<String> = vec!["<unk>".into(), "<s>".into(), "</s>".into()];
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let mut types = vec![2, 3, 3];
    types.resize(tokens.len(), 6);
    let mut file = Writer::new();
    file.set("tokenizer.ggml.model", "llama")
        .array("tokenizer.ggml.tokens", &tokens)
        .array("tokenizer.ggml.scores", &vec![0.0_f32; tokens.len()])
        .array("tokenizer.ggml.token_type", &types);
    let gguf = opened(&file.to_vec()).expect("the vocabulary is sound");
    Grammars::new(Arc::new(Tokenizer::from_gguf(&gguf).expect("the vocabulary is sound")))
});

/// These bytes as a model file.
pub fn opened(bytes: &[u8]) -> Option<Gguf> {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").ok()?;
    std::fs::write(file.path(), bytes).ok()?;
    Gguf::open(file.path()).ok()
}

/// The figures of a small model.
pub const CONFIG: &[u8] = br#"{"model_type": "llama", "hidden_size": 2, "intermediate_size": 2,
    "max_position_embeddings": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "rms_norm_eps": 1e-5}"#;

/// These files as a model.
pub fn folder(files: &[(&str, &[u8])]) -> Option<Gguf> {
    let folder = tempfile::tempdir_in("/dev/shm").ok()?;
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).ok()?;
    }
    engine::safetensors::open(folder.path()).ok()
}

/// Makes a grammar ready and follows it for some tokens: the lowest that it allows, and once another.
pub fn follow(source: &Source) {
    let Ok(grammar) = GRAMMARS.compile(source) else { return };
    for first in [0, 1] {
        let mut constraint = grammar.begin();
        for step in 0..8 {
            let mut row = vec![0.0; GRAMMARS.tokenizer().len()];
            if constraint.restrict(&mut row).is_err() {
                break;
            }
            let allowed = (0..).zip(&row).filter(|(_, logit)| **logit == 0.0).map(|(token, _)| token);
            let allowed: Vec<u32> = allowed.collect();
            let token = allowed[(if step == 0 { first } else { 0 }).min(allowed.len() - 1)];
            if constraint.accept(token).expect("what the mask allows is accepted") || token == 2 {
                break;
            }
        }
    }
}

//! The tokenizer of a folder as Hugging Face stores them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sovereign_fuzz::engine::tokenizer::{Special, Tokenizer};
use sovereign_fuzz::folder;

fuzz_target!(|bytes: &[u8]| {
    let files = [("config.json", sovereign_fuzz::CONFIG), ("model.safetensors", WEIGHTS), ("tokenizer.json", bytes)];
    let Some(gguf) = folder(&files) else { return };
    let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) else { return };
    for special in [Special::Parse, Special::Plain] {
        let _ = tokenizer.decode(&tokenizer.encode("Hi <s> \u{1f999}\n\n  12", special, true));
    }
});

/// One tensor.
const WEIGHTS: &[u8] = b"X\0\0\0\0\0\0\0\
    {\"model.embed_tokens.weight\":{\"dtype\":\"F16\",\"shape\":[4,2],\"data_offsets\":[0,16]}}       \
    0000000000000000";

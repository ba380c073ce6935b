//! The weights of a folder as Hugging Face stores them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sovereign_fuzz::folder;

fuzz_target!(|bytes: &[u8]| {
    let Some(gguf) = folder(&[("config.json", sovereign_fuzz::CONFIG), ("model.safetensors", bytes)]) else { return };
    for tensor in gguf.tensors() {
        let _ = gguf.bytes(tensor).len();
    }
});

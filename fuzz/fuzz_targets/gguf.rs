//! A model file: its header, its tokenizer, its template.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sovereign_fuzz::engine::footprint::Footprint;
use sovereign_fuzz::engine::gguf::Header;
use sovereign_fuzz::engine::template::{Chat, Template};
use sovereign_fuzz::engine::tokenizer::{Special, Tokenizer};
use std::io::Cursor;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::read(Cursor::new(bytes), Path::new("fuzz")) else { return };
    let _ = header.summary();
    let Some(gguf) = sovereign_fuzz::opened(bytes) else { return };
    let _ = Footprint::of(&gguf);
    for tensor in gguf.tensors() {
        let _ = gguf.bytes(tensor).len();
    }
    let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) else { return };
    let text = "Hi <s> \u{1f999}\n\n  12";
    for special in [Special::Parse, Special::Plain] {
        let _ = tokenizer.decode(&tokenizer.encode(text, special, true));
    }
    let _ = Template::from_gguf(gguf.metadata(), &tokenizer).render(&Chat::default());
});

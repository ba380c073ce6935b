//! A folder of a model for embeddings. The first byte says of which kind, the second which of its files is the input: the
//! configuration, the tokenizer, the pooling, or what the weights' file says of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sovereign_fuzz::engine::footprint::{Footprint, Servable};
use sovereign_fuzz::engine::model::{Embedder, Model, Options};
use sovereign_fuzz::engine::safetensors;
use sovereign_fuzz::engine::tokenizer::{Special, Tokenizer};
use std::path::Path;
use std::sync::Arc;

/// A sound model.
struct Sound {
    files: [&'static [u8]; 4],
    modules: &'static [u8],
    limit: &'static [u8],
}

const FILES: [&str; 4] = ["config.json", "tokenizer.json", "1_Pooling/config.json", "model.safetensors"];

macro_rules! sound {
    ($kind:literal) => {{
        macro_rules! file {
            ($name:literal) => {
                include_bytes!(concat!("../../tests/fixtures/safetensors/", $kind, "/", $name)) as &[u8]
            };
        }
        Sound {
            files: [
                file!("config.json"),
                file!("tokenizer.json"),
                file!("1_Pooling/config.json"),
                file!("model.safetensors"),
            ],
            modules: file!("modules.json"),
            limit: file!("sentence_bert_config.json"),
        }
    }};
}

/// Of the weights' file only the beginning is replaced, which tells of them.
fn weights(header: &[u8], sound: &[u8]) -> Vec<u8> {
    let length = sound.first_chunk().map_or(0, |length| u64::from_le_bytes(*length)) as usize;
    [&(header.len() as u64).to_le_bytes(), header, &sound[8 + length..]].concat()
}

fn run(folder: &Path) -> Option<()> {
    let gguf = safetensors::open(folder).ok()?;
    let tokenizer = Tokenizer::from_gguf(&gguf).ok()?;
    let tokens = tokenizer.encode("Hi <s> \u{1f999}\n\n  12 ﬁ", Special::Plain, true);
    let _ = tokenizer.decode(&tokens);
    let footprint = Footprint::of(&gguf);
    // What was refused must not load, and what would take more is refused by whoever has it to give.
    if footprint.servable != Servable::Yes || footprint.total(64, 1) > 256 << 20 {
        return None;
    }
    let model = Model::load(Arc::new(gguf), Options { threads: Some(1), ..Options::default() }).ok()?;
    let mut embedder = Embedder::new(model, 64, 1).ok()?;
    let tokens: Vec<u32> = tokens.into_iter().take(8).collect();
    let _ = embedder.embed(&[&tokens]);
    Some(())
}

fuzz_target!(|input: &[u8]| {
    let [kind, file, bytes @ ..] = input else { return };
    let sound = match kind {
        b'b' => sound!("bert"),
        b'n' => sound!("nomic-bert"),
        _ => sound!("xlm-roberta"),
    };
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes);
    let changed = b"ctpw".iter().position(|of| of == file).unwrap_or(0);
    let others = || -> std::io::Result<()> {
        std::fs::create_dir(folder.path().join("1_Pooling"))?;
        write("modules.json", sound.modules)?;
        write("sentence_bert_config.json", sound.limit)?;
        (0..4).filter(|at| *at != changed).try_for_each(|at| write(FILES[at], sound.files[at]))
    };
    let input = if changed == 3 { weights(bytes, sound.files[3]) } else { bytes.to_vec() };
    if others().and_then(|()| write(FILES[changed], &input)).is_ok() {
        let _ = run(folder.path());
    }
});

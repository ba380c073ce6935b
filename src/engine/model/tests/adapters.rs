//! Adapters: agreement with `peft` in floats, frozen by `tests/parity/lora.py`, and that they do not touch each other.

use super::architectures::{Decoder, agrees, fixture};
use super::*;
use crate::engine::footprint::{Footprint, Servable};

fn adapter(name: &str) -> std::path::PathBuf {
    std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lora").join(name)
}

fn base(name: &str) -> Arc<Gguf> {
    Arc::new(Gguf::open(&fixture(&format!("{name}.gguf"))).unwrap())
}

fn adapted(base: &Arc<Gguf>, adapters: &[&str]) -> (Model, Vec<Chain>) {
    let loras: Vec<Lora> = adapters.iter().map(|name| Lora::open(&adapter(name), base).unwrap()).collect();
    let options = Options { threads: Some(2), ..Options::default() };
    (Model::load_adapted(base.clone(), &loras, options).unwrap(), loras.iter().map(Lora::root).collect())
}

fn expected(name: &str) -> (String, Decoder) {
    #[derive(serde::Deserialize)]
    struct Expected {
        base: String,
        #[serde(flatten)]
        decoder: Decoder,
    }
    let file = std::fs::read_to_string(adapter(name).join("expected.json")).unwrap();
    let Expected { base, decoder } = serde_json::from_str(&file).unwrap();
    (base, decoder)
}

/// That a folder and its GGUF form, if there is one, give what `peft` says.
fn check(name: &str, has_file: bool) {
    let (base_name, decoder) = expected(name);
    let base = base(&base_name);
    let file = format!("{name}/adapter.gguf");
    let forms = [(name, true), (file.as_str(), has_file)];
    for (form, _) in forms.into_iter().filter(|(_, there)| *there) {
        let lora = Lora::open(&adapter(form), &base).unwrap();
        for isa in [Isa::Scalar, Isa::detect()] {
            let model = Model::on_cpu(&base, std::slice::from_ref(&lora), Cpu::with_isa(2, isa)).unwrap();
            agrees(&model, lora.root(), &decoder, &format!("{form}, {isa:?}"));
        }
        // The header alone tells the same.
        let header = Lora::header(&adapter(form), &base).unwrap();
        assert_eq!((header.rank(), header.bytes()), (lora.rank(), lora.bytes()));
        let footprint = Footprint::adapted(&base, &[header]);
        assert_eq!(footprint.servable, Servable::Yes);
        let more = footprint.workspace(64, 2) - Footprint::of(&base).workspace(64, 2);
        assert_eq!(more, lora.bytes() + 4 * (ROWS * lora.rank()) as u64);
    }
}

#[test]
fn llama() {
    check("llama", true);
    check("llama-half", true);
    check("mistral", true);
    check("llama-patterns", false);
}

#[test]
fn qwen() {
    check("qwen2", true);
    check("qwen3", true);
}

#[test]
fn gemma3() {
    check("gemma3", true);
}

/// Adapters of one model: all matrices, and those of attention alone.
const TWO: [&str; 2] = ["llama", "llama-half/adapter.gguf"];

#[test]
fn a_batch_of_several_gives_what_each_gives_alone() {
    let base = base("llama-3");
    let (model, roots) = adapted(&base, &TWO);
    let roots = [Chain::default(), roots[0], roots[1], roots[0]];
    let tokens: Vec<u32> = (0..40).map(|i| i * 11 % 96).collect();
    let alone = roots.map(|root| {
        let mut cache = model.cache(1, 64).unwrap();
        cache.blocks().begin(0, root, &tokens).unwrap();
        logits(&model, &mut cache, 0, &tokens, 7)
    });
    assert!(alone[0] != alone[1] && alone[1] != alone[2] && alone[0] != alone[2] && alone[1] == alone[3]);
    let plain = Model::load(base, Options { threads: Some(1), ..Options::default() }).unwrap();
    assert_eq!(logits(&plain, &mut plain.cache(1, 64).unwrap(), 0, &tokens, 40), alone[0], "beside adapters");

    // Steps of answers and pieces of prompts, of each in another place.
    let mut cache = model.cache(4, 64).unwrap();
    for (slot, root) in roots.into_iter().enumerate() {
        assert_eq!(cache.blocks().begin(slot, root, &tokens).unwrap(), 0);
    }
    let mut together: [Vec<f32>; 4] = Default::default();
    while (0..4).any(|slot| cache.len(slot) < tokens.len()) {
        let mut batch = Batch::new();
        for (slot, piece) in [(2, 3), (0, 1), (3, 9), (1, 5)] {
            let from = cache.len(slot);
            for (position, &token) in tokens.iter().enumerate().skip(from).take(piece) {
                batch.push(token, slot, position, true);
            }
        }
        let logits = model.forward(&mut cache, &batch).unwrap();
        for (row, entry) in batch.entries().iter().enumerate() {
            together[entry.slot].extend(logits.row(row));
        }
    }
    assert_eq!(together, alone);
}

#[test]
fn logits_of_some_rows_are_adapted_too() {
    let base = base("llama-2");
    let (model, roots) = adapted(&base, &["llama-patterns"]);
    let tokens = &TOKENS[..12];
    let mut cache = model.cache(2, 64).unwrap();
    cache.blocks().begin(1, roots[0], tokens).unwrap();
    let all = logits(&model, &mut cache, 1, tokens, 12);
    // Those of the model alone in between, and few that are wanted.
    let mut cache = model.cache(2, 64).unwrap();
    cache.blocks().begin(1, roots[0], tokens).unwrap();
    let mut batch = Batch::new();
    for (position, &token) in tokens.iter().enumerate() {
        batch.push(token, 0, position, position == 2);
        batch.push(token, 1, position, [3, 7].contains(&position));
    }
    let found = model.forward(&mut cache, &batch).unwrap();
    assert_eq!((found.row(1), found.row(2)), (&all[3 * 96..4 * 96], &all[7 * 96..8 * 96]));
    assert_ne!(found.row(0), &all[2 * 96..3 * 96]);
}

#[test]
fn conversations_that_begin_alike_share_nothing_across_adapters() {
    let (model, roots) = adapted(&base("llama-3"), &TWO);
    let tokens: Vec<u32> = (0..80).map(|i| i * 7 % 96).collect();
    let mut cache = model.cache(3, 128).unwrap();
    let fresh = roots.iter().map(|&root| {
        cache.blocks().begin(0, root, &tokens).unwrap();
        assert_eq!((cache.len(0), cache.blocks().adopt_part(0, &tokens)), (0, 0));
        logits(&model, &mut cache, 0, &tokens, 80)
    });
    let fresh: Vec<Vec<f32>> = fresh.collect();
    // Again, with what each of them left.
    for (&root, fresh) in roots.iter().zip(&fresh) {
        let found = cache.blocks().begin(1, root, &tokens).unwrap();
        assert_eq!(found, 64);
        assert_eq!(logits(&model, &mut cache, 1, &tokens[found..], 5), fresh[found * 96..]);
    }
}

#[test]
fn what_computes_the_same_has_one_root() {
    let base = base("llama-3");
    let root = |name: &str| Lora::open(&adapter(name), &base).unwrap().root();
    assert_eq!(root("llama"), root("llama"));
    assert_ne!(root("llama"), root("llama-half"));
    assert_ne!(root("llama"), Chain::default());
    // Under two names it is added once.
    let (twice, roots) = adapted(&base, &["llama", "llama"]);
    agrees(&twice, roots[1], &expected("llama").1, "twice");
}

#[test]
fn cards_do_not_take_them() {
    let base = base("llama-3");
    let lora = Lora::open(&adapter("llama"), &base).unwrap();
    let options = Options { device: Device::Cuda(Which::Number(0)), ..Options::default() };
    let error = Model::load_adapted(base, &[lora], options).err().unwrap().to_string();
    assert!(error.contains("lora/llama: adapters are applied on the processor only (--device cpu)"), "{error}");
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let check = |name: &str, model: &str, words: &str| {
        let base = base(model);
        let opened = Lora::open(&adapter(name), &base);
        let loaded = opened.and_then(|lora| {
            let loras = [lora];
            let refused = Model::load_adapted(base.clone(), &loras, Options::default());
            if let (Servable::No(reason), Err(error)) = (Footprint::adapted(&base, &loras).servable, &refused) {
                assert_eq!(reason, error.to_string());
            }
            refused
        });
        let error = loaded.err().expect(words).to_string();
        assert!(error.starts_with("the adapter ") && error.contains(words), "{error}");
    };
    check("qwen2/adapter.gguf", "qwen3", "\"general.architecture\" is \"qwen2\", expected \"qwen3\"");
    check("qwen2", "qwen3", "blk.0.attn_q.weight.lora_b has the dimensions [4, 32], for a matrix of 48 rows of 32");
    check(
        "qwen3",
        "qwen2-yarn",
        "blk.0.attn_q.weight.lora_b has the dimensions [4, 48], for a matrix of 32 rows of 32",
    );
    check("llama", "llama-2", "blk.0.attn_k.weight.lora_b has the dimensions [4, 16], for a matrix of 32 rows of 32");
    check("qwen3", "qwen3-embedding", "the model is one for embeddings");
    check("qwen3", "bert", "the model is one for embeddings");
}

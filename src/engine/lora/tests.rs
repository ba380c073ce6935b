use super::*;
use crate::engine::footprint::{Footprint, Servable};
use crate::engine::gguf::{Kind, Writer};
use crate::engine::model::tests::tiny::Tiny;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::LazyLock;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A llama: 32 wide, 64 hidden, 4 heads of 8 over 2.
static BASE: LazyLock<std::sync::Arc<Gguf>> = LazyLock::new(|| Tiny::new("llama").gguf());

/// Opens what lies there, and has it checked against the model. The mapped form and the header must say the same.
fn opened(path: &Path, base: &Header) -> Result<Lora, String> {
    let check = |lora: Result<Lora, Error>| {
        let loras = [lora.map_err(|error| error.to_string())?];
        match Footprint::adapted(base, &loras).servable {
            Servable::Yes => Ok(loras),
            Servable::No(reason) => Err(reason),
        }
    };
    let (mapped, header) = (check(Lora::open(path, base)), check(Lora::header(path, base)));
    assert_eq!(mapped.as_ref().err(), header.as_ref().err());
    mapped.map(|[lora]| lora)
}

#[track_caller]
fn refused(path: &Path, words: &str) {
    let error = opened(path, &BASE).err().unwrap_or_else(|| panic!("accepted: {words}"));
    assert!(error.starts_with(&format!("the adapter {}: ", path.display())) && error.contains(words), "{error}");
}

/// The metadata of an adapter, with one key otherwise.
fn metadata(change: &str, value: &str) -> Writer<'static> {
    let mut writer = Writer::new();
    let keys = [("general.type", "adapter"), ("adapter.type", "lora"), ("general.architecture", "llama")];
    for (key, usual) in keys {
        writer.set(key, if key == change { value } else { usual });
    }
    writer
}

fn saved(writer: &Writer) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), writer.to_vec()).unwrap();
    file
}

/// A pair for the queries of the first layer: rank 2.
const Q: [(&str, &[u64]); 2] = [("blk.0.attn_q.weight.lora_a", &[32, 2]), ("blk.0.attn_q.weight.lora_b", &[2, 32])];

fn with(mut writer: Writer<'static>, tensors: &[(&str, &[u64])]) -> tempfile::NamedTempFile {
    for (name, dims) in tensors {
        writer.tensor_f32(name, dims, &vec![0.5; dims.iter().product::<u64>() as usize]);
    }
    saved(&writer)
}

#[test]
fn files_are_checked() {
    let plain = || metadata("", "");
    let check = |tensors: &[(&str, &[u64])], words: &str| refused(with(plain(), tensors).path(), words);
    assert!(opened(with(plain(), &Q).path(), &BASE).is_ok());
    check(&[], "it has no tensors");
    check(&Q[..1], "the tensor blk.0.attn_q.weight.lora_a has no blk.0.attn_q.weight.lora_b beside it");
    check(&Q[1..], "the tensor blk.0.attn_q.weight.lora_b has no blk.0.attn_q.weight.lora_a beside it");
    check(&[Q[0], (Q[1].0, &[3, 32])], "lora_a has the rank 2, and blk.0.attn_q.weight.lora_b has 3");
    check(&[(Q[0].0, &[16, 2]), Q[1]], "lora_a has the dimensions [16, 2], for a matrix of 32 rows of 32");
    check(&[Q[0], (Q[1].0, &[2, 31])], "lora_b has the dimensions [2, 31], for a matrix of 32 rows of 32");
    check(&[(Q[0].0, &[32, 2, 2]), Q[1]], "which are not those of a matrix");
    check(&[Q[0], Q[1], ("blk.0.attn_norm.weight", &[32])], "blk.0.attn_norm.weight is whole, not of low rank");
    let low = |name: &str| [format!("{name}.lora_a"), format!("{name}.lora_b")];
    let [a, b] = low("token_embd.weight");
    check(&[(&a, &[32, 2]), (&b, &[2, 50])], "it adds to token_embd.weight; supported are");
    let [a, b] = low("blk.2.attn_q.weight");
    check(&[(&a, &[32, 2]), (&b, &[2, 32])], "it adds to blk.2.attn_q.weight, which the model does not have");
    let [a, b] = low("blk.0.attn_norm.weight");
    check(&[(&a, &[32, 1]), (&b, &[1, 1])], "it adds to blk.0.attn_norm.weight, which the model does not have");
    let [a, b] = low("output.weight");
    check(&[(&a, &[1, 5000]), (&b, &[5000, 1])], "has the rank 5000, more than 4096");

    let check = |key: &str, value: &str, words: &str| refused(with(metadata(key, value), &Q).path(), words);
    check("general.type", "model", "\"general.type\" is \"model\", expected \"adapter\"");
    check("adapter.type", "control_vector", "\"adapter.type\" is \"control_vector\", expected \"lora\"");
    check("general.architecture", "qwen2", "\"general.architecture\" is \"qwen2\", expected \"llama\"");
    let mut begins = plain();
    begins.array("adapter.alora.invocation_tokens", &[1_u32, 2]);
    refused(with(begins, &Q).path(), "aLoRA");
    let mut endless = plain();
    endless.set("adapter.lora.alpha", f32::INFINITY);
    refused(with(endless, &Q).path(), "\"adapter.lora.alpha\"");
    let mut text = plain();
    text.set("adapter.lora.alpha", "8");
    refused(with(text, &Q).path(), "\"adapter.lora.alpha\" in the model's metadata is text");
    let mut whole = plain();
    whole.tensor(Q[0].0, Q[0].1, Kind::I8, vec![0; 64]).tensor_f32(Q[1].0, Q[1].1, &[0.5; 64]);
    refused(saved(&whole).path(), "lora_a is of the kind I8, which is not supported");
    refused(&fixture("architectures/llama-2.gguf"), "the model file has no \"general.type\"");
    refused(&fixture("architectures/llama-2.json"), "this is not a GGUF file");
    refused(&fixture("nothing.gguf"), "cannot read");
}

#[test]
fn numbers_are_scaled_and_must_be_some() {
    let mut writer = metadata("", "");
    writer.set("adapter.lora.alpha", 6.0_f32);
    writer.tensor_f32(Q[0].0, Q[0].1, &[0.5; 64]);
    let b: Vec<f32> = (0..64).map(|i| i as f32).collect();
    writer.tensor_f32(Q[1].0, Q[1].1, &b);
    let file = saved(&writer);
    let lora = Lora::open(file.path(), &BASE).unwrap();
    let (_, pair) = lora.pair("blk.0.attn_q", 32, 32).unwrap().unwrap();
    let [a, b] = lora.read(pair).unwrap();
    assert_eq!((a, &b[..3], &b[32..35]), (vec![0.5; 64], &[0.0, 6.0, 12.0][..], &[3.0, 9.0, 15.0][..]));

    let mut writer = metadata("", "");
    writer.tensor_f32(Q[0].0, Q[0].1, &[f32::NAN; 64]).tensor_f32(Q[1].0, Q[1].1, &[0.5; 64]);
    let file = saved(&writer);
    let lora = Lora::open(file.path(), &BASE).unwrap();
    let error = lora.read(lora.pair("blk.0.attn_q", 32, 32).unwrap().unwrap().1).unwrap_err().to_string();
    assert!(error.contains("blk.0.attn_q.weight.lora_a holds NaN"), "{error}");
}

/// A copy of a folder with its configuration or weights changed.
fn folder(change: impl FnOnce(&mut Value), weights: impl FnOnce(Vec<u8>) -> Vec<u8>) -> tempfile::TempDir {
    let (from, copy) = (fixture("lora/llama"), tempfile::tempdir().unwrap());
    let read = |name: &str| std::fs::read(from.join(name)).unwrap();
    let mut config = serde_json::from_slice(&read("adapter_config.json")).unwrap();
    change(&mut config);
    std::fs::write(copy.path().join("adapter_config.json"), config.to_string()).unwrap();
    std::fs::write(copy.path().join("adapter_model.safetensors"), weights(read("adapter_model.safetensors"))).unwrap();
    copy
}

#[test]
fn rows_of_llamas_queries_and_keys_are_put_in_pairs() {
    let pair = |module: &str, outputs: usize, from: usize| {
        let head = |half: &str, shape: [usize; 2], from: usize| {
            let to = from + 4 * shape[0] * shape[1];
            let name = format!("base_model.model.model.layers.0.self_attn.{module}.lora_{half}.weight");
            (name, json!({"dtype": "F32", "shape": shape, "data_offsets": [from, to]}), to)
        };
        let (a, a_entry, end) = head("A", [1, 32], from);
        let (b, b_entry, end) = head("B", [outputs, 1], end);
        ([(a, a_entry), (b, b_entry)], end)
    };
    let (q, end) = pair("q_proj", 16, 0);
    let (k, end) = pair("k_proj", 8, end);
    let (v, end) = pair("v_proj", 8, end);
    let header: serde_json::Map<String, Value> = q.into_iter().chain(k).chain(v).collect();
    let header = Value::from(header).to_string();
    let numbers =
        [vec![0; 32], (0..16).collect(), vec![0; 32], (0..8).collect(), vec![0; 32], (0..8).collect()].concat();
    let data: Vec<u8> = numbers.into_iter().flat_map(|number: u8| f32::from(number).to_le_bytes()).collect();
    assert_eq!(data.len(), end);
    let weights = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    let set = |config: &mut Value| {
        config["r"] = 1.into();
        config["lora_alpha"] = 1.into();
    };
    let copy = folder(set, |_| weights);
    let check = |architecture, name: &str, expected: &[usize]| {
        // One head of keys is a head too.
        let base = Tiny { heads: 2, kv_heads: 1, ..Tiny::new(architecture) }.gguf();
        let lora = opened(copy.path(), &base).unwrap();
        let (_, pair) = lora.pair(name, expected.len(), 32).unwrap().unwrap();
        let expected: Vec<f32> = expected.iter().map(|&row| row as f32).collect();
        assert_eq!(lora.read(pair).unwrap()[1], expected, "{architecture}, {name}");
    };
    let plain = [0, 1, 2, 3, 4, 5, 6, 7];
    check("llama", "blk.0.attn_q", &[0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
    check("llama", "blk.0.attn_k", &[0, 4, 1, 5, 2, 6, 3, 7]);
    check("llama", "blk.0.attn_v", &plain);
    check("qwen2", "blk.0.attn_k", &plain);
}

static FOLDERS_BASE: LazyLock<Gguf> = LazyLock::new(|| Gguf::open(&fixture("architectures/llama-3.gguf")).unwrap());

#[test]
fn configurations_are_checked() {
    let refuse = |folder: &tempfile::TempDir, words: &str| {
        let error = opened(folder.path(), &FOLDERS_BASE).err().unwrap_or_else(|| panic!("accepted: {words}"));
        assert!(error.contains(words), "{error}");
    };
    let check = |name: &str, value: Value, words: &str| {
        refuse(&folder(|config| config[name] = value, |weights| weights), words);
    };
    check("peft_type", json!("IA3"), "adapter_config.json: \"peft_type\" is \"IA3\", expected \"LORA\"");
    check("r", json!(0), "\"r\" is 0, not within 1..=4096");
    check("r", json!(4.5), "\"r\" is 4.5");
    check("r", json!("4"), "\"r\" is \"4\", expected a number");
    check("r", json!(8), "and \"r\" is 8 for it");
    check("lora_alpha", Value::Null, "\"lora_alpha\" is null, expected a number");
    check("lora_alpha", json!(1e60), "the alpha of");
    check("use_rslora", json!("yes"), "\"use_rslora\" is \"yes\", expected true or false");
    check("use_dora", json!(true), "\"use_dora\" is true, which is not supported");
    check("bias", json!("all"), "\"bias\" is \"all\"");
    check("modules_to_save", json!(["lm_head"]), "\"modules_to_save\" is [\"lm_head\"]");
    check("alora_invocation_tokens", json!([1]), "\"alora_invocation_tokens\" is [1]");
    check("fan_in_fan_out", json!(true), "\"fan_in_fan_out\" is true");
    check("init_lora_weights", json!("pissa"), "\"init_lora_weights\" is \"pissa\", with which");
    check("rank_pattern", json!({"q_proj": 2}), "q_proj.lora_");
    check("rank_pattern", json!({"q_proj": -2}), "\"rank_pattern.q_proj\" is -2");
    check("rank_pattern", json!([1]), "\"rank_pattern\" is [1], expected numbers by names");
    check("alpha_pattern", json!({"q_proj": "x"}), "\"alpha_pattern.q_proj\" is \"x\", expected a number");
    check("alpha_pattern", json!({"q_(": 1}), "\"alpha_pattern\" has \"q_(\"");
    check("target_modules", Value::Null, "\"target_modules\" is missing");
    check("target_modules", json!(7), "\"target_modules\" is 7");
    check("target_modules", json!(["q_proj", 7]), "expected a text or a list of texts");
    check("target_modules", json!(["proj"]), "is of a module that \"target_modules\" does not name");
    check("target_modules", json!("("), "\"target_modules\" has \"(\"");
    check("padding", json!("x".repeat(1 << 20)), "it is longer than 1 MiB");

    let same = |_: &mut Value| {};
    let renamed = |from: &'static str, to: &'static str| {
        assert_eq!(from.len(), to.len());
        move |bytes: Vec<u8>| {
            let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
            [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
        }
    };
    let check = |from, to, words| refuse(&folder(same, renamed(from, to)), words);
    check("lora_A.weight", "lora_C.weight", "is neither lora_A nor lora_B of a linear map");
    check("self_attn.q_proj", "self_attn.x_proj", "self_attn.x_proj.lora_A.weight\" belongs to no module");
    check("\"F32\"", "\"I32\"", "is of the type I32: not supported");
    check("mlp.gate_proj.lora_A", "mlp.gate_proj.lora_B", "occurs twice");
    check("layers.1.mlp.down_proj.lora_A", "layers.7.mlp.down_proj.lora_A", "beside it");
    refuse(&folder(same, |bytes| bytes[..bytes.len() - 8].to_vec()), "are not within the");
    refuse(&folder(same, |_| vec![]), "adapter_model.safetensors: it has 0 bytes");

    let unsafe_form = folder(same, |weights| weights);
    let weights = unsafe_form.path().join("adapter_model.safetensors");
    std::fs::rename(weights, unsafe_form.path().join("adapter_model.bin")).unwrap();
    refuse(&unsafe_form, "adapter_model.bin may run any program");
    std::fs::remove_file(unsafe_form.path().join("adapter_config.json")).unwrap();
    refuse(&unsafe_form, "adapter_config.json");
}

/// Bytes with some of them changed, or cut off.
fn damaged(bytes: &[u8], changes: &[(prop::sample::Index, u8)], cut: Option<prop::sample::Index>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    changes.iter().for_each(|(at, byte)| *at.get_mut(&mut bytes) = *byte);
    bytes.truncate(cut.map_or(usize::MAX, |cut| cut.index(bytes.len())));
    bytes
}

fn changes() -> impl Strategy<Value = (Vec<(prop::sample::Index, u8)>, Option<prop::sample::Index>)> {
    // Headers are where things can go wrong.
    (
        prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4),
        prop::option::weighted(0.2, any::<prop::sample::Index>()),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_are_refused_or_read((changes, cut) in changes(), within in 0_usize..3) {
        let whole = std::fs::read(fixture("lora/llama/adapter.gguf")).unwrap();
        // The metadata, the table of tensors, or anywhere.
        let range = [0..400, 400..2400, 0..whole.len()][within].clone();
        let mut bytes = whole.clone();
        bytes.splice(range.clone(), damaged(&whole[range], &changes, cut));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        if let Ok(lora) = opened(file.path(), &FOLDERS_BASE) {
            // Numbers may be none.
            let _ = lora.pairs.values().try_for_each(|pair| lora.read(pair).map(drop));
        }
    }

    #[test]
    fn damaged_folders_are_refused_or_read((changes, cut) in changes(), config in any::<bool>()) {
        let copy = folder(|_| {}, |weights| weights);
        let path = copy.path().join(if config { "adapter_config.json" } else { "adapter_model.safetensors" });
        let whole = std::fs::read(&path).unwrap();
        let (head, rest) = whole.split_at(whole.len().min(4096));
        std::fs::write(&path, [&damaged(head, &changes, cut), rest].concat()).unwrap();
        if let Ok(lora) = opened(copy.path(), &FOLDERS_BASE) {
            let _ = lora.pairs.values().try_for_each(|pair| lora.read(pair).map(drop));
        }
    }
}

//! How positions turn, in all the ways in which `config.json` may say it: see `tests/parity/ropes.py`.

use super::{copied, folder, refused, replaced};
use crate::engine::gguf::Gguf;
use crate::engine::model::Hyper;
use crate::engine::quant::Format;
use crate::engine::safetensors::json;
use serde::Deserialize;
use serde_json::{Map, Value};

/// What transformers makes of some fields.
#[derive(Deserialize)]
struct Expected {
    name: String,
    /// Fields of `config.json`.
    fields: Map<String, Value>,
    /// Frequencies of short conversations.
    near: Vec<f64>,
    /// Of those that reach beyond what was trained at first.
    far: Vec<f64>,
    /// What cosines and sines are multiplied with.
    magnitude: f64,
}

#[test]
fn frequencies_are_those_of_transformers() {
    let all: Vec<Expected> = json(&folder("ropes.json")).unwrap();
    assert!(all.len() >= 10);
    for Expected { name, fields, near, far, magnitude } in all {
        let copy = tempfile::tempdir().unwrap();
        copied(&folder("qwen3-tied"), copy.path());
        let path = copy.path().join("config.json");
        let mut config: Map<String, Value> = json(&path).unwrap();
        config.remove("rope_parameters");
        config.extend(fields);
        std::fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
        let gguf = Gguf::open(copy.path()).unwrap();
        let hyper = Hyper::of(&gguf).unwrap();
        let found = |tensors: [&str; 2]| {
            let tensor = tensors.into_iter().find_map(|name| gguf.tensor(name));
            let factors = tensor.map(|tensor| {
                let mut numbers = vec![0.0; tensor.elements() as usize];
                Format::F32.dequantise(&gguf.bytes(tensor), &mut numbers);
                numbers
            });
            hyper.rope.frequencies(hyper.head, factors.as_deref())
        };
        for (tensor, expected) in [("rope_factors_short.weight", near), ("rope_factors_long.weight", far)] {
            let found = found([tensor, "rope_freqs.weight"]);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found / expected - 1.0).abs() < 1e-5, "{name}: {found} instead of {expected}");
            }
        }
        let gain = f64::from(hyper.rope.gain());
        assert!((gain / magnitude.powi(2) - 1.0).abs() < 1e-5, "{name}: {gain}, {magnitude}");
        let stretches = gguf.tensor("rope_factors_long.weight").is_some();
        assert_eq!((hyper.rope.is_far(32), hyper.rope.is_far(33)), (false, stretches), "{name}");
    }
}

#[test]
fn what_is_not_known_of_rotations_is_refused() {
    let check = |to, parts: &[&str]| {
        refused("qwen3-tied", "config.json", replaced("\"rope_type\": \"default\"", to), parts);
    };
    check("\"rope_type\": \"proportional\"", &["rope_type", "proportional"]);
    check("\"rope_type\": \"default\", \"mrope_section\": [2, 2, 2]", &["mrope_section"]);
    check("\"rope_type\": \"default\", \"partial_rotary_factor\": 0.5", &["partial_rotary_factor", "0.5"]);
    check("\"rope_type\": \"yarn\", \"factor\": 4, \"truncate\": false", &["truncate"]);
    check("\"rope_type\": \"linear\"", &["factor", "missing"]);
    check("\"rope_type\": \"llama3\", \"factor\": 8", &["low_freq_factor", "missing"]);
    check("\"rope_type\": \"longrope\", \"long_factor\": [1]", &["long_factor", "6 numbers"]);
    let gemma = |from, to, parts: &[&str]| refused("gemma3", "config.json", replaced(from, to), parts);
    gemma("\"rope_type\": \"default\"", "\"rope_type\": \"linear\", \"factor\": 2", &["rope_type", "window"]);
}

//! Whole models on an NVIDIA card against the plain computation. Without a card they say so and pass.

use super::*;
use crate::engine::kernels::cuda::tests::cuda;
use crate::engine::kv_cache::Capacity;

/// Activations are rounded to halves, keys and values too; that is all, layer after layer. Rounding to 8 bits, as a
/// processor does, is allowed 3e-3.
const HALVES: f64 = 1e-4;

fn load_there(tiny: &Tiny) -> Model {
    Model::load(tiny.gguf(), Options { device: Device::Cuda(Which::Number(0)), ..Options::default() }).unwrap()
}

fn check_there(tiny: &Tiny) {
    if cuda().is_none() {
        return;
    }
    let expected = tiny.reference(&tiny.gguf(), &TOKENS).concat();
    let model = load_there(tiny);
    for piece in [1, 3, 8, 20] {
        let mut cache = model.cache(2, 32).unwrap();
        // Passes of one token are recorded at the second and repeated from then on.
        for slot in [1, 0] {
            let found = logits(&model, &mut cache, slot, &TOKENS, piece);
            let nmse = nmse(&found, &expected);
            assert!(nmse < HALVES, "{tiny:?} in pieces of {piece}: nmse {nmse}");
        }
    }
}

#[test]
fn architectures() {
    for architecture in ["llama", "qwen2", "qwen3", "gemma3"] {
        let tiny = Tiny::new(architecture);
        check_there(&tiny);
        check_there(&Tiny { tied: !tiny.tied, kv_heads: 1, ..tiny.clone() });
        check_there(&Tiny { head: 64, width: 256, hidden: 512, heads: 8, ..tiny.clone() });
        check_there(&Tiny { head: 128, width: 256, hidden: 512, linear: Some(4.0), ..tiny.clone() });
        // Qwen's have no windows.
        let window = if architecture.starts_with("qwen") { None } else { Some(6) };
        check_there(&Tiny { head: 256, width: 256, hidden: 512, softcap: Some(3.0), window, ..tiny });
    }
}

#[test]
fn keys_and_values_of_fewer_bits_are_those_of_the_processor() {
    if cuda().is_none() {
        return;
    }
    for (architecture, head) in [("llama", 64), ("qwen3", 128), ("gemma3", 96), ("llama", 32)] {
        let tiny = Tiny { head, width: 256, hidden: 512, layers: 2, ..Tiny::new(architecture) };
        let (here, there) = (load(&tiny), load_there(&tiny));
        // What differs by the rounding to halves may be rounded to another number of few bits, layer after layer.
        for (kind, most) in [(KvKind::Fp8, 5e-3), (KvKind::Q4, 2e-2)] {
            let capacity = Capacity { kind, ..Capacity::whole(1, 32) };
            let expected = logits(&here, &mut here.cache_of(capacity).unwrap(), 0, &TOKENS, 3);
            let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
            for piece in [1, 8, 20] {
                let found = logits(&there, &mut there.cache_of(capacity).unwrap(), 0, &TOKENS, piece);
                let nmse = nmse(&found, &expected);
                assert!(nmse < most, "{tiny:?} as {kind:?} in pieces of {piece}: nmse {nmse}");
            }
        }
    }
}

#[test]
fn formats() {
    let Some(cuda) = cuda() else { return };
    for &format in Format::ALL.iter().filter(|&&format| cuda.computes(format)) {
        check_there(&Tiny { format, width: 256, head: 64, hidden: 512, ..Tiny::new("qwen2") });
    }
}

#[test]
fn repeated_passes_of_several_conversations() {
    if cuda().is_none() {
        return;
    }
    let tiny = Tiny { format: Format::Q4K, width: 256, head: 64, hidden: 512, ..Tiny::new("llama") };
    let expected = tiny.reference(&tiny.gguf(), &TOKENS);
    let model = load_there(&tiny);
    let (mut cache, mut other) = (model.cache(4, 32).unwrap(), model.cache(4, 32).unwrap());
    for (position, &token) in TOKENS.iter().enumerate() {
        for cache in [&mut cache, &mut other] {
            let mut batch = Batch::new();
            for slot in [2, 0, 3] {
                batch.push(token, slot, position, slot != 0);
            }
            let found = model.forward(cache, &batch).unwrap();
            for row in 0..2 {
                let nmse = nmse(found.row(row), &expected[position]);
                assert!(nmse < HALVES, "row {row} at {position}: nmse {nmse}");
            }
        }
    }
}

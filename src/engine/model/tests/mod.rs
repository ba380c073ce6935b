mod adapters;
mod architectures;
mod cuda;
mod memory;
mod real;
mod refusals;
pub mod tiny;

use super::*;
use crate::engine::kernels::KvKind;
use crate::engine::quant::Format;
use crate::engine::quant::tests::nmse;
use tiny::Tiny;

/// What is left when floats are added in another order, and a key on the border between two halves goes to the other.
const EXACT: f64 = 1e-6;

const TOKENS: [u32; 20] = [3, 14, 15, 9, 2, 6, 5, 35, 8, 9, 7, 9, 32, 38, 46, 26, 43, 3, 0, 49];

fn load(tiny: &Tiny) -> Model {
    Model::load(tiny.gguf(), Options { threads: Some(2), ..Options::default() }).unwrap()
}

/// The logits after each token, when they come in pieces of `piece`.
fn logits(model: &Model, cache: &mut KvCache, slot: usize, tokens: &[u32], piece: usize) -> Vec<f32> {
    let mut all = Vec::new();
    for tokens in tokens.chunks(piece) {
        let mut batch = Batch::new();
        for &token in tokens {
            batch.push(token, slot, cache.len(slot) + batch.len(), true);
        }
        let logits = model.forward(cache, &batch).unwrap();
        (0..logits.rows()).for_each(|row| all.extend(logits.row(row)));
    }
    all
}

/// That the logits are those of the plain computation, and the same bits however the tokens come and are shared.
fn check(tiny: &Tiny, error: f64) {
    let gguf = tiny.gguf();
    let expected = tiny.reference(&gguf, &TOKENS).concat();
    let model = Model::load(gguf.clone(), Options { threads: Some(2), ..Options::default() }).unwrap();
    let found = logits(&model, &mut model.cache(2, 32).unwrap(), 1, &TOKENS, TOKENS.len());
    let nmse = nmse(&found, &expected);
    assert!(nmse < error, "{tiny:?}: nmse {nmse}");
    for (piece, threads) in [(1, 1), (3, 2), (8, 3)] {
        let model = Model::load(gguf.clone(), Options { threads: Some(threads), ..Options::default() }).unwrap();
        let mut cache = model.cache(2, 32).unwrap();
        assert_eq!(logits(&model, &mut cache, 1, &TOKENS, piece), found, "{tiny:?} in pieces of {piece}");
    }
}

#[test]
fn llama() {
    let llama = Tiny::new("llama");
    check(&llama, EXACT);
    check(&Tiny { tied: true, kv_heads: 4, ..llama.clone() }, EXACT);
    check(&Tiny { factors: true, ..llama.clone() }, EXACT);
    check(&Tiny { linear: Some(4.0), ..llama.clone() }, EXACT);
    check(&Tiny { window: Some(6), ..llama }, EXACT);
}

#[test]
fn qwen2() {
    let qwen = Tiny::new("qwen2");
    check(&qwen, EXACT);
    check(&Tiny { tied: true, heads: 6, kv_heads: 1, ..qwen }, EXACT);
}

#[test]
fn qwen3() {
    let qwen = Tiny { head: 12, ..Tiny::new("qwen3") };
    check(&qwen, EXACT);
    check(&Tiny { tied: true, kv_heads: 1, linear: Some(2.0), ..qwen }, EXACT);
}

#[test]
fn gemma3() {
    let gemma = Tiny::new("gemma3");
    check(&gemma, EXACT);
    check(&Tiny { softcap: Some(3.0), kv_heads: 1, ..gemma.clone() }, EXACT);
    check(&Tiny { linear: Some(8.0), tied: false, ..gemma }, EXACT);
}

#[test]
fn every_format() {
    for &format in Format::ALL {
        // Activations are rounded to 8 bits on their way through quantised layers.
        let error = if format.block_len() == 1 { EXACT } else { 3e-3 };
        check(&Tiny { format, width: 256, head: 64, hidden: 512, ..Tiny::new("qwen2") }, error);
    }
}

#[test]
fn slots_do_not_see_each_other() {
    for architecture in ["llama", "qwen2", "qwen3", "gemma3"] {
        let model = load(&Tiny::new(architecture));
        let (a, b) = TOKENS.split_at(9);
        let alone = |tokens: &[u32]| logits(&model, &mut model.cache(1, 32).unwrap(), 0, tokens, 32);
        let (alone_a, alone_b) = (alone(a), alone(b));

        // A prompt and an answer's steps in the same batches, in slots other than those alone.
        let mut cache = model.cache(3, 32).unwrap();
        let mut together: [Vec<f32>; 2] = Default::default();
        let (mut a, mut b) = (a.iter().enumerate(), b.iter().enumerate());
        loop {
            let mut batch = Batch::new();
            for (position, &token) in a.by_ref().take(1) {
                batch.push(token, 2, position, true);
            }
            for (position, &token) in b.by_ref().take(4) {
                batch.push(token, 0, position, true);
            }
            if batch.is_empty() {
                break;
            }
            let logits = model.forward(&mut cache, &batch).unwrap();
            for (row, entry) in batch.entries().iter().enumerate() {
                together[usize::from(entry.slot == 0)].extend(logits.row(row));
            }
        }
        assert_eq!(together, [alone_a, alone_b]);
        assert_eq!((cache.len(0), cache.len(1), cache.len(2)), (11, 0, 9));
    }
}

#[test]
fn a_prefix_is_kept() {
    let model = load(&Tiny::new("gemma3"));
    let mut cache = model.cache(1, 32).unwrap();
    let fresh = logits(&model, &mut cache, 0, &TOKENS, 4);
    // Another ending, then the first one again.
    cache.truncate(0, 12);
    logits(&model, &mut cache, 0, &[1, 1, 1, 1], 4);
    cache.truncate(0, 12);
    cache.truncate(0, 99);
    assert_eq!(cache.len(0), 12);
    let again = logits(&model, &mut cache, 0, &TOKENS[12..], 4);
    assert_eq!(fresh[12 * 50..], again);
}

#[test]
fn what_is_shared_or_copied_is_what_would_be_computed() {
    for architecture in ["llama", "qwen2", "gemma3"] {
        let model = load(&Tiny::new(architecture));
        let tokens: Vec<u32> = (0..100).map(|i| i * 7 % 50).collect();
        let fresh = logits(&model, &mut model.cache(1, 128).unwrap(), 0, &tokens, 100);
        let mut cache = model.cache(3, 128).unwrap();
        logits(&model, &mut cache, 2, &tokens[..81], 40);
        // Whole blocks are shared, and the beginning of one is copied: of the slot that has most.
        for (slot, whole, part) in [(0, 64, 17), (1, 96, 3)] {
            let blocks = cache.blocks();
            let found = blocks.begin(slot, Chain::root(&[]), &tokens).unwrap();
            assert_eq!((found, blocks.adopt_part(slot, &tokens)), (whole, part));
            let rest = whole + part..;
            assert_eq!(logits(&model, &mut cache, slot, &tokens[rest.clone()], 7), fresh[rest.start * 50..]);
        }
        assert_eq!(logits(&model, &mut cache, 2, &tokens[81..], 19), fresh[81 * 50..], "{architecture}");
        // Back within a block that others see, and on another way.
        cache.truncate(0, 40);
        logits(&model, &mut cache, 0, &[1; 30], 30);
        cache.truncate(1, 99);
        assert_eq!(logits(&model, &mut cache, 1, &tokens[99..], 1), fresh[99 * 50..], "{architecture}");
    }
}

#[test]
fn only_what_wants_logits_gets_them() {
    let model = load(&Tiny::new("llama"));
    let all = logits(&model, &mut model.cache(1, 32).unwrap(), 0, &TOKENS, 32);
    let mut cache = model.cache(1, 32).unwrap();
    let mut batch = Batch::new();
    for (position, &token) in TOKENS.iter().enumerate() {
        batch.push(token, 0, position, [4, 5, 19].contains(&position));
    }
    let logits = model.forward(&mut cache, &batch).unwrap();
    assert_eq!(logits.rows(), 3);
    for (row, position) in [4, 5, 19].into_iter().enumerate() {
        assert_eq!(logits.row(row), &all[position * 50..][..50]);
    }
    batch.clear();
    assert_eq!(model.forward(&mut cache, &batch).unwrap().rows(), 0);
}

#[test]
fn a_long_batch_goes_through_in_steps() {
    let model = load(&Tiny::new("llama"));
    let tokens: Vec<u32> = (0..ROWS as u32 + 50).map(|i| i * 7 % 50).collect();
    let mut whole = model.cache(1, 512).unwrap();
    let mut pieces = model.cache(1, 512).unwrap();
    let found = logits(&model, &mut whole, 0, &tokens, tokens.len());
    assert_eq!(found.len(), tokens.len() * 50);
    assert_eq!(found, logits(&model, &mut pieces, 0, &tokens, 16));
}

#[test]
fn requests_out_of_bounds_change_nothing() {
    let model = load(&Tiny::new("qwen2"));
    let mut cache = model.cache(2, 8).unwrap();
    let before = logits(&model, &mut cache, 0, &TOKENS[..4], 4);
    let mut check = |entries: &[(u32, usize, usize)], words: &str| {
        let mut batch = Batch::new();
        entries.iter().for_each(|&(token, slot, position)| batch.push(token, slot, position, true));
        let error = model.forward(&mut cache, &batch).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!((cache.len(0), cache.len(1)), (4, 0));
    };
    check(&[(1, 0, 4), (50, 0, 5)], "no token 50; the vocabulary has 50");
    check(&[(1, 2, 0)], "no slot 2; the cache has 2");
    check(&[(1, 0, 4), (1, 0, 6)], "position 6 of slot 0, which holds 5 tokens");
    check(&[(1, 0, 3)], "position 3 of slot 0, which holds 4 tokens");
    let long: Vec<_> = (0..9).map(|position| (1, 1, position)).collect();
    check(&long, "slot 1 is full: its context is 8 tokens long");
    cache.truncate(0, 0);
    assert_eq!(logits(&model, &mut cache, 0, &TOKENS[..4], 4), before);

    let other = load(&Tiny::new("qwen2"));
    assert!(other.forward(&mut cache, &Batch::new()).unwrap_err().to_string().contains("another model"));
    let four_bits = model.cache_of(Capacity { kind: KvKind::Q4, ..Capacity::whole(1, 8) });
    assert!(four_bits.err().unwrap().to_string().contains("cannot be stored as q4"));
    assert!(model.cache(0, 8).is_err() && model.cache(1, 0).is_err());
    assert!(model.cache(usize::MAX, usize::MAX).is_err());
}

//! What models take of an NVIDIA card: as planned, never more, and given back while they sleep. Without a card they say so
//! and pass.

use super::*;
use crate::engine::footprint::{Footprint, OnCard, Plan};
use crate::engine::kernels::cuda::tests::cuda;
use crate::engine::kernels::cuda::{GRANULE, Image};
use std::os::unix::fs::FileExt;

fn wide(architecture: &'static str) -> Tiny {
    Tiny { format: Format::Q4K, width: 512, head: 64, heads: 8, hidden: 1024, ..Tiny::new(architecture) }
}

fn plan(tiny: &Tiny, capacity: Capacity) -> Plan {
    let card = cuda().unwrap().device().info().card();
    let OnCard::Yes(needs) = Footprint::of(&tiny.gguf()).on_card else { panic!("{tiny:?} is for no card") };
    Plan::of(&needs, &card, capacity)
}

fn load_within(tiny: &Tiny, bytes: u64) -> Result<Model, Error> {
    let options = Options { device: Device::Cuda(Which::Number(0)), vram: Some(bytes), ..Options::default() };
    Model::load(tiny.gguf(), options)
}

/// A prompt in each slot, then steps of all of them together, of which some are recorded and repeated.
fn work(model: &Model, cache: &mut KvCache, tokens: usize, steps: usize) {
    let random = |at: usize| (at * 31 + 7) as u32 % 50;
    for slot in 0..cache.slots() {
        let mut batch = Batch::new();
        (0..tokens).for_each(|at| batch.push(random(at + slot), slot, at, at + 8 > tokens));
        model.forward(cache, &batch).unwrap();
    }
    for step in 0..steps {
        let mut batch = Batch::new();
        (0..cache.slots()).for_each(|slot| batch.push(random(step), slot, tokens + step, true));
        model.forward(cache, &batch).unwrap();
    }
}

#[test]
fn cuda_takes_what_was_planned() {
    if cuda().is_none() {
        return;
    }
    let gemma = Tiny { window: Some(6), ..wide("gemma3") };
    let large = Tiny { width: 2048, hidden: 8192, heads: 32, vocabulary: 40_000, ..wide("llama") };
    for (tiny, slots, context, kind, tokens) in [
        (wide("llama"), 1, 128, KvKind::F16, 100),
        (wide("qwen2"), 3, 96, KvKind::Fp8, 60),
        (wide("qwen3"), 40, 64, KvKind::F16, 40),
        (gemma, 2, 128, KvKind::Q4, 120),
        (Tiny { format: Format::F16, tied: true, ..wide("llama") }, 33, 64, KvKind::F16, 20),
        (Tiny { format: Format::Q8_0, ..large.clone() }, 2, 2600, KvKind::F16, 2500),
        (large, 12, 300, KvKind::Fp8, 200),
    ] {
        let capacity = Capacity { kind, ..Capacity::whole(slots, context) };
        let planned = plan(&tiny, capacity).taken();
        let model = load_within(&tiny, planned).unwrap();
        let mut cache = model.cache_of(capacity).unwrap();
        let device = model.on_card().unwrap().device();
        let taken = device.taken();
        work(&model, &mut cache, tokens, 4);
        assert_eq!((device.taken(), taken), (planned, planned), "{tiny:?} {slots} {context} {kind:?}");
        // Less is not enough, and more is not taken.
        drop((cache, model));
        let refused = load_within(&tiny, planned - GRANULE as u64).and_then(|model| model.cache_of(capacity).map(drop));
        assert!(matches!(refused, Err(Error::Memory(_))), "{tiny:?} {slots} {context}: {refused:?}");
    }
}

#[test]
fn cuda_sleeps_and_goes_on_where_it_was() {
    if cuda().is_none() {
        return;
    }
    for (architecture, kind) in [("llama", KvKind::F16), ("gemma3", KvKind::Q4), ("qwen2", KvKind::Fp8)] {
        let tiny = wide(architecture);
        let model = load_within(&tiny, u64::MAX).unwrap();
        let capacity = Capacity { kind, ..Capacity::whole(2, 128) };
        let mut answers = Vec::new();
        for sleeps in [false, true] {
            let mut cache = model.cache_of(capacity).unwrap();
            work(&model, &mut cache, 50, 5);
            if sleeps {
                let device = model.on_card().unwrap().device();
                let taken = device.taken();
                let bytes = model.sleep(&mut cache).unwrap();
                assert!((1..=taken).contains(&bytes) && device.taken() == 0);
                assert_eq!(model.sleep(&mut cache).unwrap(), bytes, "a second time changes nothing");
                let mut batch = Batch::new();
                batch.push(1, 0, 55, true);
                assert!(matches!(model.forward(&mut cache, &batch), Err(Error::Request(_))));
                assert!(model.cache_of(capacity).is_err());
                model.wake().unwrap();
                assert_eq!(device.taken(), taken);
            }
            let mut found = Vec::new();
            for step in 55..60 {
                let mut batch = Batch::new();
                (0..2).for_each(|slot| batch.push(step as u32 % 50, slot, step, true));
                let logits = model.forward(&mut cache, &batch).unwrap();
                (0..2).for_each(|row| found.extend(logits.row(row).iter().map(|logit| logit.to_bits())));
            }
            answers.push(found);
        }
        assert!(answers[0] == answers[1], "{architecture}: not the same bits after it slept");
    }
}

/// An image in memory that the test holds too, as a daemon does.
fn image(file: &std::fs::File, key: u8) -> Option<Image> {
    Some(Image::new(file.try_clone().unwrap(), [key; 32]))
}

#[test]
fn cuda_starts_from_the_weights_that_another_left() {
    if cuda().is_none() {
        return;
    }
    for architecture in ["llama", "gemma3", "qwen2"] {
        let tiny = wide(architecture);
        let options = Options { device: Device::Cuda(Which::Number(0)), ..Options::default() };
        let load = |tiny: &Tiny, image| Model::load_kept(tiny.gguf(), &[], options, image).unwrap();
        let answer = |model: &Model| {
            let found = logits(model, &mut model.cache(1, 64).unwrap(), 0, &TOKENS, 8);
            found.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let file = tempfile::tempfile().unwrap();
        let first = load(&tiny, image(&file, 1));
        let expected = answer(&first);
        assert!(!image(&file, 1).unwrap().is_whole());
        let bytes = first.on_card().unwrap().kept_weights().unwrap();
        assert!(file.metadata().unwrap().len() > bytes && image(&file, 1).unwrap().is_whole());
        drop(first);

        for _ in 0..2 {
            let next = load(&tiny, image(&file, 1));
            assert!(answer(&next) == expected, "{architecture}");
            let mut cache = next.cache(1, 64).unwrap();
            next.sleep(&mut cache).unwrap();
            next.wake().unwrap();
            assert!(answer(&next) == expected, "{architecture}: not the same bits after it slept");
        }
        // It is that memory that is read: what is changed there changes the answer.
        file.write_all_at(&[0; 8192], bytes / 2).unwrap();
        assert!(answer(&load(&tiny, image(&file, 1))) != expected);
        // What is another's, or lies otherwise, is not taken, and replaced.
        let next = load(&tiny, image(&file, 2));
        assert!(answer(&next) == expected);
        next.on_card().unwrap().kept_weights().unwrap();
        assert!(!image(&file, 1).unwrap().is_whole() && image(&file, 2).unwrap().is_whole());
        let larger = Tiny { hidden: 2 * tiny.hidden, ..tiny.clone() };
        assert!(answer(&load(&larger, image(&file, 2))) == answer(&load(&larger, None)));
    }
}

#[test]
fn cuda_gives_back_keys_and_values_while_conversations_go_on() {
    if cuda().is_none() {
        return;
    }
    // 128 blocks of 1 MiB, of which 16 stay.
    let tiny = Tiny { width: 1024, heads: 16, kv_heads: 16, layers: 8, ..wide("llama") };
    let capacity = Capacity::whole(8, 512);
    let model = load_within(&tiny, u64::MAX).unwrap();
    let device = model.on_card().unwrap().device();
    let mut answers = Vec::new();
    for shrinks in [false, true] {
        let mut cache = model.cache_of(capacity).unwrap();
        work(&model, &mut cache, 50, 3);
        (0..6).for_each(|slot| cache.blocks().release(slot));
        let taken = device.taken();
        if shrinks {
            let given = model.shrink(&mut cache).unwrap();
            assert!(given >= 64 << 20 && device.taken() == taken - given, "{given} of {taken}");
            assert_eq!(cache.blocks().count(), 512 / 32);
            // A rest does not bring it back.
            model.sleep(&mut cache).unwrap();
            model.wake().unwrap();
            assert_eq!(device.taken(), taken - given);
        }
        let mut found = Vec::new();
        for step in 53..60 {
            let mut batch = Batch::new();
            (6..8).for_each(|slot| batch.push(step as u32 % 50, slot, step, true));
            let logits = model.forward(&mut cache, &batch).unwrap();
            (0..2).for_each(|row| found.extend(logits.row(row).iter().map(|logit| logit.to_bits())));
        }
        answers.push(found);
    }
    assert!(answers[0] == answers[1], "not the same bits with less room");
}

//! How fast memory can be read: what no model that is read once a token can exceed.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// Bytes of a sweep: many times what caches hold.
const BYTES: usize = 512 << 20;
/// The best of so many counts: others measure who else uses the memory.
const SWEEPS: usize = 5;

/// Bytes a second that `threads` read together.
pub fn bytes_per_second(threads: usize) -> f64 {
    let words = vec![1_u64; BYTES / 8];
    let part = words.len().div_ceil(threads.max(1));
    let best = (0..SWEEPS).map(|_| seconds(words.chunks(part))).fold(f64::INFINITY, f64::min);
    BYTES as f64 / best
}

/// How long it takes until each part was read by a thread.
fn seconds<'a>(parts: impl ExactSizeIterator<Item = &'a [u64]>) -> f64 {
    let start = Barrier::new(parts.len() + 1);
    std::thread::scope(|scope| {
        for part in parts {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                black_box(sum(part));
            });
        }
        start.wait();
        Instant::now()
    })
    .elapsed()
    .as_secs_f64()
}

/// The sum, in as many independent lanes as it takes to wait for memory alone.
fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0_u64; 32];
    for words in words.chunks_exact(lanes.len()) {
        lanes.iter_mut().zip(words).for_each(|(lane, word)| *lane = lane.wrapping_add(*word));
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

//! How fast memory can be read: what no model that is read once a token can exceed.

use super::together::seconds;
use std::hint::black_box;

/// Bytes of a sweep: many times what caches hold.
const BYTES: usize = 512 << 20;
/// The best of so many counts: others measure who else uses the memory.
const SWEEPS: usize = 5;

/// Bytes a second that `threads` read together.
pub fn bytes_per_second(threads: usize) -> f64 {
    let words = vec![1_u64; BYTES / 8];
    let part = words.len().div_ceil(threads.max(1));
    let read = |part| {
        move || {
            black_box(sum(part));
        }
    };
    let taken = (0..SWEEPS).map(|_| seconds(words.chunks(part).map(read)));
    BYTES as f64 / taken.fold(f64::INFINITY, f64::min)
}

/// The sum, in as many independent lanes as it takes to wait for memory alone.
fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0_u64; 32];
    for words in words.chunks_exact(lanes.len()) {
        lanes.iter_mut().zip(words).for_each(|(lane, word)| *lane = lane.wrapping_add(*word));
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

use std::sync::Barrier;
use std::time::Instant;

/// How long it takes until pieces of work that begin at once, on a thread each, are all done. The threads tell themselves when
/// they began and ended: who waits for them may be woken up when they are long done.
pub(super) fn seconds<W: FnOnce() + Send>(pieces: impl ExactSizeIterator<Item = W>) -> f64 {
    let start = &Barrier::new(pieces.len());
    let times: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
        let timed = |piece: W| {
            scope.spawn(move || {
                start.wait();
                let begin = Instant::now();
                piece();
                (begin, Instant::now())
            })
        };
        let threads: Vec<_> = pieces.map(timed).collect();
        // One that panicked ends the scope with its panic.
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let begin = times.iter().map(|(begin, _)| begin).min();
    let end = times.iter().map(|(_, end)| end).max();
    begin.zip(end).map_or(f64::INFINITY, |(begin, end)| end.duration_since(*begin).as_secs_f64())
}

use std::sync::Barrier;
use std::time::Instant;

/// How long it takes until pieces of work that begin at once, on a thread each, are all done.
pub(super) fn seconds<W: FnOnce() + Send>(pieces: impl ExactSizeIterator<Item = W>) -> f64 {
    let start = Barrier::new(pieces.len() + 1);
    std::thread::scope(|scope| {
        for piece in pieces {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                piece();
            });
        }
        start.wait();
        Instant::now()
    })
    .elapsed()
    .as_secs_f64()
}

//! How fast the engine reads prompts and writes answers:
//!
//! ```text
//! cargo bench --bench engine -- MODEL.gguf [THREADS]
//! ```
//!
//! With one thread the time is the processor's, not the clock's: the figures of a busy machine mean something then too.
//! Figures and what they taught are kept in `NOTES.md` beside this file.

use sovereign::engine::gguf::Gguf;
use sovereign::engine::model::{Batch, Model, Options};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Seconds since some moment: of the processor where one thread does everything, of the clock where several do.
fn now(start: Instant, threads: usize) -> f64 {
    let on_processor = || {
        let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        schedule.split(' ').next()?.parse::<f64>().ok().map(|nanoseconds| nanoseconds / 1e9)
    };
    let clock = || start.elapsed().as_secs_f64();
    if threads == 1 { on_processor().unwrap_or_else(clock) } else { clock() }
}

/// Tokens of the prompt.
const PROMPT: usize = 512;
/// Tokens of the answer.
const ANSWER: usize = 64;
/// The best of so many runs is told: on a shared machine the others measure its neighbours.
const RUNS: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo adds `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let Some(path) = arguments.next() else {
        println!("usage: cargo bench --bench engine -- MODEL.gguf [THREADS]");
        return Ok(());
    };
    let threads = arguments.next().map(|threads| threads.parse()).transpose()?;
    let start = Instant::now();
    let model = Model::load(Arc::new(Gguf::open(Path::new(&path))?), Options { threads, ..Options::default() })?;
    println!("load          {:>9.2} s, {} threads", start.elapsed().as_secs_f64(), model.threads());
    let vocabulary = model.hyper().vocabulary as u32;
    let token = |at: usize| (at as u32 * 7919 + 13) % vocabulary;

    for slots in [1, 2, 4, 8] {
        let mut cache = model.cache(slots, PROMPT + ANSWER)?;
        let (mut read, mut written) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..RUNS {
            (0..slots).for_each(|slot| cache.truncate(slot, 0));
            let mut batch = Batch::new();
            for slot in 0..slots {
                batch.clear();
                (0..PROMPT).for_each(|at| batch.push(token(at), slot, at, at == PROMPT - 1));
                let begun = now(start, model.threads());
                model.forward(&mut cache, &batch)?;
                read = read.min(now(start, model.threads()) - begun);
            }
            let begun = now(start, model.threads());
            for at in PROMPT..PROMPT + ANSWER {
                batch.clear();
                (0..slots).for_each(|slot| batch.push(token(at + slot), slot, at, true));
                model.forward(&mut cache, &batch)?;
            }
            written = written.min(now(start, model.threads()) - begun);
        }
        if slots == 1 {
            println!("prompt of {PROMPT} {:>9.1} tokens/s", PROMPT as f64 / read);
        }
        println!("answer, {slots} at once {:>4.1} tokens/s", (slots * ANSWER) as f64 / written);
    }
    Ok(())
}

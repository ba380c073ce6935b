//! How fast the engine reads prompts and writes answers:
//!
//! ```text
//! cargo bench --bench engine -- MODEL.gguf [THREADS] [INSTRUCTIONS]
//! ```
//!
//! With one thread the time is the processor's, not the clock's: the figures of a busy machine mean something then too.
//! The share of the memory's bandwidth is that of the bytes of weights that a token needs, against a sweep that only reads.
//! Figures and what they taught are kept in `NOTES.md` beside this file.

use sovereign::engine::gguf::Gguf;
use sovereign::engine::kernels::cpu::{Isa, Pool};
use sovereign::engine::model::{Batch, Options};
use sovereign::engine::tokenizer::Special;
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
/// Where answers begin as well, besides at the end of the prompt.
const DEPTH: usize = 4096;

/// Bytes that the threads read in a second, from memory that no cache holds.
fn bandwidth(start: Instant, threads: usize) -> f64 {
    const STRETCH: usize = 1 << 16;
    let (pool, memory) = (Pool::new(threads), vec![1_u64; 64 << 20]);
    let seconds = (0..5).map(|_| {
        let begun = now(start, threads);
        pool.run(memory.len() / STRETCH, |at| {
            let stretch = &memory[at * STRETCH..(at + 1) * STRETCH];
            // Sums that don't wait for each other.
            let mut sums = [0_u64; 64];
            for words in stretch.as_chunks::<64>().0 {
                sums.iter_mut().zip(words).for_each(|(sum, word)| *sum ^= word);
            }
            std::hint::black_box(sums);
        });
        now(start, threads) - begun
    });
    (memory.len() * 8) as f64 / seconds.fold(f64::INFINITY, f64::min)
}

/// Bytes of weights that a token needs: of all matrices but a table that nothing is multiplied with.
fn bytes_per_token(gguf: &Gguf) -> u64 {
    let tied = gguf.tensor("output.weight").is_none();
    let read = gguf.tensors().iter().filter(|tensor| tied || tensor.name != "token_embd.weight");
    read.map(|tensor| tensor.bytes).sum()
}

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo adds `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let Some(path) = arguments.next() else {
        println!("usage: cargo bench --bench engine -- MODEL.gguf [THREADS] [INSTRUCTIONS]");
        return Ok(());
    };
    let threads = arguments.next().map(|threads| threads.parse()).transpose()?;
    let isa = match arguments.next() {
        Some(name) => Some(Isa::all().into_iter().find(|isa| isa.name() == name).ok_or("not on this processor")?),
        None => None,
    };
    let start = Instant::now();
    let gguf = Arc::new(Gguf::open(Path::new(&path))?);
    let bytes = bytes_per_token(&gguf) as f64;
    let (tokenizer, model) = sovereign::engine::load(&gguf, Options { threads, isa, ..Options::default() })?;
    let loaded = start.elapsed().as_secs_f64();
    let threads = model.threads();
    let vocabulary = model.hyper().vocabulary as u32;
    let token = |at: usize| (at as u32 * 7919 + 13) % vocabulary;
    let mut batch = Batch::new();
    let prompt = tokenizer.encode("def fib(n):", Special::Plain, true);
    prompt.iter().enumerate().for_each(|(at, &token)| batch.push(token, 0, at, at + 1 == prompt.len()));
    model.forward(&mut model.cache(1, prompt.len())?, &batch)?;
    let first = start.elapsed().as_secs_f64();
    println!(
        "load {loaded:.3} s, first token after {first:.3} s; {threads} threads, {}",
        isa.unwrap_or(Isa::detect()).name()
    );
    model.settle();
    println!("all as quick as it will be after {:.3} s", start.elapsed().as_secs_f64());
    let swept = bandwidth(start, threads);
    println!("read sweep {:.1} GB/s; {:.2} GB of weights a token", swept / 1e9, bytes / 1e9);

    for (slots, depth) in [(1, 0), (2, 0), (4, 0), (8, 0), (1, DEPTH)] {
        let mut cache = model.cache(slots, depth + PROMPT + ANSWER)?;
        let mut fill = |cache: &mut _, slot: usize, from: usize, to: usize| {
            batch.clear();
            (from..to).for_each(|at| batch.push(token(at), slot, at, at == to - 1));
            model.forward(cache, &batch).map(drop)
        };
        if depth > 0 {
            fill(&mut cache, 0, 0, depth)?;
        }
        let (mut read, mut written) = (f64::INFINITY, f64::INFINITY);
        let end = depth + PROMPT;
        for _ in 0..RUNS {
            for slot in 0..slots {
                cache.truncate(slot, depth);
                let begun = now(start, threads);
                fill(&mut cache, slot, depth, end)?;
                read = read.min(now(start, threads) - begun);
            }
            let begun = now(start, threads);
            let mut batch = Batch::new();
            for at in end..end + ANSWER {
                batch.clear();
                (0..slots).for_each(|slot| batch.push(token(at + slot), slot, at, true));
                model.forward(&mut cache, &batch)?;
            }
            written = written.min(now(start, threads) - begun);
        }
        if slots == 1 {
            println!("prompt of {PROMPT} after {depth:>4}: {:>8.1} tokens/s", PROMPT as f64 / read);
        }
        let steps = ANSWER as f64 / written;
        let share = steps * bytes / swept;
        println!(
            "answer, {slots} at {end:>4}: {:>8.1} tokens/s, {:.0}% of the sweep",
            slots as f64 * steps,
            100.0 * share
        );
    }
    Ok(())
}

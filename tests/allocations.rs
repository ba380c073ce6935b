//! A step of decoding allocates nothing: neither the pass, nor the choice of tokens, nor the bookkeeping. Text that is told is
//! not part of it: it is handed over in a string of its own.
//!
//! A program of its own, without the harness of others, as it counts what all of its threads allocate.

// A test that cannot go on says so by a panic, helpers included.
#![allow(clippy::unwrap_used)]

use sovereign::engine::batcher::{Allowance, Batcher};
use sovereign::engine::gguf::{Gguf, Kind, Writer};
use sovereign::engine::kernels::KvKind;
use sovereign::engine::kv_cache::Capacity;
use sovereign::engine::model::{Model, Options};
use sovereign::engine::passes::Passes;
use sovereign::engine::sampler::Params;
use sovereign::engine::sequence::{Event, Job, Sequence, Sink, Vocabulary};
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

#[path = "it/tiny.rs"]
mod tiny;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
/// The largest of them, for whoever looks for where it comes from.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is the system's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        LARGEST.fetch_max(layout.size(), SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Tokens that show this text, and never end an answer.
struct Tokens(&'static [u8]);

impl Vocabulary for Tokens {
    fn piece(&self, _: u32) -> &[u8] {
        self.0
    }

    fn name(&self, _: u32) -> &[u8] {
        self.0
    }

    fn is_end(&self, _: u32) -> bool {
        false
    }
}

#[derive(Debug)]
struct Reader;

impl Sink for Reader {
    fn send(&self, event: Event) {
        assert!(!matches!(event, Event::Failed(_)), "{event:?}");
    }

    fn is_closed(&self) -> bool {
        false
    }
}

/// Steps before it is counted: everybody's first tokens, and a new block for each.
const WARM: usize = 40;
/// Steps that are counted; conversations grow by two blocks and more meanwhile.
const COUNTED: usize = 80;

/// Waits until the second thread that computes has begun, which takes a while on a busy machine: the system's name for it is
/// what it sets last.
fn wait_for_threads() {
    let begun = Instant::now();
    let name = |task: DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    while !std::fs::read_dir("/proc/self/task").unwrap().flatten().any(|task| name(task).trim() == "engine-1") {
        assert!(begun.elapsed() < Duration::from_secs(60), "no thread begins");
        std::thread::yield_now();
    }
}

/// What so many answers allocate a step, once they flow.
struct Case<'a> {
    streams: usize,
    params: &'a Params,
    kind: KvKind,
    shows: &'static [u8],
    guess_cost: Option<f64>,
}

impl Case<'_> {
    /// Allocations of all counted steps, and tokens that were generated in them.
    fn count(&self, gguf: &Arc<Gguf>) -> (usize, usize) {
        // What is not stored as halves is unpacked into a room that each thread has from its first time on, whenever that is.
        let threads = if self.kind == KvKind::F16 { 2 } else { 1 };
        let model = Model::load(gguf.clone(), Options { threads: Some(threads), ..Options::default() }).unwrap();
        let cache = model.cache_of(Capacity { kind: self.kind, ..Capacity::whole(self.streams, 4096) }).unwrap();
        let mut passes = Passes { model, cache, drafter: None };
        let mut batcher = Batcher::new(self.streams);
        for stream in 0..self.streams as u32 {
            // Some of it is said twice, so that there is something to guess.
            let prompt = (0..50).map(|at| 3 + (at % 25) * (stream + 1)).collect();
            let params = Params { seed: Some(u64::from(stream)), ..self.params.clone() };
            let job = Job { prompt, max_tokens: 3000, params, ..Job::default() };
            batcher.submit(Sequence::new(job, 4096, Reader).unwrap());
        }
        let allowance = Allowance { tokens: 64, guess_cost: self.guess_cost };
        let tokens = Tokens(self.shows);
        if threads > 1 {
            wait_for_threads();
        }
        for _ in 0..WARM {
            batcher.step(|_| allowance, &tokens, &mut passes);
        }
        // What is laid out anew after the first pass is no part of a step.
        passes.model.settle();
        let (before, mut generated) = (ALLOCATIONS.load(SeqCst), 0);
        LARGEST.store(0, SeqCst);
        for _ in 0..COUNTED {
            let step = batcher.step(|_| allowance, &tokens, &mut passes);
            assert_eq!((step.answers, step.prompt), (self.streams, 0));
            generated += step.generated;
        }
        (ALLOCATIONS.load(SeqCst) - before, generated)
    }
}

/// The model that tests have, in the formats that are served; none where it was not fetched.
fn real() -> Option<PathBuf> {
    let folder = std::env::var_os("SOVEREIGN_TEST_MODELS").map(PathBuf::from);
    let folder = folder.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache/sovereign/test-models")));
    folder.map(|folder| folder.join("gemma-3-270m-q4_k_m.gguf")).filter(|file| file.exists())
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.gguf");
    std::fs::write(&file, tiny::model(500, 1)).unwrap();
    let greedy = Params { temperature: 0.0, ..Params::default() };
    let sampled = Params { temperature: 0.8, top_k: 40, top_p: 0.9, min_p: 0.02, ..Params::default() };
    let penalised = Params { repetition_penalty: 1.1, presence_penalty: 0.1, ..Params::default() };
    for file in [Some(file), real()].into_iter().flatten() {
        let gguf = Arc::new(Gguf::open(&file).unwrap());
        // The small one for all, the real one for its formats.
        let small = file.starts_with(dir.path());
        let all = [("greedy", &greedy), ("sampled", &sampled), ("penalised", &penalised)];
        for (name, params) in all.into_iter().take(if small { 3 } else { 2 }) {
            for streams in [1, 4] {
                // What is likeliest is guessed from the first steps on; else a pass may take more rows than ever before, and
                // room for those, at any time.
                let guesses = (params.temperature == 0.0).then_some((KvKind::F16, Some(0.0)));
                let fewer_bits = small.then_some((KvKind::Fp8, None));
                for (kind, guess_cost) in [(KvKind::F16, None)].into_iter().chain(fewer_bits).chain(guesses) {
                    let case = Case { streams, params, kind, shows: b"", guess_cost };
                    let (allocations, generated) = case.count(&gguf);
                    assert!(generated >= COUNTED * streams);
                    let largest = LARGEST.load(SeqCst);
                    assert_eq!(
                        allocations,
                        0,
                        "{name}, {streams} streams, {kind:?}, {guess_cost:?}, {}: up to {largest} bytes",
                        file.display()
                    );
                }
            }
        }
        // A string a token is what telling it takes.
        let case = Case { streams: 4, params: &greedy, kind: KvKind::F16, shows: b"word ", guess_cost: None };
        let (allocations, generated) = case.count(&gguf);
        assert_eq!(allocations, generated, "{}", file.display());
        println!("{}: nothing but a string a token that is told", file.display());
    }
}

use crate::engine::batcher::{Load, Step};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What `/metrics` tells, in Prometheus' text format.
#[derive(Debug)]
pub(super) struct Metrics {
    slots: usize,
    /// Tokens that the cache can hold.
    capacity: usize,
    /// By path and status.
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    prompt_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    preempted: AtomicU64,
    guessed: AtomicU64,
    right: AtomicU64,
    abandoned: AtomicU64,
    unheard: AtomicU64,
    waiting: AtomicUsize,
    running: AtomicUsize,
    cached: AtomicUsize,
    asleep: AtomicBool,
    first_token: Histogram,
    answer: Histogram,
    step: Histogram,
}

impl Metrics {
    pub(super) fn new(slots: usize, capacity: usize) -> Self {
        Self {
            slots,
            capacity,
            requests: Mutex::default(),
            prompt_tokens: AtomicU64::new(0),
            generated_tokens: AtomicU64::new(0),
            preempted: AtomicU64::new(0),
            guessed: AtomicU64::new(0),
            right: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            unheard: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            cached: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            first_token: Histogram::default(),
            answer: Histogram::default(),
            step: Histogram::default(),
        }
    }

    /// Whether the model sleeps.
    pub(super) fn is_asleep(&self) -> bool {
        self.asleep.load(Relaxed)
    }

    /// It does, or does not any more.
    pub(super) fn sleeps(&self, asleep: bool) {
        self.asleep.store(asleep, Relaxed);
    }

    /// A request was answered, or its stream begun.
    pub(super) fn request(&self, path: &str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((path.to_string(), status)).or_default() += 1;
    }

    /// The batcher made a step.
    pub(super) fn step(&self, step: Step, load: Load, took: Duration) {
        self.prompt_tokens.fetch_add(step.prompt as u64, Relaxed);
        self.generated_tokens.fetch_add(step.generated as u64, Relaxed);
        self.preempted.fetch_add(step.preempted as u64, Relaxed);
        self.guessed.fetch_add(step.guessed as u64, Relaxed);
        self.right.fetch_add(step.right as u64, Relaxed);
        self.unheard.fetch_add(step.unheard as u64, Relaxed);
        self.abandoned.fetch_add(step.abandoned as u64, Relaxed);
        self.waiting.store(load.waiting, Relaxed);
        self.running.store(load.running, Relaxed);
        self.cached.store(load.cached, Relaxed);
        if step.computed > 0 {
            self.step.observe(took);
        }
    }

    /// An answer showed its first text after this long, waiting for a slot included.
    pub(super) fn embedded(&self, tokens: usize, waiting: usize) {
        self.prompt_tokens.fetch_add(tokens as u64, Relaxed);
        self.waiting.store(waiting, Relaxed);
    }

    pub(super) fn first_token(&self, after: Duration) {
        self.first_token.observe(after);
    }

    /// An answer was complete after this long.
    pub(super) fn answer(&self, after: Duration) {
        self.answer.observe(after);
    }

    /// The text.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        describe(out, "requests_total", "counter", "Requests by path and status.")?;
        for ((path, status), count) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            writeln!(out, "sovereign_worker_requests_total{{path=\"{path}\",status=\"{status}\"}} {count}")?;
        }
        let counters = [
            ("prompt_tokens_total", "Tokens of prompts that were computed.", &self.prompt_tokens),
            ("generated_tokens_total", "Tokens that were generated.", &self.generated_tokens),
            ("preempted_total", "Answers that had to make room for older ones, and went on later.", &self.preempted),
            ("guessed_tokens_total", "Tokens that were guessed ahead.", &self.guessed),
            ("guessed_right_tokens_total", "Guessed tokens that were right.", &self.right),
            ("abandoned_total", "Answers that were given up as their callers had left.", &self.abandoned),
            ("unheard_tokens_total", "Tokens that were computed for callers who left meanwhile.", &self.unheard),
        ];
        for (name, help, value) in counters {
            describe(out, name, "counter", help)?;
            writeln!(out, "sovereign_worker_{name} {}", value.load(Relaxed))?;
        }
        let gauges = [
            ("queue", "Answers that wait for a slot.", self.waiting.load(Relaxed)),
            ("slots_busy", "Answers that are generated now.", self.running.load(Relaxed)),
            ("slots", "Answers that can be generated at once.", self.slots),
            ("kv_tokens", "Tokens in the cache that answers use now.", self.cached.load(Relaxed)),
            ("kv_tokens_capacity", "Tokens that the cache can hold.", self.capacity),
            ("asleep", "Whether the model sleeps, its memory given back.", usize::from(self.is_asleep())),
        ];
        for (name, help, value) in gauges {
            describe(out, name, "gauge", help)?;
            writeln!(out, "sovereign_worker_{name} {value}")?;
        }
        let histograms = [
            ("first_token_seconds", "Time to an answer's first text, in the queue included.", &self.first_token),
            ("answer_seconds", "Time to an answer's end, in the queue included.", &self.answer),
            ("step_seconds", "Time of a forward pass with the choice of tokens.", &self.step),
        ];
        for (name, help, histogram) in histograms {
            describe(out, name, "histogram", help)?;
            histogram.write(out, name)?;
        }
        Ok(())
    }
}

fn describe(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP sovereign_worker_{name} {help}\n# TYPE sovereign_worker_{name} {kind}")
}

/// Upper bounds of buckets, in seconds.
const BOUNDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];

#[derive(Debug, Default)]
struct Histogram {
    /// One a bound; what is beyond the last is only in `count`.
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Histogram {
    fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        if let Some(at) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[at].fetch_add(1, Relaxed);
        }
        self.count.fetch_add(1, Relaxed);
        self.micros.fetch_add(duration.as_micros().try_into().unwrap_or(u64::MAX), Relaxed);
    }

    fn write(&self, out: &mut String, name: &str) -> std::fmt::Result {
        let mut below = 0;
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            below += bucket.load(Relaxed);
            writeln!(out, "sovereign_worker_{name}_bucket{{le=\"{bound}\"}} {below}")?;
        }
        // A count that is read later than the buckets may be ahead of them, never behind.
        let count = self.count.load(Relaxed).max(below);
        writeln!(out, "sovereign_worker_{name}_bucket{{le=\"+Inf\"}} {count}")?;
        let sum = Duration::from_micros(self.micros.load(Relaxed)).as_secs_f64();
        writeln!(out, "sovereign_worker_{name}_sum {sum}\nsovereign_worker_{name}_count {count}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_happened() {
        let metrics = Metrics::new(2, 200);
        metrics.request("/v1/models", 200);
        metrics.request("/v1/models", 200);
        let step = Step { computed: 7, prompt: 6, generated: 2, preempted: 1, guessed: 5, right: 3, ..Step::default() };
        let step = Step { abandoned: 4, unheard: 8, ..step };
        metrics.step(step, Load { waiting: 3, running: 2, cached: 50 }, Duration::from_millis(20));
        metrics.answer(Duration::from_secs(2));
        metrics.answer(Duration::from_secs(1000));
        let text = metrics.render();
        for line in [
            "sovereign_worker_requests_total{path=\"/v1/models\",status=\"200\"} 2",
            "sovereign_worker_prompt_tokens_total 6",
            "sovereign_worker_generated_tokens_total 2",
            "sovereign_worker_preempted_total 1",
            "sovereign_worker_guessed_tokens_total 5",
            "sovereign_worker_guessed_right_tokens_total 3",
            "sovereign_worker_abandoned_total 4",
            "sovereign_worker_unheard_tokens_total 8",
            "sovereign_worker_queue 3",
            "sovereign_worker_slots_busy 2",
            "sovereign_worker_kv_tokens 50",
            "sovereign_worker_kv_tokens_capacity 200",
            "# TYPE sovereign_worker_answer_seconds histogram",
            "sovereign_worker_answer_seconds_bucket{le=\"1\"} 0",
            "sovereign_worker_answer_seconds_bucket{le=\"2.5\"} 1",
            "sovereign_worker_answer_seconds_bucket{le=\"+Inf\"} 2",
            "sovereign_worker_answer_seconds_sum 1002",
            "sovereign_worker_step_seconds_bucket{le=\"0.025\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}

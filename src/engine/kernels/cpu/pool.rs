//! The threads of a model: they spin between the steps of a forward pass, which follow each other within microseconds,
//! and sleep between passes.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};

/// How often a thread looks for work before it sleeps: some tens of microseconds, longer than the serial steps of a pass.
const SPINS: usize = 2000;
/// How often the caller looks whether the last tasks are done before it offers its core to whoever does them.
const SPINS_BEFORE_YIELD: usize = 200;

/// The bit of `Shared::gate` that is set while a job may be entered. Below it are counted those who are inside, above it
/// the jobs.
const OPEN: u64 = 1 << 16;
const INSIDE: u64 = OPEN - 1;
const GENERATION: u64 = !(OPEN | INSIDE);
const NEXT_GENERATION: u64 = OPEN << 1;

/// A pool of threads. [`Pool::run`] shares tasks among them and the caller.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the caller of `run`: one job at a time.
    caller: Mutex<()>,
}

struct Shared {
    gate: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    /// The next task that nobody has claimed.
    next: AtomicUsize,
    /// What a task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    asleep: Vec<AtomicBool>,
}

#[derive(Clone, Copy)]
struct Job {
    /// Lives on the stack of the caller of `run`, which outlasts everybody inside the gate.
    work: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

// SAFETY: `job` is written by the caller of `run` alone (it holds `Pool::caller`), while the gate is closed and nobody is
// inside; it is read by who entered through the open gate. The gate's release and acquire order the two. The function
// that it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is only followed from within the gate.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads, the caller of [`Pool::run`] being one of them. Where the system grants fewer, it is
    /// smaller.
    pub fn new(threads: usize) -> Pool {
        let extra = threads.clamp(1, INSIDE as usize) - 1;
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            asleep: (0..extra).map(|_| AtomicBool::new(false)).collect(),
        });
        let workers = (0..extra).map_while(|index| {
            let shared = shared.clone();
            thread::Builder::new().name(format!("engine-{}", index + 1)).spawn(move || shared.work(index)).ok()
        });
        let workers = workers.collect();
        Pool { shared, workers, caller: Mutex::new(()) }
    }

    /// How many threads share the tasks.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work` with every number below `tasks`, on several threads at once, and returns when all are done.
    ///
    /// # Panics
    /// With what a task panicked with, after all have ended.
    pub fn run(&self, tasks: usize, work: impl Fn(usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(work);
            return;
        }
        let _one_job_at_a_time = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        let work: &(dyn Fn(usize) + Sync) = &work;
        // SAFETY: the lifetime is erased, not the type. The pointer is only followed by who is inside the gate, and we
        // don't return before the gate is closed and everybody has left.
        let work = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work) };
        shared.next.store(0, Ordering::Relaxed);
        // SAFETY: we hold `caller`, the gate has been closed and empty since the last job: nobody else reads or writes.
        unsafe { *shared.job.get() = Some(Job { work, tasks }) };
        let generation = (shared.gate.load(Ordering::Relaxed) & GENERATION).wrapping_add(NEXT_GENERATION);
        shared.gate.store(generation | OPEN, Ordering::SeqCst);
        self.wake(tasks - 1);
        shared.share(Job { work, tasks });

        shared.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while shared.gate.load(Ordering::Acquire) & INSIDE > 0 {
            spins += 1;
            if spins < SPINS_BEFORE_YIELD { std::hint::spin_loop() } else { thread::yield_now() }
        }
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            drop(_one_job_at_a_time);
            resume_unwind(panic);
        }
    }

    /// Wakes as many sleepers as there is work for.
    fn wake(&self, most: usize) {
        // Either a worker sees the open gate after it said that it sleeps, or we see here that it sleeps.
        fence(Ordering::SeqCst);
        let sleepers =
            self.workers.iter().zip(&self.shared.asleep).filter(|(_, asleep)| asleep.load(Ordering::Relaxed));
        sleepers.take(most).for_each(|(worker, _)| Thread::unpark(worker.thread()));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches what tasks panic with, so that it never ends with a panic of its own.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self, index: usize) {
        let mut done = 0;
        let mut spins = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(generation) = self.enter(done) {
                // SAFETY: we are inside the gate, so `job` isn't written and what it points to lives until we leave.
                if let Some(job) = unsafe { *self.job.get() } {
                    self.share(job);
                }
                self.gate.fetch_sub(1, Ordering::Release);
                done = generation;
                spins = 0;
                continue;
            }
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                self.sleep(index, done);
                spins = 0;
            }
        }
    }

    /// Enters the gate if it is open for another job than `done`, and tells for which.
    fn enter(&self, done: u64) -> Option<u64> {
        let gate = self.gate.load(Ordering::Relaxed);
        let generation = gate & GENERATION;
        if gate & OPEN == 0 || generation == done {
            return None;
        }
        let entered = self.gate.compare_exchange(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed);
        entered.ok().map(|_| generation)
    }

    /// Claims tasks and does them until none is left.
    fn share(&self, job: Job) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= job.tasks {
                return;
            }
            // SAFETY: the caller of `run` is in there until everybody has left the gate; see `Job::work`.
            let work = unsafe { &*job.work };
            // What the tasks shared is not looked at any more: the panic goes on in the caller.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(task))) {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
            }
        }
    }

    /// Sleeps until woken, unless a job has begun or the pool ends.
    fn sleep(&self, index: usize, done: u64) {
        self.asleep[index].store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let gate = self.gate.load(Ordering::Relaxed);
        let idle = gate & OPEN == 0 || gate & GENERATION == done;
        if idle && !self.stop.load(Ordering::SeqCst) {
            thread::park();
        }
        self.asleep[index].store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        let check = |threads: usize, tasks: usize| {
            let pool = Pool::new(threads);
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..100 {
                pool.run(tasks, |task| {
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(
                counts.iter().all(|count| count.load(Ordering::Relaxed) == 100),
                "{threads} threads, {tasks} tasks"
            );
        };
        check(1, 5);
        check(2, 0);
        check(2, 1);
        check(2, 3);
        check(4, 1000);
    }

    #[test]
    fn a_sleeper_is_woken() {
        let pool = Pool::new(2);
        for _ in 0..20 {
            // The other thread sleeps soon; a job of two tasks that wait for each other ends only if it wakes.
            while !pool.shared.asleep[0].load(Ordering::SeqCst) {
                thread::yield_now();
            }
            let arrived = AtomicUsize::new(0);
            pool.run(2, |_| {
                arrived.fetch_add(1, Ordering::SeqCst);
                while arrived.load(Ordering::SeqCst) < 2 {
                    thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(10, |task| assert!(task != 7, "task {task}"))));
        assert!(result.unwrap_err().downcast_ref::<String>().unwrap().contains("task 7"));
        let sum = AtomicUsize::new(0);
        pool.run(10, |task| {
            sum.fetch_add(task, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }

    #[test]
    fn callers_take_turns() {
        let pool = Pool::new(2);
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.run(4, |task| {
                            sum.fetch_add(task, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 3 * 100 * 6);
    }
}

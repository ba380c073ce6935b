//! Lays matrices out anew, one after the other, while they are computed with.

use super::Pool;
use super::matrix::Packing;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A thread, as long as there is something to do.
#[derive(Default)]
pub struct Packer {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Told when the thread ends.
    ended: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arc<Packing>>,
    /// Whether there is a thread.
    running: bool,
}

impl Packer {
    /// Has a matrix packed, once it begins.
    pub fn push(&self, packing: Arc<Packing>) {
        self.shared.lock().waiting.push_back(packing);
    }

    /// Packs what waits.
    pub fn begin(&self) {
        let mut queue = self.shared.lock();
        if !queue.running && !queue.waiting.is_empty() {
            let shared = self.shared.clone();
            // Where the system grants no thread, those pack who multiply with many columns.
            queue.running = thread::Builder::new().name("engine-packer".into()).spawn(move || shared.work()).is_ok();
        }
    }

    /// Returns when all is packed; helps.
    pub fn settle(&self, pool: &Pool) {
        self.shared.pack_all(pool);
        drop(self.shared.ended.wait_while(self.shared.lock(), |queue| queue.running));
    }
}

impl Drop for Packer {
    /// Nothing is left to be done for nobody: the thread ends with the matrix that it is at.
    fn drop(&mut self) {
        self.shared.lock().waiting.clear();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pack_all(&self, pool: &Pool) {
        loop {
            let next = self.lock().waiting.pop_front();
            let Some(packing) = next else { return };
            packing.pack(pool);
        }
    }

    /// The thread's life.
    fn work(&self) {
        let pool = Pool::new(1);
        loop {
            self.pack_all(&pool);
            let mut queue = self.lock();
            if queue.waiting.is_empty() {
                queue.running = false;
                self.ended.notify_all();
                return;
            }
        }
    }
}

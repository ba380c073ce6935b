//! The prefix cache on disk: blocks of conversations that are over are written to a folder beside the passes, and come back
//! when a prompt begins as they do, after a restart too.
//!
//! A file is found by what its tokens and all before them are, in which model, and how they are stored; it is believed only
//! where its digest is right. Two threads read and write: whoever computes never waits for the disk, and gives a pass at
//! most [`AT_ONCE`] of copying. What cannot be written is not kept, and one sentence says why.

mod folder;
mod identity;
mod record;

#[cfg(test)]
mod tests;

pub use identity::Identity;

use super::blocks::{BLOCK, Blocks, Chain};
use super::kernels::cpu::Cache;
use folder::Folder;
use record::{Key, Unread};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that are copied beside a pass at most, where a block is not larger: about a millisecond.
const AT_ONCE: usize = 4 << 20;
/// Blocks that wait to be written.
const QUEUE: usize = 8;
/// Blocks that are read ahead.
const AHEAD: usize = 2;

/// Where blocks are kept, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The folder; made where it is not there.
    pub dir: PathBuf,
    /// Bytes that all files there may have. Several workers may share a folder; each may go beyond this by a sixteenth.
    pub bytes: u64,
}

/// Says in a sentence what does not work.
pub type Warn = Arc<dyn Fn(&str) + Send + Sync>;

/// What came back from disk into the conversation of a slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Tokens.
    pub tokens: usize,
    /// Whether more is on its way.
    pub more: bool,
}

/// The blocks on disk of one cache.
pub struct PrefixCache {
    identity: [u8; 32],
    block_bytes: usize,
    known: Known,
    writes: SyncSender<Write>,
    /// Blocks in `writes`.
    queued: Arc<AtomicUsize>,
    /// Disconnected when all was written.
    written: Receiver<()>,
    reads: Sender<Read>,
    /// By slot.
    fetches: Vec<Option<Fetch>>,
    /// Up to when idle blocks were written.
    spilled: u64,
}

/// The blocks that are on disk, or on their way there.
type Known = Arc<Mutex<HashSet<Key>>>;

struct Write {
    key: Key,
    block: Vec<u8>,
}

struct Read {
    key: Key,
    len: usize,
    reply: Sender<Option<Vec<u8>>>,
}

/// The blocks that a conversation can have from disk.
struct Fetch {
    /// The position at which the first of them begins.
    from: usize,
    wanted: Vec<Key>,
    asked: usize,
    taken: usize,
    reply: Sender<Option<Vec<u8>>>,
    replies: Receiver<Option<Vec<u8>>>,
}

impl PrefixCache {
    /// Of a cache of so many slots, whose blocks are as `identity` says and have so many bytes.
    ///
    /// # Errors
    /// The system grants no threads. A folder that cannot be used is no error: nothing is kept then.
    pub fn open(
        settings: &Settings,
        identity: Identity,
        block_bytes: usize,
        slots: usize,
        warn: Warn,
    ) -> std::io::Result<PrefixCache> {
        let folder = Folder::new(&settings.dir, settings.bytes);
        let warn = once(&settings.dir, warn);
        let keys = folder.keys().unwrap_or_else(|error| {
            warn(&error.to_string());
            Vec::new()
        });
        let known: Known = Arc::new(Mutex::new(keys.into_iter().collect()));
        let (writes, to_write) = mpsc::sync_channel(QUEUE);
        let (reads, to_read) = mpsc::channel();
        let (done, written) = mpsc::channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let reader = (Folder::new(&settings.dir, settings.bytes), known.clone(), warn.clone());
        thread::Builder::new().name("prefix-reader".into()).spawn(move || read_all(&to_read, reader))?;
        let writer = (folder, known.clone(), warn);
        let waiting = queued.clone();
        thread::Builder::new().name("prefix-writer".into()).spawn(move || {
            let _done: Sender<()> = done;
            write_all(&to_write, &waiting, writer);
        })?;
        let fetches = std::iter::repeat_with(|| None).take(slots).collect();
        Ok(PrefixCache {
            identity: identity.digest(),
            block_bytes,
            known,
            writes,
            queued,
            written,
            reads,
            fetches,
            spilled: 0,
        })
    }

    /// Hands blocks over to be written that nobody uses and that are not on disk, those that will be given up first.
    pub fn spill(&mut self, blocks: &Blocks, memory: &Cache) {
        let mut copied = 0;
        for (since, block, chain) in blocks.idle_after(self.spilled) {
            let key = Key::new(&self.identity, &chain);
            if !lock(&self.known).contains(&key) {
                let full = self.queued.load(Ordering::Relaxed) >= QUEUE;
                if full || copied > 0 && copied + self.block_bytes > AT_ONCE {
                    return;
                }
                copied += self.block_bytes;
                self.hand_over(key, memory.block(block));
            }
            self.spilled = since;
        }
    }

    /// Begins to look for what a slot's conversation of `tokens` goes on with. Says whether there is anything.
    pub fn seek(&mut self, slot: usize, blocks: &Blocks, tokens: &[u32]) -> bool {
        let from = blocks.len(slot);
        let rest = tokens[..tokens.len().saturating_sub(1)].get(from..).unwrap_or_default();
        let (mut chain, mut wanted) = (blocks.chain(slot), Vec::new());
        if from.is_multiple_of(BLOCK) {
            let known = lock(&self.known);
            for tokens in rest.as_chunks::<BLOCK>().0 {
                chain = chain.then(tokens);
                let key = Key::new(&self.identity, &chain);
                if !known.contains(&key) {
                    break;
                }
                wanted.push(key);
            }
        }
        let (reply, replies) = mpsc::channel();
        let found = !wanted.is_empty();
        self.fetches[slot] = found.then_some(Fetch { from, wanted, asked: 0, taken: 0, reply, replies });
        found
    }

    /// Puts into the cache what has come for a slot since it was [sought](Self::seek), and asks for more. With `patience` it
    /// waits for the next block.
    pub fn restore(
        &mut self,
        slot: usize,
        blocks: &mut Blocks,
        memory: &mut Cache,
        tokens: &[u32],
        patience: bool,
    ) -> Restored {
        let mut restored = 0;
        let over = loop {
            let Some(fetch) = &mut self.fetches[slot] else { return Restored { tokens: restored, more: false } };
            while fetch.asked < fetch.wanted.len().min(fetch.taken + AHEAD) {
                let (key, len, reply) = (fetch.wanted[fetch.asked], self.block_bytes, fetch.reply.clone());
                // Without its thread nothing comes, and that ends it.
                let _ = self.reads.send(Read { key, len, reply });
                fetch.asked += 1;
            }
            if fetch.taken == fetch.wanted.len() {
                break true;
            }
            if restored > 0 && (restored / BLOCK + 1) * self.block_bytes > AT_ONCE {
                break false;
            }
            let block = match patience && restored == 0 {
                true => fetch.replies.recv().ok().flatten(),
                false => match fetch.replies.try_recv() {
                    Err(TryRecvError::Empty) => break false,
                    reply => reply.ok().flatten(),
                },
            };
            let Some(block) = block else { break true };
            let at = fetch.from + fetch.taken * BLOCK;
            fetch.taken += 1;
            // Others may have computed it meanwhile.
            if blocks.len(slot) > at {
                continue;
            }
            let place = blocks.reserved(slot).filter(|_| blocks.len(slot) == at);
            let (Some(place), Some(tokens)) = (place, tokens.get(at..at + BLOCK)) else { break true };
            memory.block_mut(place).copy_from_slice(&block);
            tokens.iter().for_each(|&token| blocks.push(slot, token));
            restored += BLOCK;
        };
        if over {
            self.fetches[slot] = None;
        }
        Restored { tokens: restored, more: !over }
    }

    /// Writes what is left at the end: what was used last first, and for no longer than `patience`.
    pub fn finish(mut self, blocks: &Blocks, memory: &Cache, patience: Duration) {
        let until = Instant::now() + patience;
        let left: Vec<(u64, u32, Chain)> = blocks.idle_after(self.spilled).collect();
        for (_, block, chain) in left.into_iter().rev() {
            let key = Key::new(&self.identity, &chain);
            if Instant::now() >= until {
                return;
            }
            if !lock(&self.known).contains(&key) {
                self.hand_over(key, memory.block(block));
            }
        }
        let PrefixCache { writes, written, .. } = self;
        drop(writes);
        // It is disconnected when the last is written, and else too late.
        let _ = written.recv_timeout(until.saturating_duration_since(Instant::now()));
    }

    fn hand_over(&mut self, key: Key, block: &[u8]) {
        lock(&self.known).insert(key);
        self.queued.fetch_add(1, Ordering::Relaxed);
        // Without its thread nothing is kept.
        let _ = self.writes.send(Write { key, block: block.to_vec() });
    }
}

/// Passes on the first warning, and no other.
fn once(dir: &Path, warn: Warn) -> Warn {
    let (dir, warned) = (dir.to_path_buf(), std::sync::Once::new());
    Arc::new(move |problem| {
        warned.call_once(|| {
            let dir = dir.display();
            warn(&format!(
                "the prefix cache in {dir} does not work: {problem}; answers go on without what it would keep"
            ));
        });
    })
}

fn write_all(writes: &Receiver<Write>, queued: &AtomicUsize, (mut folder, known, warn): (Folder, Known, Warn)) {
    while let Ok(Write { key, block }) = writes.recv() {
        match folder.write(&key, &block) {
            Ok(gone) => {
                let mut known = lock(&known);
                gone.iter().for_each(|key| {
                    known.remove(key);
                });
            }
            Err(error) => {
                lock(&known).remove(&key);
                warn(&error.to_string());
            }
        }
        queued.fetch_sub(1, Ordering::Relaxed);
    }
}

fn read_all(reads: &Receiver<Read>, (folder, known, warn): (Folder, Known, Warn)) {
    while let Ok(Read { key, len, reply }) = reads.recv() {
        let block = folder.read(&key, len).map_err(|unread| {
            lock(&known).remove(&key);
            // Another worker may have deleted it, to stay within the bounds.
            if !matches!(&unread, Unread::Io(error) if error.kind() == std::io::ErrorKind::NotFound) {
                warn(&format!("{}: {unread}", key.name()));
            }
        });
        // Whoever asked may have been given up.
        let _ = reply.send(block.ok());
    }
}

fn lock(known: &Mutex<HashSet<Key>>) -> MutexGuard<'_, HashSet<Key>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

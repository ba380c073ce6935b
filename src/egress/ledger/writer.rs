//! The one task that writes.

use super::Error;
use super::entry::{Entry, Event, Head, Row};
use super::head::HeadFile;
use super::store;
use crate::db::Db;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// Rows of one commit, at most: a quarter of a second's at the worst, so that nobody waits long.
const BATCH: usize = 4096;
/// Entries that nobody waits for and that could not be written yet, at most: a full disk must not fill the memory.
const OWED: usize = 100_000;

/// What the task is asked to do.
#[derive(Debug)]
pub(super) enum Order {
    Append(Box<Pending>),
    Close(oneshot::Sender<()>),
}

/// Where rows go.
#[derive(Debug)]
pub(super) enum Store {
    File { db: Db, head: Arc<HeadFile> },
    Memory(Arc<Mutex<Vec<Row>>>),
}

/// An entry on its way.
#[derive(Debug)]
pub(super) struct Pending {
    entry: Entry,
    text: Option<String>,
    written: Option<oneshot::Sender<Result<u64, Error>>>,
}

impl Pending {
    /// What happened now.
    pub(super) fn new(
        event: Event,
        text: Option<String>,
        written: Option<oneshot::Sender<Result<u64, Error>>>,
    ) -> Box<Self> {
        Box::new(Self { entry: Entry { at: jiff::Timestamp::now().as_millisecond(), event }, text, written })
    }
}

/// Starts the task on a chain that ends with `head`. It ends when the last sender is gone, or when it is told to.
pub(super) fn start(store: Store, head: Head) -> mpsc::UnboundedSender<Order> {
    let (sender, orders) = mpsc::unbounded_channel();
    tokio::spawn(run(store, head, orders));
    sender
}

async fn run(store: Store, mut head: Head, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut owed = VecDeque::new();
    while orders.recv_many(&mut batch, BATCH).await > 0 {
        let mut closing = None;
        let mut pending: Vec<Pending> = owed.drain(..).collect();
        for order in batch.drain(..) {
            match order {
                Order::Append(one) => pending.push(*one),
                Order::Close(done) => closing = Some(done),
            }
        }
        match write(&store, head, &pending).await {
            Ok(next) => {
                for (seq, pending) in (head.count + 1..).zip(pending) {
                    if let Some(written) = pending.written {
                        // Whoever asked may be gone.
                        let _ = written.send(Ok(seq));
                    }
                }
                head = next;
            }
            Err(error) => {
                // A commit that failed may have been made all the same.
                if let Store::File { db, .. } = &store
                    && let Ok(last) = store::last(db.writer()).await
                {
                    head = last.as_ref().map(Head::from).unwrap_or_default();
                }
                tracing::error!(%error, "the ledger cannot be written; nothing leaves the house until it can");
                for pending in pending {
                    match pending.written {
                        Some(written) => drop(written.send(Err(Error::Write(error.to_string())))),
                        None if owed.len() < OWED => owed.push_back(pending),
                        None => tracing::error!(entry = ?pending.entry, "an entry of the ledger is lost"),
                    }
                }
            }
        }
        if let Some(done) = closing {
            let _ = done.send(());
            return;
        }
    }
}

/// Writes a batch and the head that it makes.
async fn write(store: &Store, mut head: Head, pending: &[Pending]) -> Result<Head, Error> {
    if pending.is_empty() {
        return Ok(head);
    }
    let (mut rows, mut texts, mut erased) = (Vec::with_capacity(pending.len()), Vec::new(), Vec::new());
    for Pending { entry, text, .. } in pending {
        let row = head.next(entry).map_err(|error| Error::Write(error.to_string()))?;
        head = Head::from(&row);
        if let Some(text) = text {
            texts.push((row.seq, text.clone()));
        }
        if let Event::Erased { opened } = entry.event {
            erased.push(opened);
        }
        rows.push(row);
    }
    match store {
        Store::File { db, head: file } => {
            store::add(db, &rows, &texts, &erased).await?;
            let file = file.clone();
            let written = tokio::task::spawn_blocking(move || file.write(&head)).await;
            // The rows are safe. A head that lags behind is caught up by the next batch.
            if let Err(error) = written.map_err(std::io::Error::other).flatten() {
                tracing::error!(%error, "the ledger's head cannot be written");
            }
        }
        Store::Memory(kept) => kept.lock().unwrap_or_else(PoisonError::into_inner).append(&mut rows),
    }
    Ok(head)
}

//! What left the house, in a file that shows when it is changed: every row's hash covers the row before it.
//!
//! One task writes. What arrives while a commit is under way is written by the next one, so that a thousand rows cost
//! the disk as much as one; nobody's connection begins before the row that tells of it is on the disk.

pub mod entry;
mod head;
mod store;
mod verify;
mod writer;

pub use entry::{Contact, Decision, Entry, Event, Head, Lasting, Row, hex};
pub use verify::Report;

use crate::db::{self, Db};
use futures_util::{StreamExt, TryStreamExt};
use serde::Serialize;
use serde_json::value::RawValue;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};
use writer::{Order, Pending, Store};

/// The ledger's file below the state folder.
pub const FILE: &str = "egress.db";
/// The file of its head.
pub const HEAD_FILE: &str = "egress.head";

/// A handle on the ledger; cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    orders: mpsc::UnboundedSender<Order>,
    kept: Kept,
}

/// Where the rows are.
#[derive(Debug, Clone)]
enum Kept {
    File { db: Db, head: PathBuf },
    Memory(Arc<Mutex<Vec<Row>>>),
}

/// A row as it is exported: one JSON object a line.
#[derive(Debug, Serialize)]
struct Exported<'a> {
    seq: u64,
    hash: String,
    entry: &'a RawValue,
}

impl Ledger {
    /// Opens the ledger of a state folder, and reads what the owner decided.
    ///
    /// # Errors
    /// When it cannot be opened, or its end is not the one that its head remembers: then nothing may be added.
    pub async fn open(state: &Path) -> Result<(Self, Vec<(u64, Entry)>), Error> {
        let (path, head_path) = (state.join(FILE), state.join(HEAD_FILE));
        let db = Db::open_egress(&path).await?;
        let last = store::last(db.reader()).await?.as_ref().map(Head::from).unwrap_or_default();
        let changed = |problem: String| Error::Changed { path: path.clone(), problem };
        match head::read(&head_path).map_err(&changed)? {
            Some(kept) if kept.count > last.count => {
                return Err(changed(format!("it has {} rows, and had {}", last.count, kept.count)));
            }
            // The power may have gone between the row and the head, never the other way round.
            Some(kept) if kept.count > 0 => {
                let there = store::find(db.reader(), kept.count).await?;
                if there.is_none_or(|row| row.hash != kept.hash) {
                    return Err(changed(format!("row {} is another one than it was", kept.count)));
                }
            }
            None if last.count > 0 => return Err(changed(format!("{} is gone", head_path.display()))),
            _ => {}
        }
        let read = |row: Row| match row.entry() {
            Ok(entry) => Ok((row.seq, entry)),
            Err(error) => Err(changed(format!("row {} is not understood: {error}", row.seq))),
        };
        let decisions: Result<_, _> = store::decisions(db.reader()).await?.into_iter().map(read).collect();
        let file =
            head::HeadFile::open(&head_path).map_err(|source| Error::Head { path: head_path.clone(), source })?;
        let orders = writer::start(Store::File { db: db.clone(), head: Arc::new(file) }, last);
        Ok((Self { orders, kept: Kept::File { db, head: head_path } }, decisions?))
    }

    /// A ledger that goes with the process: for what a person runs and watches, and for tests.
    pub fn in_memory() -> Self {
        let rows = Arc::default();
        let orders = writer::start(Store::Memory(Arc::clone(&rows)), Head::default());
        Self { orders, kept: Kept::Memory(rows) }
    }

    /// Adds an entry, and the text beside it; returns its number when it is on the disk.
    ///
    /// # Errors
    /// When it could not be written.
    pub async fn append(&self, event: Event, text: Option<String>) -> Result<u64, Error> {
        let (written, done) = oneshot::channel();
        self.orders.send(Order::Append(Pending::new(event, text, Some(written)))).map_err(|_| Error::Closed)?;
        done.await.map_err(|_| Error::Closed)?
    }

    /// Adds an entry that nobody waits for. One that cannot be written now is kept and written with the next.
    pub fn note(&self, event: Event) {
        if let Err(mpsc::error::SendError(lost)) = self.orders.send(Order::Append(Pending::new(event, None, None))) {
            tracing::error!(?lost, "the ledger was closed before this was written");
        }
    }

    /// Up to `limit` rows before row `before`, or the last ones; the latest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn rows(&self, before: Option<u64>, limit: u32) -> Result<Vec<Row>, Error> {
        let end = before.unwrap_or(u64::MAX);
        match &self.kept {
            Kept::File { db, .. } => Ok(store::before(db.reader(), end, limit).await?),
            Kept::Memory(rows) => {
                let rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(rows.iter().rev().filter(|row| row.seq < end).take(limit as usize).cloned().collect())
            }
        }
    }

    /// One row.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn row(&self, seq: u64) -> Result<Option<Row>, Error> {
        match &self.kept {
            Kept::File { db, .. } => Ok(store::find(db.reader(), seq).await?),
            Kept::Memory(rows) => {
                let rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(rows.iter().find(|row| row.seq == seq).cloned())
            }
        }
    }

    /// The rows that close connections which these rows opened.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn closing(&self, opened: &[u64]) -> Result<Vec<Row>, Error> {
        match &self.kept {
            Kept::File { db, .. } => Ok(store::closing(db.reader(), opened).await?),
            Kept::Memory(rows) => {
                let closes = |row: &&Row| match row.entry() {
                    Ok(Entry { event: Event::Closed { opened: row, .. }, .. }) => opened.contains(&row),
                    _ => false,
                };
                let rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(rows.iter().filter(closes).cloned().collect())
            }
        }
    }

    /// Which of these rows still have a text beside them.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn with_text(&self, rows: &[u64]) -> Result<Vec<u64>, Error> {
        match &self.kept {
            Kept::File { db, .. } => Ok(store::with_text(db.reader(), rows).await?),
            Kept::Memory(_) => Ok(Vec::new()),
        }
    }

    /// The text beside a row, where it was not erased.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn text(&self, seq: u64) -> Result<Option<String>, Error> {
        match &self.kept {
            Kept::File { db, .. } => Ok(store::text(db.reader(), seq).await?),
            Kept::Memory(_) => Ok(None),
        }
    }

    /// Erases the text beside a row, and writes down that it was erased. Returns whether there was one.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub async fn erase(&self, opened: u64) -> Result<bool, Error> {
        if self.text(opened).await?.is_none() {
            return Ok(false);
        }
        self.append(Event::Erased { opened }, None).await.map(|_| true)
    }

    /// Checks every row.
    ///
    /// # Errors
    /// When there is no file.
    pub async fn verify(&self) -> Report {
        match &self.kept {
            Kept::File { db, head } => verify::verify(db.reader(), head::read(head)).await,
            Kept::Memory(rows) => {
                let rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
                verify::rows(&rows)
            }
        }
    }

    /// Every row, a JSON object a line, from the first one on.
    pub fn export(&self) -> impl futures_util::Stream<Item = Result<String, Error>> + Send + use<> {
        match &self.kept {
            Kept::File { db, .. } => exported(db.reader().clone()).boxed(),
            Kept::Memory(rows) => {
                let rows = rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
                futures_util::stream::iter(rows).map(|row| line(&row)).boxed()
            }
        }
    }

    /// Writes what is not written yet and closes the file.
    pub async fn close(&self) {
        let (written, done) = oneshot::channel();
        if self.orders.send(Order::Close(written)).is_ok() {
            // Fails when the task is gone, and then there is nothing to wait for.
            let _ = done.await;
        }
        if let Kept::File { db, .. } = &self.kept {
            db.close().await;
        }
    }
}

fn exported(pool: sqlx::SqlitePool) -> impl futures_util::Stream<Item = Result<String, Error>> + Send {
    // Page by page, so that a slow reader holds no transaction open.
    let pages = futures_util::stream::try_unfold(0, move |after| {
        let pool = pool.clone();
        async move {
            let rows = store::after(&pool, after, 1000).await?;
            let last = rows.last().map(|row| row.seq);
            Ok::<_, Error>(last.map(|last| (futures_util::stream::iter(rows.into_iter().map(Ok)), last)))
        }
    });
    pages.try_flatten().and_then(async |row| line(&row))
}

fn line(row: &Row) -> Result<String, Error> {
    let unreadable = |error| Error::Row { seq: row.seq, source: error };
    let entry = serde_json::from_str(&row.body).map_err(unreadable)?;
    let exported = Exported { seq: row.seq, hash: hex(&row.hash), entry };
    Ok(serde_json::to_string(&exported).map_err(unreadable)? + "\n")
}

/// Checks the ledger of a state folder whose daemon does not run.
///
/// # Errors
/// When there is none, or it cannot be opened.
pub async fn verify_file(state: &Path) -> Result<Report, Error> {
    let pool = db::read_only(&state.join(FILE)).await?;
    let report = verify::verify(&pool, head::read(&state.join(HEAD_FILE))).await;
    pool.close().await;
    Ok(report)
}

/// Why the ledger could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file or its schema.
    #[error(transparent)]
    Open(#[from] db::Error),
    /// SQLite.
    #[error("the ledger: {0}")]
    Db(#[from] sqlx::Error),
    /// The head's file.
    #[error("{}: {source}", path.display())]
    Head {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not as it was written.
    #[error("the ledger {} was changed: {problem}; `sovereign egress verify` tells more", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// A row says nothing that is known.
    #[error("row {seq} of the ledger is not understood: {source}")]
    Row {
        /// The row.
        seq: u64,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A batch could not be written; the cause is in the log.
    #[error("the ledger cannot be written: {0}")]
    Write(String),
    /// The daemon stops.
    #[error("the ledger is closed: the daemon stops")]
    Closed,
}

#[cfg(test)]
mod tests;

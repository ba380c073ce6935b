//! Whether a ledger is as it was written.

use super::entry::{Event, Head, Row, hex, link};
use super::store;
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::SqlitePool;
use std::collections::{BTreeMap, BTreeSet};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Rows that follow from one another.
    pub rows: u64,
    /// The last one's hash, in hex digits: the whole ledger in one number, worth keeping elsewhere.
    pub head: String,
    /// Connections that were opened.
    pub connections: u64,
    /// Texts that are still beside their rows.
    pub texts: u64,
    /// What is wrong, the first of it; nothing where the ledger is as it was written.
    pub problem: Option<String>,
}

/// What rows so far mean for those that follow.
#[derive(Debug, Default)]
pub(super) struct Checker {
    head: Head,
    connections: u64,
    /// Connections that are not closed yet.
    open: BTreeSet<u64>,
    /// The digests of texts that must lie beside the ledger.
    texts: BTreeMap<u64, String>,
}

impl Checker {
    /// Takes the next row.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn row(&mut self, row: &Row) -> Result<(), String> {
        let expected = self.head.count + 1;
        if row.seq != expected {
            return Err(format!("row {expected} is missing: row {} comes after row {}", row.seq, self.head.count));
        }
        if link(&self.head.hash, row.seq, &row.body) != row.hash {
            return Err(format!("row {} was changed, or the one before it: its hash does not fit", row.seq));
        }
        let entry = row.entry().map_err(|error| format!("row {} is not understood: {error}", row.seq))?;
        if entry.event.kind() != row.kind {
            return Err(format!("row {} was changed: it says that its kind is {:?}", row.seq, row.kind));
        }
        match entry.event {
            Event::Opened { sent, text, .. } => {
                self.connections += 1;
                self.open.insert(row.seq);
                if let Some(sent) = sent.filter(|_| text) {
                    self.texts.insert(row.seq, sent);
                }
            }
            Event::Closed { opened, .. } if !self.open.remove(&opened) => {
                return Err(format!("row {} closes row {opened}, which was not open", row.seq));
            }
            Event::Erased { opened } if self.texts.remove(&opened).is_none() => {
                return Err(format!("row {} erases the text of row {opened}, which had none", row.seq));
            }
            _ => {}
        }
        self.head = Head::from(row);
        Ok(())
    }

    fn report(&self, texts: u64, problem: Option<String>) -> Report {
        Report { rows: self.head.count, head: hex(&self.head.hash), connections: self.connections, texts, problem }
    }

    /// Takes a text that lies beside row `seq`.
    ///
    /// # Errors
    /// When it is not what was sent.
    fn text(&mut self, seq: u64, text: &str) -> Result<(), String> {
        match self.texts.remove(&seq) {
            Some(digest) if digest == hex(&Sha256::digest(text)) => Ok(()),
            Some(_) => Err(format!("the text beside row {seq} is not what was sent")),
            None => Err(format!("there is a text beside row {seq}, which has none")),
        }
    }
}

/// Checks rows in memory, which have no texts and no head elsewhere.
pub(super) fn rows(rows: &[Row]) -> Report {
    let mut checker = Checker::default();
    let problem = rows.iter().try_for_each(|row| checker.row(row)).err();
    checker.report(0, problem)
}

/// Checks every row, every text, and that the chain reaches as far as `kept`, the head that was kept elsewhere.
pub(super) async fn verify(pool: &SqlitePool, kept: Result<Option<Head>, String>) -> Report {
    let mut checker = Checker::default();
    let mut texts = 0;
    let problem = check(pool, kept, &mut checker, &mut texts).await.err();
    checker.report(texts, problem)
}

async fn check(
    pool: &SqlitePool,
    kept: Result<Option<Head>, String>,
    checker: &mut Checker,
    texts: &mut u64,
) -> Result<(), String> {
    let damaged = |error: sqlx::Error| format!("the file is damaged: {error}");
    let kept = kept?;
    // Rows are found by indexes, which must say what the rows say.
    let sound = store::integrity(pool).await.map_err(damaged)?;
    if sound != "ok" {
        return Err(format!("the file is damaged: {sound}"));
    }
    let mut rows = std::pin::pin!(store::all(pool));
    while let Some(row) = rows.try_next().await.map_err(damaged)? {
        checker.row(&row)?;
        if kept.is_some_and(|kept| kept.count == row.seq && kept.hash != row.hash) {
            return Err(format!(
                "the ledger was written anew: row {} has another hash than its head remembers",
                row.seq
            ));
        }
    }
    match kept {
        Some(kept) if kept.count > checker.head.count => {
            let (has, had) = (checker.head.count, kept.count);
            return Err(format!("the end was cut off: {has} rows are there, and there were {had}"));
        }
        None if checker.head.count > 0 => return Err("the head that belongs to the ledger is gone".into()),
        _ => {}
    }
    let mut kept_texts = std::pin::pin!(store::texts(pool));
    while let Some((seq, text)) = kept_texts.try_next().await.map_err(damaged)? {
        checker.text(seq, &text)?;
        *texts += 1;
    }
    match checker.texts.first_key_value() {
        Some((seq, _)) => Err(format!("the text beside row {seq} is gone, and no row says that it was erased")),
        None => Ok(()),
    }
}

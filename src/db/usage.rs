//! What was answered, for whom: the table `usage`.

use super::Db;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// Rows that are written in one transaction when requests come faster than the disk syncs.
const BATCH: usize = 64;

/// One finished request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// When it ended, in unix seconds.
    pub at: i64,
    /// The API key that paid for it.
    pub api_key_id: Option<i64>,
    /// The model that answered.
    pub model: String,
    /// The kind of runtime that served it.
    pub runtime: &'static str,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
    /// Milliseconds until a streamed answer began; none for one that came whole.
    pub first_token_ms: Option<i64>,
    /// Milliseconds until it ended, waiting for the model included.
    pub total_ms: i64,
    /// The HTTP status; 499 when the caller left before the end.
    pub status: u16,
}

/// The one task that writes the table, so that no answer waits for the disk.
#[derive(Debug, Clone)]
pub struct Usage {
    messages: mpsc::UnboundedSender<Message>,
    totals: Arc<Mutex<Totals>>,
}

/// What was answered since the start, by model and kind of runtime.
pub type Totals = BTreeMap<(String, &'static str), Total>;

/// What one model answered since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Total {
    /// Requests, by their HTTP status.
    pub requests: BTreeMap<String, u64>,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub generated_tokens: u64,
}

#[derive(Debug)]
enum Message {
    Row(Row),
    Flush(oneshot::Sender<()>),
}

impl Usage {
    /// Starts the writer. It ends with the last handle.
    pub fn start(db: Db) -> Self {
        let (messages, inbox) = mpsc::unbounded_channel();
        tokio::spawn(write_all(db, inbox));
        Self { messages, totals: Arc::default() }
    }

    /// Records a request; it is written soon.
    pub fn record(&self, row: Row) {
        {
            let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
            let total = totals.entry((row.model.clone(), row.runtime)).or_default();
            *total.requests.entry(row.status.to_string()).or_default() += 1;
            total.prompt_tokens += u64::from(row.prompt_tokens);
            total.generated_tokens += u64::from(row.completion_tokens);
        }
        // Without its writer the daemon is ending, and the figure is lost with it.
        let _ = self.messages.send(Message::Row(row));
    }

    /// What was answered since the start.
    pub fn totals(&self) -> Totals {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns when everything that was recorded before is written.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.messages.send(Message::Flush(done)).is_ok() {
            let _ = written.await;
        }
    }
}

async fn write_all(db: Db, mut inbox: mpsc::UnboundedReceiver<Message>) {
    let mut messages = Vec::with_capacity(BATCH);
    while inbox.recv_many(&mut messages, BATCH).await > 0 {
        let (mut rows, mut flushed) = (Vec::new(), Vec::new());
        for message in messages.drain(..) {
            match message {
                Message::Row(row) => rows.push(row),
                Message::Flush(done) => flushed.push(done),
            }
        }
        if !rows.is_empty()
            && let Err(error) = write(&db, &rows).await
        {
            tracing::error!(%error, rows = rows.len(), "usage could not be recorded and is lost");
        }
        for done in flushed {
            let _ = done.send(());
        }
    }
}

async fn write(db: &Db, rows: &[Row]) -> Result<(), sqlx::Error> {
    let mut transaction = db.writer().begin().await?;
    for row in rows {
        sqlx::query(
            "INSERT INTO usage (at, api_key_id, model, runtime, prompt_tokens, completion_tokens, first_token_ms,
                                total_ms, status) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(row.at)
        .bind(row.api_key_id)
        .bind(&row.model)
        .bind(row.runtime)
        .bind(row.prompt_tokens)
        .bind(row.completion_tokens)
        .bind(row.first_token_ms)
        .bind(row.total_ms)
        .bind(row.status)
        .execute(&mut *transaction)
        .await?;
        if let Some(id) = row.api_key_id {
            sqlx::query("UPDATE api_key SET last_used_at = ? WHERE id = ?")
                .bind(row.at)
                .bind(id)
                .execute(&mut *transaction)
                .await?;
        }
    }
    transaction.commit().await
}

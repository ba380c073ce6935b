use super::Caller;
use super::events::Seen;
use crate::db;
use crate::db::usage::{Row, Usage};
use crate::runtime::Endpoint;
use axum::http::StatusCode;
use std::time::{Duration, Instant};

/// The status of a request whose caller left before its end, as nginx has it.
const LEFT: u16 = 499;

/// What one request cost, recorded when this is dropped.
#[derive(Debug)]
pub(super) struct Record {
    usage: Usage,
    row: Row,
    started: Instant,
    /// What was seen of the answer.
    pub seen: Seen,
}

impl Record {
    /// A request that was given a lease on `endpoint`, and began at `started`.
    pub(super) fn new(usage: Usage, caller: &Caller, endpoint: &Endpoint, started: Instant) -> Self {
        let row = Row {
            at: 0,
            api_key_id: caller.key(),
            model: endpoint.model.clone(),
            runtime: endpoint.runtime,
            prompt_tokens: 0,
            completion_tokens: 0,
            first_token_ms: None,
            total_ms: 0,
            status: LEFT,
        };
        Self { usage, row, started, seen: Seen::default() }
    }

    /// Something of a streamed answer has arrived.
    pub(super) fn arrived(&mut self) {
        if self.row.first_token_ms.is_none() && self.seen.pieces > 0 {
            self.row.first_token_ms = Some(millis(self.started.elapsed()));
        }
    }

    /// The request came to an end of its own.
    pub(super) fn finish(&mut self, status: StatusCode) {
        self.row.status = status.as_u16();
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let tokens = self.seen.tokens.unwrap_or_default();
        let mut row = self.row.clone();
        row.at = db::now();
        row.total_ms = millis(self.started.elapsed());
        row.prompt_tokens = tokens.prompt_tokens;
        row.completion_tokens = if self.seen.tokens.is_some() { tokens.completion_tokens } else { self.seen.pieces };
        self.usage.record(row);
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

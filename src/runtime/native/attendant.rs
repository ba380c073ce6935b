//! A worker process, minded to its end.

use super::{CARD_FAILED, LINE, REFUSED};
use crate::runtime::Exit;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Child;
use tokio_util::sync::CancellationToken;

/// Lines of a worker's stderr that are kept for its obituary.
const LAST_WORDS: usize = 5;

/// Owns a worker process to its end.
pub(super) struct Attendant {
    pub model: String,
    pub socket: PathBuf,
    pub grace: Duration,
    pub asked: CancellationToken,
    pub killed: CancellationToken,
    pub on_card: bool,
}

impl Attendant {
    /// Logs what the worker says, ends it when that is asked, and tells how it ended.
    pub async fn attend(self, mut child: Child, stderr: impl AsyncRead + Unpin + Send + 'static) -> Exit {
        let words = Arc::new(Mutex::new(VecDeque::new()));
        let mut listening = tokio::spawn(listen(stderr, self.model.clone(), words.clone()));
        // Our end of the pipe closes with this process, whatever ends this process, and the worker ends with it.
        let stdin = child.stdin.take();
        let status = tokio::select! {
            status = child.wait() => status,
            () = self.asked.cancelled() => {
                drop(stdin);
                terminate(&child);
                let in_time = tokio::select! {
                    status = child.wait() => Some(status),
                    () = tokio::time::sleep(self.grace) => None,
                    () = self.killed.cancelled() => None,
                };
                match in_time {
                    Some(status) => status,
                    None => {
                        tracing::warn!(model = self.model, "a worker did not end in time and is killed");
                        // Fails only when it has ended by now.
                        let _ = child.start_kill();
                        child.wait().await
                    }
                }
            }
            () = self.killed.cancelled() => {
                let _ = child.start_kill();
                child.wait().await
            }
        };
        // Whoever inherited its stderr may hold the pipe open; its own last words are in it already.
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut listening).await;
        listening.abort();
        let _ = std::fs::remove_file(&self.socket);
        let card_failed = status.as_ref().is_ok_and(|status| match status.code() {
            Some(CARD_FAILED) => true,
            Some(REFUSED) => self.on_card,
            _ => false,
        });
        let status =
            status.map_or_else(|error| format!("its end cannot be told: {error}"), |status| status.to_string());
        let words = words.lock().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let reason = match words.is_empty() {
            true => format!("the worker ended without a word ({status})"),
            false => format!("{} ({status})", words.join("\n")),
        };
        Exit { reason, card_failed }
    }
}

fn terminate(child: &Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // Fails only when it has ended by now: `child` has not been waited for, so the number is not another's yet.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Logs what a worker says and keeps the last of it.
async fn listen(stderr: impl AsyncRead + Unpin, model: String, words: Arc<Mutex<VecDeque<String>>>) {
    let mut stderr = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match (&mut stderr).take(LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_string();
        if line.is_empty() {
            continue;
        }
        tracing::info!(target: "sovereign::worker", model, "{line}");
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.push_back(line);
        if words.len() > LAST_WORDS {
            words.pop_front();
        }
    }
}

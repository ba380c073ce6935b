use crate::models::{Error, Phase, Progress};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// People see no more than this, and each change costs everyone who watches.
const EVERY: Duration = Duration::from_millis(100);

/// Where a pull tells how far it is, and hears that it shall end.
#[derive(Debug)]
pub(in crate::models) struct Report {
    progress: watch::Sender<Progress>,
    cancel: CancellationToken,
    told: Mutex<Option<Instant>>,
}

impl Report {
    pub(in crate::models) fn new(progress: watch::Sender<Progress>, cancel: CancellationToken) -> Self {
        Self { progress, cancel, told: Mutex::new(None) }
    }

    /// The next step begins.
    pub(in crate::models) fn phase(&self, phase: Phase) {
        self.progress.send_modify(|progress| progress.phase = phase);
    }

    /// The model's name is known.
    pub(in crate::models) fn model(&self, name: &str) {
        self.progress.send_modify(|progress| progress.model = Some(name.to_owned()));
    }

    /// So many bytes were there before, of so many.
    pub(super) fn begin(&self, done: u64, total: Option<u64>) {
        self.bytes(done, total);
        // The first byte that comes is told at once.
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// So many bytes are there, of so many.
    pub(super) fn bytes(&self, done: u64, total: Option<u64>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if Some(done) == total || told.is_none_or(|told| told.elapsed() >= EVERY) {
            *told = Some(Instant::now());
            self.progress.send_modify(|progress| {
                progress.done = done;
                progress.total = total.or(progress.total);
            });
        }
    }

    /// The end.
    pub(in crate::models) fn end(self, result: Result<(), &Error>) {
        self.progress.send_modify(|progress| match result {
            Ok(()) => {
                progress.phase = Phase::Done;
                progress.total = progress.total.or(Some(progress.done));
                progress.done = progress.total.unwrap_or_default();
            }
            Err(error) => {
                progress.phase = Phase::Failed;
                progress.error = Some(error.to_string());
            }
        });
    }

    /// Tells when it shall end.
    pub(super) fn cancellation(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Waits, unless it shall end before.
    pub(super) async fn pause(&self, pause: Duration) -> Result<(), Error> {
        let asleep = async {
            tokio::time::sleep(pause).await;
            Ok(())
        };
        self.unless_cancelled(asleep).await
    }

    /// Does `work`, unless it shall end before.
    pub(super) async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.cancel.run_until_cancelled(work).await.unwrap_or(Err(Error::Cancelled))
    }
}

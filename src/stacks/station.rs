//! What is known of one stack besides its file and its containers, and the line in which operations on it stand.

use super::error::Error;
use super::wanted::Wanted;
use std::collections::BTreeSet;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What is known of one stack besides its file and its containers.
#[derive(Debug, Default)]
pub(super) struct Station {
    pub wanted: Option<Wanted>,
    pub operation: Option<Operation>,
    pub problem: Option<String>,
    /// Containers that do not see their cards any more: the next operation makes them anew.
    pub blind: BTreeSet<String>,
    /// Operations so far.
    count: u64,
    /// Told when the last operation in the line has ended.
    last_ended: Option<oneshot::Receiver<()>>,
}

/// The newest operation on a stack, under way or waiting for its turn.
#[derive(Debug)]
pub(super) struct Operation {
    pub work: Work,
    pub progress: Option<String>,
    number: u64,
    cancel: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Up,
    Down,
    Remove,
}

/// A place in the line of a stack's operations.
#[derive(Debug)]
pub(super) struct Turn {
    pub number: u64,
    before: Option<oneshot::Receiver<()>>,
    /// Dropping it lets the next one in.
    _ended: oneshot::Sender<()>,
}

impl Turn {
    /// Waits until all that came before has ended.
    pub async fn comes(&mut self) {
        if let Some(before) = self.before.take() {
            // Nothing is ever sent: the sender is dropped at the end.
            let _ = before.await;
        }
    }
}

impl Station {
    pub fn new(wanted: Wanted) -> Self {
        Self { wanted: Some(wanted), ..Self::default() }
    }

    /// Puts an operation at the end of the line. One that brings the stack up is given up for it; others are short,
    /// and come to their end.
    pub fn enter(&mut self, work: Work, cancel: CancellationToken) -> Turn {
        if let Some(last) = self.operation.as_ref().filter(|last| last.work == Work::Up) {
            last.cancel.cancel();
        }
        self.count += 1;
        self.problem = None;
        self.operation = Some(Operation { number: self.count, work, progress: None, cancel });
        let (ended, told) = oneshot::channel();
        Turn { number: self.count, before: self.last_ended.replace(told), _ended: ended }
    }

    /// The operation of that number, if it is the newest and under way.
    pub fn operation(&mut self, number: u64) -> Option<&mut Operation> {
        self.operation.as_mut().filter(|operation| operation.number == number)
    }
}

/// An operation under way, as the future of its end. It goes on when this is dropped.
#[derive(Debug)]
pub struct Handle(pub(super) JoinHandle<Result<(), Error>>);

impl Future for Handle {
    /// Why the stack is not as it was wanted; [`Error::Superseded`] when something newer was.
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // It ends without an answer only with the daemon.
        Pin::new(&mut self.0).poll(context).map(|joined| joined.unwrap_or(Err(Error::Superseded)))
    }
}

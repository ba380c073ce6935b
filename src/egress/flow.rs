//! Connections that are counted, that can be cut, and that write down how they ended.

use super::gate::Egress;
use super::ledger::{Event, Ledger};
use rustix::fd::OwnedFd;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Why a connection was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// What it was allowed by is no more.
    #[error("cut: its consent was revoked or is over")]
    Revoked,
    /// The switch.
    #[error("cut: the house went offline")]
    Offline,
    /// A refusal of the owner's, or its class was turned off.
    #[error("cut: it was forbidden")]
    Forbidden,
}

/// What a connection hangs on: pulling it ends the connection, wherever its other half is.
#[derive(Debug, Default)]
pub(super) struct Cord {
    pulled: CancellationToken,
    why: OnceLock<Cut>,
    socket: Mutex<Option<OwnedFd>>,
    pub(super) bytes_out: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    /// The ledger's entry; 0 before there is one.
    pub(super) opened: AtomicU64,
}

impl Cord {
    /// Ends the connection: nothing more leaves, what lies in the kernel's buffer included.
    pub(super) fn pull(&self, why: Cut) {
        if self.why.set(why).is_err() {
            return;
        }
        self.pulled.cancel();
        if let Some(socket) = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Dissolves the association: the peer gets a reset, and what was not sent yet is thrown away.
            if let Err(error) = rustix::net::connect_unspec(&socket) {
                tracing::debug!(%error, "a connection had ended before it was cut");
            }
        }
    }

    /// Why it was pulled, when it is.
    pub(super) async fn pulled(&self) -> Cut {
        self.pulled.cancelled().await;
        self.cut().unwrap_or(Cut::Revoked)
    }

    /// Why it was pulled, if it was.
    pub(super) fn cut(&self) -> Option<Cut> {
        self.why.get().copied()
    }

    /// Hangs a connection on it.
    fn hold(&self, stream: &TcpStream) -> io::Result<()> {
        let socket = rustix::io::fcntl_dupfd_cloexec(stream, 0)?;
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
        match self.cut() {
            Some(why) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)),
            None => Ok(()),
        }
    }

    fn let_go(&self) {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// The open end of a row: dropping it writes the row that closes it.
#[derive(Debug)]
pub(super) struct Record {
    ledger: Ledger,
    opened: u64,
    cord: Arc<Cord>,
    /// How it ended, where that is not simply the end.
    pub(super) how: Option<String>,
}

impl Record {
    /// Of the entry `opened`.
    pub(super) fn new(ledger: Ledger, opened: u64, cord: Arc<Cord>) -> Self {
        cord.opened.store(opened, Ordering::Relaxed);
        Self { ledger, opened, cord, how: None }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let how = self.cord.cut().map(|cut| cut.to_string()).or(self.how.take()).unwrap_or_else(|| "ended".into());
        self.ledger.note(Event::Closed {
            opened: self.opened,
            bytes_out: self.cord.bytes_out.load(Ordering::Relaxed),
            bytes_in: self.cord.bytes_in.load(Ordering::Relaxed),
            how,
        });
    }
}

/// A connection's place among those that live; dropping it frees the place.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) egress: Egress,
    pub(super) id: u64,
    pub(super) cord: Arc<Cord>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.egress.ended(self.id);
    }
}

/// A connection to the outside. It counts its bytes, ends when its consent is revoked or the house goes offline, and
/// writes its closing row when it is dropped.
#[derive(Debug)]
pub struct Flow {
    stream: TcpStream,
    pulled: Pin<Box<WaitForCancellationFutureOwned>>,
    // Dropped in this order: the row is closed, then the place is free.
    record: Record,
    place: Place,
}

impl Flow {
    pub(super) fn new(stream: TcpStream, record: Record, place: Place) -> io::Result<Self> {
        place.cord.hold(&stream)?;
        let pulled = Box::pin(place.cord.pulled.clone().cancelled_owned());
        Ok(Self { stream, pulled, record, place })
    }

    /// The number of the ledger's row.
    pub fn row(&self) -> u64 {
        self.record.opened
    }

    /// The address that was checked and dialled.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// Says how it ended, where that was not simply the end.
    pub fn ended(&mut self, how: impl Into<String>) {
        self.record.how = Some(how.into());
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.pulled.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                let why = self.place.cord.cut().unwrap_or(Cut::Revoked);
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, why))
            }
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // The other handle would keep the connection open.
        self.place.cord.let_go();
    }
}

impl AsyncRead for Flow {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let flow = self.get_mut();
        flow.check(context)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut flow.stream).poll_read(context, buffer))?;
        flow.place.cord.bytes_in.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Flow {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let flow = self.get_mut();
        flow.check(context)?;
        let written = ready!(Pin::new(&mut flow.stream).poll_write(context, bytes))?;
        flow.place.cord.bytes_out.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// A row for what somebody else carries out for us, such as the Docker engine's pull of an image.
#[derive(Debug)]
pub struct Entrusted {
    record: Record,
    place: Place,
}

impl Entrusted {
    pub(super) fn new(record: Record, place: Place) -> Self {
        Self { record, place }
    }

    /// The number of the ledger's row.
    pub fn row(&self) -> u64 {
        self.record.opened
    }

    /// Waits until it must be broken off: its consent was revoked, or the house went offline.
    pub async fn cut(&self) -> Cut {
        self.place.cord.pulled().await
    }

    /// Closes the row: so many bytes came, as whoever did it says, and `how` it ended.
    pub fn close(mut self, bytes_in: u64, how: impl Into<String>) {
        self.place.cord.bytes_in.store(bytes_in, Ordering::Relaxed);
        self.record.how = Some(how.into());
    }
}

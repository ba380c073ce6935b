use rustix::process::{PidfdFlags, getppid, pidfd_open};
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

/// What ties this process to the one that started it: the pipe that is its stdin, and the parent process itself, in case
/// that somebody else holds the pipe open.
///
/// The kernel's parent-death signal would be simpler, but it comes when the thread ends that started this process.
#[derive(Debug)]
pub struct Tie {
    stdin_closed: CancellationToken,
    /// None where the kernel has no such handles; the pipe remains.
    parent: Option<OwnedFd>,
}

impl Tie {
    /// Ties this process to its parent.
    ///
    /// # Errors
    /// The kernel refuses a thread.
    pub fn new() -> io::Result<Self> {
        let parent = getppid().and_then(|parent| pidfd_open(parent, PidfdFlags::empty()).ok());
        let stdin_closed = CancellationToken::new();
        let closed = stdin_closed.clone().drop_guard();
        std::thread::Builder::new().name("tie".into()).spawn(move || {
            let _closed = closed;
            // What is written there means nothing; an error ends it as its end does.
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        })?;
        Ok(Self { stdin_closed, parent })
    }

    /// Returns when stdin is closed or the parent has ended.
    pub async fn cut(self) {
        // SAFETY: the descriptor is owned, so nothing else closes it or makes another of its number while it is registered.
        let register = |parent| unsafe { AsyncFd::register_with_interest(parent, Interest::READABLE) };
        let parent = self.parent.map(register);
        tokio::select! {
            () = self.stdin_closed.cancelled() => {}
            () = async {
                match &parent {
                    // It becomes readable when the process ends.
                    Some(Ok(parent)) => drop(parent.readable().await),
                    _ => std::future::pending().await,
                }
            } => {}
        }
    }
}

//! What the daemon listens on for containers. It follows from the containers that exist and their labels, nothing
//! else: after a restart of the daemon or of Docker the same is served again.

use crate::docker::{Container, Docker};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// How long until an address that was taken is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What connections to an address are for.
pub(super) trait Target: Clone + PartialEq + Send + Sync + 'static {
    /// Connections of one address that are open at once; further ones wait in the kernel's queue.
    const CONNECTIONS: usize;

    /// The stack that it belongs to.
    fn stack(&self) -> &str;

    /// What of the stack it is for, to follow "for".
    fn what(&self) -> &str;
}

/// What cannot be served, by stack.
pub(super) type Problems = BTreeMap<String, String>;

/// What is to be listened on, and what cannot be because two ask for it.
pub(super) type Wanted<T> = (BTreeMap<SocketAddr, T>, Problems);

/// What is listened on, and what cannot be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Board {
    pub open: BTreeSet<SocketAddr>,
    pub problems: Problems,
}

/// Listens as `wanted` says of all of our containers, until `shutdown`; `serve` is given each connection, whence it
/// comes, and what it is for.
pub(super) fn follow<T: Target, S: Future<Output = io::Result<()>> + Send + 'static>(
    docker: &Docker,
    wanted: fn(&[Container]) -> Wanted<T>,
    serve: impl Fn(TcpStream, SocketAddr, Arc<T>) -> S + Clone + Send + Sync + 'static,
    shutdown: CancellationToken,
) -> watch::Receiver<Board> {
    let (publish, board) = watch::channel(Board::default());
    let mut containers = docker.containers();
    let mut listeners = Listeners { open: BTreeMap::new(), serve, shutdown: shutdown.clone() };
    tokio::spawn(async move {
        loop {
            let (wanted, mut problems) = wanted(&containers.borrow_and_update());
            listeners.close_unless(&wanted);
            for (listen, target) in wanted {
                if let Err(problem) = listeners.open(listen, &target).await {
                    problems.insert(target.stack().to_owned(), problem);
                }
            }
            let retry = !problems.is_empty();
            let board = Board { open: listeners.open.keys().copied().collect(), problems };
            publish.send_if_modified(|last| {
                let changed = *last != board;
                *last = board;
                changed
            });
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = containers.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if retry => {}
            }
        }
    });
    board
}

struct Listeners<T, F> {
    open: BTreeMap<SocketAddr, (T, CancellationToken)>,
    serve: F,
    shutdown: CancellationToken,
}

impl<T: Target, F, S> Listeners<T, F>
where
    F: Fn(TcpStream, SocketAddr, Arc<T>) -> S + Clone + Send + Sync + 'static,
    S: Future<Output = io::Result<()>> + Send + 'static,
{
    /// Closes the listeners that lead nowhere any more, and what came by them.
    fn close_unless(&mut self, wanted: &BTreeMap<SocketAddr, T>) {
        self.open.retain(|listen, (target, stop)| {
            let stays = wanted.get(listen) == Some(target);
            if !stays {
                stop.cancel();
            }
            stays
        });
    }

    async fn open(&mut self, listen: SocketAddr, target: &T) -> Result<(), String> {
        if self.open.contains_key(&listen) {
            return Ok(());
        }
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|error| format!("{listen} cannot be served for {}: {error}", target.what()))?;
        let stop = self.shutdown.child_token();
        tracing::debug!(%listen, stack = target.stack(), what = target.what(), "listening");
        tokio::spawn(accept(listener, Arc::new(target.clone()), self.serve.clone(), stop.clone()));
        self.open.insert(listen, (target.clone(), stop));
        Ok(())
    }
}

async fn accept<T: Target, S: Future<Output = io::Result<()>> + Send + 'static>(
    listener: TcpListener,
    target: Arc<T>,
    serve: impl Fn(TcpStream, SocketAddr, Arc<T>) -> S,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(T::CONNECTIONS));
    loop {
        let next = async {
            // The semaphore is never closed.
            let permit = permits.clone().acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        let (permit, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            next = next => match next {
                Some(next) => next,
                None => return,
            },
        };
        match accepted {
            Ok((client, peer)) => {
                let (served, target, stop) = (serve(client, peer, target.clone()), target.clone(), stop.clone());
                tokio::spawn(async move {
                    let _permit = permit;
                    tokio::select! {
                        () = stop.cancelled() => {}
                        served = served => if let Err(error) = served {
                            tracing::debug!(stack = target.stack(), what = target.what(), %error, "a connection ended");
                        }
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: some will be free again.
                tracing::warn!(stack = target.stack(), what = target.what(), %error, "a connection could not be accepted");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(Duration::from_millis(250)) => {}
                }
            }
        }
    }
}

//! The port forwarder. Docker publishes no ports from internal networks; so the daemon listens in its place and passes
//! connections on to the container's address.
//!
//! What is listened on follows from the containers that exist and their labels, nothing else: after a restart of the
//! daemon or of Docker the same ports are served again. A listener outlives restarts of its container, and looks its
//! address up at each connection.

use crate::docker::{Container, Docker, Phase};
use crate::egress;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// Connections of one port that are open at once; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 256;
/// How long a connection waits for a container that is just starting again.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long until a port that was taken is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Where a port leads.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    stack: String,
    service: String,
    port: u16,
}

/// Ports that cannot be served, by stack.
pub(super) type Problems = BTreeMap<String, String>;

/// Starts forwarding for all of our containers, until `shutdown`. Returns what cannot be served.
pub(super) fn start(docker: &Docker, shutdown: CancellationToken) -> watch::Receiver<Problems> {
    let (publish, problems) = watch::channel(Problems::new());
    let forwarder = Forwarder { docker: docker.clone(), listeners: BTreeMap::new(), shutdown };
    tokio::spawn(forwarder.run(publish));
    problems
}

struct Forwarder {
    docker: Docker,
    listeners: BTreeMap<SocketAddr, (Target, CancellationToken)>,
    shutdown: CancellationToken,
}

impl Forwarder {
    async fn run(mut self, publish: watch::Sender<Problems>) {
        let mut containers = self.docker.containers();
        loop {
            let (wanted, mut problems) = wanted(&containers.borrow_and_update());
            self.close_unless(&wanted);
            for (listen, target) in wanted {
                if let Err(problem) = self.open(listen, &target).await {
                    problems.insert(target.stack, problem);
                }
            }
            let retry = !problems.is_empty();
            publish.send_if_modified(|last| {
                let changed = *last != problems;
                *last = problems;
                changed
            });
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                changed = containers.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if retry => {}
            }
        }
    }

    /// Closes the listeners that lead nowhere any more.
    fn close_unless(&mut self, wanted: &BTreeMap<SocketAddr, Target>) {
        self.listeners.retain(|listen, (target, stop)| {
            let stays = wanted.get(listen) == Some(target);
            if !stays {
                stop.cancel();
            }
            stays
        });
    }

    async fn open(&mut self, listen: SocketAddr, target: &Target) -> Result<(), String> {
        if self.listeners.contains_key(&listen) {
            return Ok(());
        }
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|error| format!("{listen} cannot be served for {}: {error}", target.service))?;
        let stop = self.shutdown.child_token();
        tracing::debug!(%listen, stack = target.stack, service = target.service, "a port is forwarded");
        tokio::spawn(accept(listener, target.clone(), self.docker.clone(), stop.clone()));
        self.listeners.insert(listen, (target.clone(), stop));
        Ok(())
    }
}

/// The ports that are to be served, and those that two ask for.
fn wanted(containers: &[Container]) -> (BTreeMap<SocketAddr, Target>, Problems) {
    let (mut wanted, mut problems) = (BTreeMap::<SocketAddr, Target>::new(), Problems::new());
    let alive = |container: &&Container| matches!(container.phase, Phase::Running | Phase::Paused | Phase::Restarting);
    for container in containers.iter().filter(alive) {
        for publish in &container.ports {
            let target =
                Target { stack: container.stack.clone(), service: container.service.clone(), port: publish.port };
            match wanted.get(&publish.listen) {
                Some(first) if *first != target => {
                    let (listen, stack, service) = (publish.listen, &first.stack, &first.service);
                    let problem = format!("{listen} is served for {service} of the stack {stack} already");
                    problems.insert(target.stack, problem);
                }
                _ => drop(wanted.insert(publish.listen, target)),
            }
        }
    }
    (wanted, problems)
}

async fn accept(listener: TcpListener, target: Target, docker: Docker, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
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
            Ok((client, _)) => {
                let (target, docker, stop) = (target.clone(), docker.clone(), stop.clone());
                tokio::spawn(async move {
                    let _permit = permit;
                    tokio::select! {
                        () = stop.cancelled() => {}
                        passed = pass(client, &target, &docker) => if let Err(error) = passed {
                            tracing::debug!(stack = target.stack, service = target.service, %error, "a forwarded connection ended");
                        }
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: some will be free again.
                tracing::warn!(stack = target.stack, service = target.service, %error, "a connection could not be accepted");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(Duration::from_millis(250)) => {}
                }
            }
        }
    }
}

/// Passes bytes both ways until both sides have closed.
async fn pass(mut client: TcpStream, target: &Target, docker: &Docker) -> io::Result<()> {
    let address = tokio::time::timeout(PATIENCE, address(target, docker)).await;
    let address = address.ok().flatten().ok_or_else(|| io::Error::other("the container does not run"))?;
    let dial = tokio::time::timeout(PATIENCE, egress::dial(address));
    let mut container = dial.await.map_err(|_| io::Error::other("the container does not answer"))??;
    let _ = (client.set_nodelay(true), container.set_nodelay(true));
    io::copy_bidirectional(&mut client, &mut container).await?;
    Ok(())
}

/// The container's address as soon as it has one.
async fn address(target: &Target, docker: &Docker) -> Option<SocketAddr> {
    let mut containers = docker.containers();
    loop {
        let found = containers.borrow_and_update().iter().find_map(|container| {
            let is_it = container.stack == target.stack && container.service == target.service;
            (is_it && container.phase == Phase::Running).then_some(container.address?)
        });
        if let Some(address) = found {
            return Some(SocketAddr::new(address, target.port));
        }
        containers.changed().await.ok()?;
    }
}

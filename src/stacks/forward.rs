//! The port forwarder. Docker publishes no ports from internal networks; so the daemon listens in its place and passes
//! connections on to the container's address. A listener outlives restarts of its container, and looks its address up
//! at each connection.

use super::listeners::{self, Board, Problems, Wanted};
use crate::docker::{Container, Docker, Phase};
use crate::egress;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a connection waits for a container that is just starting again.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a port leads.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    stack: String,
    service: String,
    port: u16,
}

impl listeners::Target for Target {
    const CONNECTIONS: usize = 256;

    fn stack(&self) -> &str {
        &self.stack
    }

    fn what(&self) -> &str {
        &self.service
    }
}

/// Starts forwarding for all of our containers, until `shutdown`.
pub(super) fn start(docker: &Docker, shutdown: CancellationToken) -> watch::Receiver<Board> {
    let engine = docker.clone();
    let serve = move |client, _, target: Arc<Target>| {
        let docker = engine.clone();
        async move { pass(client, &target, &docker).await }
    };
    listeners::follow(docker, wanted, serve, shutdown)
}

/// The ports that are to be served, and those that two ask for.
fn wanted(containers: &[Container]) -> Wanted<Target> {
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
            (is_it && container.phase == Phase::Running).then_some(*container.addresses.first()?)
        });
        if let Some(address) = found {
            return Some(SocketAddr::new(address, target.port));
        }
        containers.changed().await.ok()?;
    }
}

//! The way out of stacks that have one: a proxy of our own, on this machine's address in the stack's network alone.
//!
//! Who asks is known by where the connection comes from. What is not in the stack's list is refused; what is, is
//! admitted like everything that leaves the house, dialled by `egress`, and written down there.

mod head;
mod relay;

use super::allowed::Allowed;
use super::listeners::{self, Board, Wanted};
use crate::docker::{self, Container, Docker, Phase};
use crate::egress::{self, Class, Egress, Flow, Initiator, Reason, Refusal, Wish};
use head::{LONGEST, Request, Wrong};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a client may take for its request's head.
const HEAD: Duration = Duration::from_secs(30);
/// How long it may take to be known: it may be quicker than the engine's word of its start.
const KNOWN: Duration = Duration::from_secs(10);
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(15 * 60);

/// A stack that has a way out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target(String);

impl listeners::Target for Target {
    const CONNECTIONS: usize = 128;

    fn stack(&self) -> &str {
        &self.0
    }

    fn what(&self) -> &str {
        "its containers' way out"
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Guest {
    stack: String,
    service: String,
    allowed: Vec<Allowed>,
}

/// Starts the proxies of all of our containers, until `shutdown`.
pub(super) fn start(docker: &Docker, egress: &Egress, shutdown: CancellationToken) -> watch::Receiver<Board> {
    let (engine, egress) = (docker.clone(), egress.clone());
    let serve = move |client, peer: SocketAddr, target: Arc<Target>| {
        let (docker, egress) = (engine.clone(), egress.clone());
        async move { serve(client, peer.ip(), &target.0, &docker, &egress).await }
    };
    listeners::follow(docker, wanted, serve, shutdown)
}

/// Where a container's proxy listens, if it has one.
pub(super) fn address(container: &Container) -> Option<SocketAddr> {
    container.labels.get(docker::PROXY)?.parse().ok()
}

fn wanted(containers: &[Container]) -> Wanted<Target> {
    // It is there before they start.
    let there = containers.iter().filter(|one| !matches!(one.phase, Phase::Removing | Phase::Dead));
    let proxies = there.filter_map(|one| Some((address(one)?, Target(one.stack.clone()))));
    (proxies.collect(), BTreeMap::new())
}

/// The container of a stack that has this address now.
fn guest(containers: &[Container], stack: &str, address: IpAddr) -> Option<Guest> {
    let is_it = |one: &&Container| {
        one.stack == stack && one.phase == Phase::Running && one.addresses.contains(&address.to_canonical())
    };
    let container = containers.iter().find(is_it)?;
    let listed = container.labels.get(docker::EGRESS).map(String::as_str).unwrap_or_default();
    Some(Guest {
        stack: container.stack.clone(),
        service: container.service.clone(),
        allowed: listed.split(' ').filter_map(|one| one.parse().ok()).collect(),
    })
}

async fn serve(mut client: TcpStream, from: IpAddr, stack: &str, docker: &Docker, egress: &Egress) -> io::Result<()> {
    // A failure only delays small packets.
    let _ = client.set_nodelay(true);
    let mut bytes = Vec::new();
    let request = match tokio::time::timeout(HEAD, head(&mut client, &mut bytes)).await {
        Ok(read) => match read? {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(Wrong(status, why)) => return Answer::new(status, why).tell(&mut client).await,
        },
        Err(_) => return Answer::new(408, "the request did not come within 30 s").tell(&mut client).await,
    };
    let mut containers = docker.containers();
    let known = containers.wait_for(|all| guest(all, stack, from).is_some());
    let guest = match tokio::time::timeout(KNOWN, known).await {
        Ok(Ok(all)) => guest(&all, stack, from),
        _ => None,
    };
    let Some(guest) = guest else {
        let why = format!("{from} is no container of the stack {stack}");
        return Answer::new(403, why).tell(&mut client).await;
    };
    let flow = tokio::select! {
        flow = leave(egress, &guest, &request) => flow,
        // Nobody is asked for one who has gone away.
        () = gone(&client) => return Ok(()),
    };
    let mut flow = match flow {
        Ok(flow) => flow,
        Err(answer) => return answer.tell(&mut client).await,
    };
    match &request.head {
        Some(head) => flow.write_all(head).await?,
        None => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?,
    }
    flow.write_all(&bytes[request.length..]).await?;
    relay::relay(client, flow, IDLE).await
}

/// Reads a request's head, and what came with it; none where the client went away.
async fn head(client: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<Result<Option<Request>, Wrong>> {
    let mut piece = [0; 4096];
    loop {
        let room = piece.len().min(LONGEST.saturating_sub(bytes.len()).max(1));
        let length = client.read(&mut piece[..room]).await?;
        if length == 0 {
            return Ok(Ok(None));
        }
        bytes.extend_from_slice(&piece[..length]);
        match head::read(bytes) {
            Ok(None) => {}
            read => return Ok(read),
        }
    }
}

/// Returns when a client that waits has gone away.
async fn gone(client: &TcpStream) {
    match client.peek(&mut [0]).await {
        Ok(0) | Err(_) => {}
        // It has said more than its head already; then its end is not seen before that is read.
        Ok(_) => std::future::pending().await,
    }
}

/// The connection that a container asks for, or what it is told instead.
async fn leave(egress: &Egress, guest: &Guest, request: &Request) -> Result<Flow, Answer> {
    let Guest { stack, service, allowed } = guest;
    let initiator = Initiator::Stack { stack: stack.clone(), service: service.clone() };
    let what = if request.head.is_some() { "a request by http" } else { "a connection of its own" };
    let wish = Wish::new(Class::Stack, initiator, &request.host, request.port, what);
    let wish = wish.map_err(|why| Answer::new(400, why))?;
    if !allowed.iter().any(|one| one.covers(&wish.host, wish.port)) {
        let reason = Reason::NotOfStack { stack: stack.clone(), host: wish.host.clone(), port: wish.port };
        return Err(refused(&egress.turn_away(&wish, reason)));
    }
    let permit = egress.admit(wish).await.map_err(|refusal| refused(&refusal))?;
    egress.dial(permit).await.map_err(|error| match error {
        egress::Error::Refused(refusal) => refused(&refusal),
        egress::Error::NotOutside { .. } | egress::Error::Cut { .. } => Answer::new(403, error.to_string()),
        error => Answer::new(502, error.to_string()),
    })
}

fn refused(refusal: &Refusal) -> Answer {
    match refusal.reason {
        Reason::Quiet(left) => Answer { retry: Some(left.as_secs().max(1)), ..Answer::new(503, refusal.to_string()) },
        _ => Answer::new(403, refusal.to_string()),
    }
}

/// What a container is told that gets no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: u16,
    why: String,
    /// Seconds after which asking again may help.
    retry: Option<u64>,
}

impl Answer {
    fn new(status: u16, why: impl Into<String>) -> Self {
        Self { status, why: why.into(), retry: None }
    }

    async fn tell(&self, client: &mut TcpStream) -> io::Result<()> {
        client.write_all(self.text().as_bytes()).await?;
        client.shutdown().await?;
        // What the client still says is read for a moment: closing over unread bytes would take the answer back.
        let mut rest = [0; 4096];
        let read = async {
            while client.read(&mut rest).await? > 0 {}
            Ok(())
        };
        tokio::time::timeout(Duration::from_secs(2), read).await.unwrap_or(Ok(()))
    }

    fn text(&self) -> String {
        let Self { status, why, retry } = self;
        let phrase = match status {
            400 => "Bad Request",
            403 => "Forbidden",
            408 => "Request Timeout",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Bad Gateway",
        };
        let retry = retry.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
        let body = format!("Sovereign: {why}\n");
        format!(
            "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n{retry}Connection: close\r\n\r\n{body}",
            body.len()
        )
    }
}

#[cfg(test)]
mod tests;

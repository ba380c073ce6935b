//! Effects, carried out one after the other.

use super::error::Error;
use super::listeners::Board;
use super::plan::{Effect, Existing, Goal, reached};
use super::spec::{ServiceSpec, Spec, docker_name};
use super::{Stacks, proxy, pull, seat, text};
use crate::docker::{Container, Docker, Restart};
use jiff::Timestamp;
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What of a stack exists, asked of the engine itself: the watched list may be an event behind what was just done.
pub(super) async fn survey(docker: &Docker, stack: &str) -> Result<Existing, Error> {
    Ok(Existing {
        networks: docker.networks(stack).await?,
        volumes: docker.volumes(stack).await?,
        containers: docker.list_stack(stack).await?,
    })
}

/// Carries effects out. `progress` is told what is being done.
///
/// Waiting and pulling are given up when `cancel` says so; what changes something is carried out whole, so that
/// whoever plans next finds no half of it under way.
pub(super) async fn apply(
    stacks: &Stacks,
    stack: &str,
    spec: Option<&Spec>,
    existing: &Existing,
    effects: Vec<Effect>,
    cancel: &CancellationToken,
    progress: impl Fn(String),
) -> Result<(), Error> {
    let docker = &stacks.0.docker;
    let service = |name: &str| {
        let found = spec.and_then(|spec| spec.service(name));
        found.ok_or_else(|| Error::Service(format!("the service {name} is not in the file")))
    };
    let leaving: HashSet<&str> = effects.iter().filter_map(Effect::removes).collect();
    let staying = existing.containers.iter().filter(|container| !leaving.contains(&*container.id));
    let mut awaited: HashMap<String, Awaited> =
        staying.map(|container| (container.service.clone(), Awaited::as_is(container))).collect();
    for effect in &effects {
        if cancel.is_cancelled() {
            return Err(Error::Superseded);
        }
        match effect {
            Effect::Pull(image) => pull::ensure(stacks, stack, spec, image, cancel, &progress).await?,
            Effect::CreateNetwork(name) => {
                let network = spec.and_then(|spec| spec.networks.get(name)).cloned().unwrap_or_default();
                docker.create_network(name, stack, &network).await?;
            }
            Effect::CreateVolume(name) => {
                let volume = spec.and_then(|spec| spec.volumes.get(name)).cloned().unwrap_or_default();
                docker.create_volume(name, stack, &volume).await?;
            }
            Effect::RemoveContainer { id, service, grace } => {
                progress(format!("stopping {service}"));
                docker.stop_container(id, *grace).await?;
                docker.remove_container(id).await?;
            }
            Effect::Run(name) => {
                let service = service(name)?;
                let id = match &service.container.gpu {
                    Some(gpu) => {
                        progress(format!("making room on a card for {name}"));
                        seat::run(stacks, stack, service, gpu, cancel).await?
                    }
                    None => {
                        progress(format!("starting {name}"));
                        run(stacks, stack, service).await?
                    }
                };
                awaited.insert(name.clone(), Awaited { id, last_start: None, is_started: true });
            }
            Effect::Start { id, service: name } => {
                progress(format!("starting {name}"));
                let service = service(name)?;
                let container = existing.containers.iter().find(|container| container.id == *id);
                match (&service.container.gpu, container) {
                    (Some(gpu), Some(container)) => seat::start(stacks, container, service, gpu, cancel).await?,
                    _ => docker.start_container(id).await?,
                }
                if let Some(awaited) = awaited.get_mut(name) {
                    awaited.is_started = true;
                }
            }
            Effect::Await(name, goal) => {
                progress(format!("waiting for {name}"));
                let restart = service(name)?.container.restart;
                let Some(container) = awaited.get(name) else {
                    return Err(Error::Service(format!("{name} has no container")));
                };
                tokio::select! {
                    reached = wait(docker, name, container, *goal, restart) => reached?,
                    () = cancel.cancelled() => return Err(Error::Superseded),
                }
            }
            Effect::RemoveNetwork(name) => docker.remove_network(name).await?,
            Effect::RemoveVolume(name) => docker.remove_volume(name).await?,
        }
    }
    Ok(())
}

/// A service's container, and from when on what is told of it is not old: the watched list may be behind.
#[derive(Debug)]
struct Awaited {
    id: String,
    /// Its start before this operation.
    last_start: Option<Timestamp>,
    /// Whether this operation has started it again.
    is_started: bool,
}

impl Awaited {
    fn as_is(container: &Container) -> Self {
        Self { id: container.id.clone(), last_start: container.started_at, is_started: false }
    }

    fn is_old(&self, told: &Container) -> bool {
        if self.is_started { told.started_at <= self.last_start } else { told.started_at < self.last_start }
    }
}

/// Makes a service's container, starts it and returns its identifier. One that does not start is not left behind.
async fn run(stacks: &Stacks, stack: &str, service: &ServiceSpec) -> Result<String, Error> {
    let id = create(stacks, stack, service, &[]).await?;
    start(stacks, stack, service, &id).await?;
    Ok(id)
}

/// Makes a service's container, which will see these cards.
pub(super) async fn create(
    stacks: &Stacks,
    stack: &str,
    service: &ServiceSpec,
    cards: &[String],
) -> Result<String, Error> {
    let ServiceSpec { name, config, container, .. } = service;
    let container = text::written(&stacks.0.texts, stack, container)?;
    Ok(stacks.0.docker.create_container(&docker_name(stack, name), stack, name, config, &container, cards).await?)
}

/// Starts a container that was just made. One that does not start is not left behind.
pub(super) async fn start(stacks: &Stacks, stack: &str, service: &ServiceSpec, id: &str) -> Result<(), Error> {
    let docker = &stacks.0.docker;
    let started = match exit(stacks, service, id).await {
        Ok(()) => docker.start_container(id).await.map_err(Error::from),
        Err(error) => Err(error),
    };
    let Err(error) = started else { return Ok(()) };
    if let Err(error) = docker.remove_container(id).await {
        tracing::warn!(stack, service = service.name, %error, "a container that did not start is left behind");
    }
    Err(Error::Service(format!("{}: {error}", service.name)))
}

/// How long a proxy may take to listen.
const PROXY: Duration = Duration::from_secs(10);

/// Waits until a container's way out is there, where it has one: its first word may be for it.
async fn exit(stacks: &Stacks, service: &ServiceSpec, id: &str) -> Result<(), Error> {
    if service.container.exit.is_none() {
        return Ok(());
    }
    let (mut containers, mut proxies) = (stacks.0.docker.containers(), stacks.0.proxies.clone());
    let listens = async {
        let told = containers.wait_for(|all| all.iter().any(|one| one.id == id)).await.ok()?.clone();
        let container = told.iter().find(|one| one.id == id)?;
        // On no network, it has no need of one.
        let Some(address) = proxy::address(container) else { return Some(Ok(())) };
        let settled = |board: &Board| board.open.contains(&address) || board.problems.contains_key(&container.stack);
        let board = proxies.wait_for(settled).await.ok()?;
        let problem = board.problems.get(&container.stack).filter(|_| !board.open.contains(&address));
        Some(problem.map_or(Ok(()), |problem| Err(Error::Service(problem.clone()))))
    };
    match tokio::time::timeout(PROXY, listens).await {
        Ok(listens) => listens.unwrap_or(Err(Error::Superseded)),
        Err(_) => Err(Error::Service("its way out was not there within 10 s".into())),
    }
}

/// Waits until a service's container has reached a goal, by what the engine's events tell.
async fn wait(docker: &Docker, service: &str, awaited: &Awaited, goal: Goal, restart: Restart) -> Result<(), Error> {
    let (mut containers, mut state) = (docker.containers(), docker.state());
    let mut seen = false;
    loop {
        if let Some(reason) = state.borrow_and_update().absent() {
            return Err(crate::docker::Error::Absent { reason: reason.to_owned() }.into());
        }
        let told = containers.borrow_and_update().iter().find(|container| container.id == awaited.id).cloned();
        match told {
            Some(container) => {
                seen = true;
                if !awaited.is_old(&container)
                    && let Some(reached) = reached(&container, goal, restart)
                {
                    return reached.map_err(Error::Service);
                }
            }
            None if seen => return Err(Error::Service(format!("{service} was removed by somebody else"))),
            // Its making has not been told yet.
            None => {}
        }
        let ended = tokio::select! {
            changed = containers.changed() => changed.is_err(),
            changed = state.changed() => changed.is_err(),
        };
        if ended {
            return Err(Error::Superseded);
        }
    }
}

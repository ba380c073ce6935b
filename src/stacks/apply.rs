//! Effects, carried out one after the other.

use super::error::Error;
use super::plan::{Effect, Existing, Goal, reached};
use super::spec::{ServiceSpec, Spec, docker_name};
use crate::docker::{Container, Docker, Restart};
use jiff::Timestamp;
use std::collections::HashMap;
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
    docker: &Docker,
    stack: &str,
    spec: Option<&Spec>,
    existing: &Existing,
    effects: Vec<Effect>,
    cancel: &CancellationToken,
    progress: impl Fn(String),
) -> Result<(), Error> {
    let service = |name: &str| {
        let found = spec.and_then(|spec| spec.service(name));
        found.ok_or_else(|| Error::Service(format!("the service {name} is not in the file")))
    };
    // The last start of each container that is started again: until it has another, what is told of it is old.
    let mut before: HashMap<String, Option<Timestamp>> = HashMap::new();
    for effect in effects {
        if cancel.is_cancelled() {
            return Err(Error::Superseded);
        }
        match effect {
            Effect::Pull(image) => {
                let pull = docker.ensure_image(&image, &progress);
                tokio::select! {
                    pulled = pull => pulled?,
                    () = cancel.cancelled() => return Err(Error::Superseded),
                }
            }
            Effect::CreateNetwork(name) => docker.create_network(&name, stack).await?,
            Effect::CreateVolume(name) => docker.create_volume(&name, stack).await?,
            Effect::RemoveContainer { id, service, grace } => {
                progress(format!("stopping {service}"));
                docker.stop_container(&id, grace).await?;
                docker.remove_container(&id).await?;
            }
            Effect::Run(name) => {
                progress(format!("starting {name}"));
                run(docker, stack, service(&name)?).await?;
            }
            Effect::Start { id, service } => {
                progress(format!("starting {service}"));
                let last = existing.containers.iter().find(|container| container.id == id);
                before.insert(service, last.and_then(|container| container.started_at));
                docker.start_container(&id).await?;
            }
            Effect::Await(name, goal) => {
                progress(format!("waiting for {name}"));
                let restart = service(&name)?.container.restart;
                let waited = wait(docker, stack, &name, goal, restart, before.get(&name).copied().flatten());
                tokio::select! {
                    reached = waited => reached?,
                    () = cancel.cancelled() => return Err(Error::Superseded),
                }
            }
            Effect::RemoveNetwork(name) => docker.remove_network(&name).await?,
            Effect::RemoveVolume(name) => docker.remove_volume(&name).await?,
        }
    }
    Ok(())
}

/// Makes a service's container and starts it. One that does not start is not left behind.
async fn run(docker: &Docker, stack: &str, service: &ServiceSpec) -> Result<(), Error> {
    let name = docker_name(stack, &service.name);
    let id = docker.create_container(&name, stack, &service.name, &service.config, &service.container).await?;
    if let Err(error) = docker.start_container(&id).await {
        if let Err(error) = docker.remove_container(&id).await {
            tracing::warn!(stack, service = service.name, %error, "a container that did not start is left behind");
        }
        return Err(Error::Service(format!("{}: {error}", service.name)));
    }
    Ok(())
}

/// Waits until a service's container has reached a goal, by what the engine's events tell.
async fn wait(
    docker: &Docker,
    stack: &str,
    service: &str,
    goal: Goal,
    restart: Restart,
    before: Option<Timestamp>,
) -> Result<(), Error> {
    let (mut containers, mut state) = (docker.containers(), docker.state());
    let mut seen = false;
    loop {
        if let Some(reason) = state.borrow_and_update().absent() {
            return Err(crate::docker::Error::Absent { reason: reason.to_owned() }.into());
        }
        let mine = |container: &&Container| container.stack == stack && container.service == service;
        let container = containers.borrow_and_update().iter().find(mine).cloned();
        match container {
            Some(container) => {
                seen = true;
                let is_old = before.is_some() && container.started_at == before;
                if !is_old && let Some(reached) = reached(&container, goal, restart) {
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

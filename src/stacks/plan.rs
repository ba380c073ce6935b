//! What has to be done, decided purely: a stack as it is wanted and what of it exists give effects in order.

use super::compose::Condition;
use super::spec::Spec;
use crate::docker::{Container, Health, Phase, Restart};
use std::collections::BTreeSet;
use std::time::Duration;

/// What of a stack exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Existing {
    /// Its networks, by name.
    pub networks: BTreeSet<String>,
    /// Its volumes, by name.
    pub volumes: BTreeSet<String>,
    /// Its containers.
    pub containers: Vec<Container>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make sure that an image is here.
    Pull(String),
    /// Make a network.
    CreateNetwork(String),
    /// Make a volume.
    CreateVolume(String),
    /// End a container and remove it.
    RemoveContainer {
        /// The container.
        id: String,
        /// Its service.
        service: String,
        /// How long it may take to end.
        grace: Duration,
    },
    /// Make a service's container and start it.
    Run(String),
    /// Start a container that exists.
    Start {
        /// The container.
        id: String,
        /// Its service.
        service: String,
    },
    /// Wait for a service.
    Await(String, Goal),
    /// Remove a network.
    RemoveNetwork(String),
    /// Remove a volume and its data.
    RemoveVolume(String),
}

impl Effect {
    /// The container that it removes.
    pub fn removes(&self) -> Option<&str> {
        match self {
            Self::RemoveContainer { id, .. } => Some(id),
            _ => None,
        }
    }
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The health check passes.
    Healthy,
    /// It has ended without an error.
    Completed,
    /// It runs, and its health check passes where it has one.
    Ready,
}

/// How long containers may take to end whose service no file describes any more.
const GRACE: Duration = Duration::from_secs(10);

/// What brings a stack up. Nothing that is as it is wanted is touched.
pub fn up(spec: &Spec, existing: &Existing) -> Vec<Effect> {
    let mut effects = Vec::new();
    let mut starts = Vec::new();
    let mut pulls = BTreeSet::new();
    let mut kept_ids = BTreeSet::new();
    for service in &spec.services {
        let networks = &service.container.networks;
        let kept = existing.containers.iter().find(|container| {
            container.service == service.name
                && container.config == service.config
                && !matches!(container.phase, Phase::Removing | Phase::Dead)
                // A container cannot be started on a network that was removed under it.
                && networks.iter().all(|on| existing.networks.contains(&on.network))
        });
        let start = match kept {
            None => {
                pulls.insert(service.container.image.clone());
                Some(Effect::Run(service.name.clone()))
            }
            Some(container) => {
                kept_ids.insert(container.id.clone());
                let done = service.is_job && container.phase == Phase::Exited(0);
                let runs = matches!(container.phase, Phase::Running | Phase::Paused | Phase::Restarting);
                let start = Effect::Start { id: container.id.clone(), service: service.name.clone() };
                (!done && !runs).then_some(start)
            }
        };
        if let Some(start) = start {
            starts.extend(service.depends_on.iter().filter_map(|(other, condition)| match condition {
                // Its start comes before, and that is all.
                Condition::Started => None,
                Condition::Healthy => Some(Effect::Await(other.clone(), Goal::Healthy)),
                Condition::Completed => Some(Effect::Await(other.clone(), Goal::Completed)),
            }));
            starts.push(start);
        }
    }
    // Images first: while they are on their way, what runs goes on.
    effects.extend(pulls.into_iter().map(Effect::Pull));
    effects.extend(removals(existing, Some(spec), &kept_ids));
    let missing = |name: &&String, there: &BTreeSet<String>| !there.contains(*name);
    let networks = spec.networks.keys().filter(|name| missing(name, &existing.networks));
    effects.extend(networks.cloned().map(Effect::CreateNetwork));
    let volumes = spec.volumes.keys().filter(|name| missing(name, &existing.volumes));
    effects.extend(volumes.cloned().map(Effect::CreateVolume));
    effects.extend(starts);
    let servers = spec.services.iter().filter(|service| !service.is_job);
    effects.extend(servers.map(|service| Effect::Await(service.name.clone(), Goal::Ready)));
    effects
}

/// What takes a stack down, and with `volumes` its data too. Without a spec its order is not known, and does not matter.
pub fn down(spec: Option<&Spec>, existing: &Existing, volumes: bool) -> Vec<Effect> {
    let mut effects = removals(existing, spec, &BTreeSet::new());
    effects.extend(existing.networks.iter().cloned().map(Effect::RemoveNetwork));
    if volumes {
        effects.extend(existing.volumes.iter().cloned().map(Effect::RemoveVolume));
    }
    effects
}

/// Removes containers, those first that others do not depend on.
fn removals(existing: &Existing, spec: Option<&Spec>, kept: &BTreeSet<String>) -> Vec<Effect> {
    let place = |container: &Container| {
        spec.and_then(|spec| spec.services.iter().position(|service| service.name == container.service))
    };
    let mut leaving: Vec<&Container> =
        existing.containers.iter().filter(|container| !kept.contains(&container.id)).collect();
    // What no file describes goes first.
    leaving.sort_by_key(|container| place(container).map_or((0, 0), |place| (1, usize::MAX - place)));
    let grace = |container: &Container| {
        spec.and_then(|spec| spec.service(&container.service)).map_or(GRACE, |service| service.container.stop_grace)
    };
    let remove = |container: &Container| Effect::RemoveContainer {
        id: container.id.clone(),
        service: container.service.clone(),
        grace: grace(container),
    };
    leaving.into_iter().map(remove).collect()
}

/// Restarts after which a service that keeps ending is given up on.
const TRIES: u32 = 3;

/// Whether a container has reached a goal: not yet, yes, or why it will not.
pub fn reached(container: &Container, goal: Goal, restart: Restart) -> Option<Result<(), String>> {
    let service = &container.service;
    match (container.phase, goal) {
        (Phase::Exited(0), Goal::Completed) => Some(Ok(())),
        (Phase::Exited(0), Goal::Ready) if restart == Restart::No => Some(Ok(())),
        (Phase::Exited(code), _) => Some(Err(format!("{service} has ended with exit code {code}"))),
        (Phase::Dead | Phase::Removing, _) => Some(Err(format!("{service} is being removed"))),
        (Phase::Restarting, _) if container.restarts >= TRIES => {
            Some(Err(format!("{service} keeps ending; Docker has started it again {} times", container.restarts)))
        }
        (Phase::Running | Phase::Paused, Goal::Healthy | Goal::Ready) => match (container.health, goal) {
            (Some(Health::Healthy), _) | (None, Goal::Ready) => Some(Ok(())),
            (Some(Health::Unhealthy), _) => Some(Err(format!("{service} is unhealthy: its check fails"))),
            (Some(Health::Starting), _) => None,
            (None, _) => Some(Err(format!("{service} has no health check, so it never becomes healthy"))),
        },
        (Phase::Running | Phase::Paused, Goal::Completed) | (Phase::Created | Phase::Restarting, _) => None,
    }
}

/// What is wrong with a container that should run or be done.
pub fn ailment(container: &Container) -> Option<String> {
    reached(container, Goal::Ready, Restart::No)?.err()
}

#[cfg(test)]
mod tests;

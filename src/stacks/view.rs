//! Stacks as people see them.

use crate::docker::{Container, Publish, Status};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackView {
    /// Its name.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// What it is good for; may be empty.
    pub description: String,
    /// Where its own page is, if it has one.
    pub web: Option<String>,
    /// What its services may do that containers usually may not.
    pub warnings: Vec<String>,
    /// How it is.
    pub state: StackState,
    /// What is being done about it just now.
    pub progress: Option<String>,
    /// What last went wrong, or is wrong.
    pub problem: Option<String>,
    /// Whether the owner wants it to run.
    pub up: bool,
    /// Whether it is down and has left something that can be removed.
    pub removable: bool,
    /// The services that have a container.
    pub services: Vec<ServiceView>,
}

/// A service that has a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// The image of its container.
    pub image: String,
    /// How its container is.
    pub status: Status,
    /// How often Docker started it again after it had ended by itself.
    pub restarts: u32,
    /// The ports that are forwarded to it.
    pub ports: Vec<Publish>,
}

/// How a stack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StackState {
    /// Docker is not there to say.
    Unknown,
    /// Nothing of it runs.
    Stopped,
    /// It is being brought up, or some of its health checks have said nothing yet.
    Starting,
    /// It is being taken down.
    Stopping,
    /// All of it runs and is well.
    Running,
    /// Some of it is not well.
    Failing,
}

impl fmt::Display for StackState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "Unknown",
            Self::Stopped => "Stopped",
            Self::Starting => "Starting",
            Self::Stopping => "Stopping",
            Self::Running => "Running",
            Self::Failing => "Failing",
        })
    }
}

impl From<&Container> for ServiceView {
    fn from(container: &Container) -> Self {
        Self {
            name: container.service.clone(),
            image: container.image.clone(),
            status: container.status(),
            restarts: container.restarts,
            ports: container.ports.clone(),
        }
    }
}

/// How a stack is whose containers are these.
pub(super) fn state_of(containers: &[&Container]) -> StackState {
    let is = |wanted: fn(Status) -> bool| containers.iter().any(|container| wanted(container.status()));
    if is(|status| match status {
        Status::Unhealthy | Status::Restarting | Status::Dead => true,
        Status::Exited(code) => code != 0,
        _ => false,
    }) {
        StackState::Failing
    } else if is(|status| matches!(status, Status::Starting | Status::Created)) {
        StackState::Starting
    } else if is(|status| matches!(status, Status::Running | Status::Healthy | Status::Paused)) {
        StackState::Running
    } else {
        StackState::Stopped
    }
}

use super::{CONFIG, PORTS, Publish, SERVICE, STACK};
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum as Engine, HealthStatusEnum};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// One of our containers, as the engine last told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its identifier, 64 hex digits.
    pub id: String,
    /// The stack that it belongs to.
    pub stack: String,
    /// The service that it runs.
    pub service: String,
    /// The image, as it was named.
    pub image: String,
    /// What it does.
    pub phase: Phase,
    /// What its health check says; none where it has no check.
    pub health: Option<Health>,
    /// How often the engine started it again after it had ended by itself.
    pub restarts: u32,
    /// When it last started.
    pub started_at: Option<Timestamp>,
    /// The digest of what it was made from.
    pub config: String,
    /// The ports that the daemon forwards to it.
    pub ports: Vec<Publish>,
    /// Its addresses on the networks of its stack, while it runs.
    pub addresses: Vec<IpAddr>,
    /// All of its labels.
    pub labels: BTreeMap<String, String>,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It was made and never started.
    Created,
    /// It runs.
    Running,
    /// It is frozen.
    Paused,
    /// It ended and will be started again by the engine.
    Restarting,
    /// It ended, with this exit code.
    Exited(i64),
    /// It is going away.
    Removing,
    /// The engine could not remove it wholly.
    Dead,
}

/// What a health check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Nothing yet.
    Starting,
    /// All is well.
    Healthy,
    /// It failed as often as its retries allow.
    Unhealthy,
}

/// Phase and health in one, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It was made and never started.
    Created,
    /// It runs; its health check has said nothing yet.
    Starting,
    /// It runs, and has no health check.
    Running,
    /// It runs, and its health check passes.
    Healthy,
    /// It runs, and its health check fails.
    Unhealthy,
    /// It is frozen.
    Paused,
    /// It ended and will be started again by the engine.
    Restarting,
    /// It ended, with this exit code.
    Exited(i64),
    /// It is going away.
    Removing,
    /// The engine could not remove it wholly.
    Dead,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "Created",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
            Self::Paused => "Paused",
            Self::Restarting => "Restarting",
            Self::Exited(code) => return write!(f, "Exited ({code})"),
            Self::Removing => "Removing",
            Self::Dead => "Dead",
        })
    }
}

impl Container {
    /// Phase and health in one.
    pub fn status(&self) -> Status {
        match (self.phase, self.health) {
            (Phase::Created, _) => Status::Created,
            (Phase::Running, None) => Status::Running,
            (Phase::Running, Some(Health::Starting)) => Status::Starting,
            (Phase::Running, Some(Health::Healthy)) => Status::Healthy,
            (Phase::Running, Some(Health::Unhealthy)) => Status::Unhealthy,
            (Phase::Paused, _) => Status::Paused,
            (Phase::Restarting, _) => Status::Restarting,
            (Phase::Exited(code), _) => Status::Exited(code),
            (Phase::Removing, _) => Status::Removing,
            (Phase::Dead, _) => Status::Dead,
        }
    }

    /// Reads what the engine says of a container; none when it is not ours.
    pub(super) fn read(inspected: ContainerInspectResponse) -> Option<Self> {
        let config = inspected.config.unwrap_or_default();
        let labels: BTreeMap<String, String> = config.labels.unwrap_or_default().into_iter().collect();
        let state = inspected.state.unwrap_or_default();
        let exit_code = state.exit_code.unwrap_or_default();
        let phase = match state.status {
            Some(Engine::RUNNING | Engine::STOPPING) => Phase::Running,
            Some(Engine::PAUSED) => Phase::Paused,
            Some(Engine::RESTARTING) => Phase::Restarting,
            Some(Engine::EXITED) => Phase::Exited(exit_code),
            Some(Engine::REMOVING) => Phase::Removing,
            Some(Engine::DEAD) => Phase::Dead,
            Some(Engine::CREATED | Engine::EMPTY) | None => Phase::Created,
        };
        let health = state.health.and_then(|health| match health.status? {
            HealthStatusEnum::STARTING => Some(Health::Starting),
            HealthStatusEnum::HEALTHY => Some(Health::Healthy),
            HealthStatusEnum::UNHEALTHY => Some(Health::Unhealthy),
            HealthStatusEnum::NONE | HealthStatusEnum::EMPTY => None,
        });
        // What never started has started in the year 1.
        let started_at =
            state.started_at.and_then(|at| at.parse().ok()).filter(|at: &Timestamp| *at > Timestamp::UNIX_EPOCH);
        let networks = inspected.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let networks: BTreeMap<_, _> = networks.into_iter().collect();
        let told = networks.values().flat_map(|endpoint| [&endpoint.ip_address, &endpoint.global_ipv6_address]);
        let addresses = told.flatten().filter_map(|address| address.parse().ok()).collect();
        let label = |name| labels.get(name).cloned().unwrap_or_default();
        Some(Self {
            id: inspected.id?,
            stack: labels.get(STACK)?.clone(),
            service: label(SERVICE),
            image: config.image.unwrap_or_default(),
            phase,
            health,
            restarts: inspected.restart_count.and_then(|count| count.try_into().ok()).unwrap_or_default(),
            started_at,
            config: label(CONFIG),
            ports: Publish::read_label(&label(PORTS)),
            addresses,
            labels,
        })
    }
}

use super::Seconds;
use serde::Deserialize;
use std::path::PathBuf;

/// The Docker engine and the stacks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Docker {
    /// The engine's address (`unix:///var/run/docker.sock`); `DOCKER_HOST` or Docker's default unless said.
    pub host: Option<String>,
    /// The folder of the owner's own compose files; `<state>/stacks` unless said.
    pub stacks: Option<PathBuf>,
    /// How often containers with a card are asked whether they still see it; 0 for never.
    pub canary: Seconds,
}

impl Default for Docker {
    fn default() -> Self {
        Self { host: None, stacks: None, canary: Seconds(60) }
    }
}

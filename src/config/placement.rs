use super::{Bytes, Seconds};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Who may hold memory, and how long.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Host memory that workers on the CPU may hold together; half of the machine's unless said.
    pub host_memory: Option<Bytes>,
    /// How long an idle model stays loaded; 0 unloads it at once.
    pub keep_alive: Seconds,
    /// How long a request waits for its model before it is refused.
    pub max_wait: Seconds,
    /// How long busy models are left in peace, at most, when another wants their room.
    pub patience: Seconds,
    /// Requests that may wait before further ones are refused with 429.
    pub max_queue: usize,
    /// How long a model rests, its weights in host memory, before it is stopped.
    pub park_for: Seconds,
    /// Host memory that models may hold while they rest.
    pub parked_memory: Bytes,
    /// What a tenant may hold of a card beyond its grant before it is made to give it back.
    pub tolerance: Bytes,
    /// What is expected of a container with a card whose file does not say what it takes, until it was seen.
    pub undeclared: Bytes,
    /// For how long it may hold more.
    pub grace: Seconds,
    /// How long a tenant has to do what it was told.
    pub confirm: Seconds,
    /// What single models are to the owner, by name.
    pub models: BTreeMap<String, ModelPolicy>,
}

/// What one model is to the owner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelPolicy {
    /// How dear its staying is against that of others.
    pub priority: Priority,
    /// It is loaded at the daemon's start, and stays as long as there is memory at all.
    pub pinned: bool,
    /// It is loaded at the daemon's start.
    pub preload: bool,
    /// How long it stays when it is idle, if not as long as others.
    pub keep_alive: Option<Seconds>,
}

/// How dear a model's staying is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// It goes first.
    Low,
    /// As others.
    #[default]
    Normal,
    /// It goes last.
    High,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            host_memory: None,
            keep_alive: Seconds(300),
            max_wait: Seconds(120),
            patience: Seconds(30),
            max_queue: 64,
            park_for: Seconds(3600),
            parked_memory: Bytes(4 << 30),
            tolerance: Bytes(64 << 20),
            undeclared: Bytes(1 << 30),
            grace: Seconds(5),
            confirm: Seconds(10),
            models: BTreeMap::new(),
        }
    }
}

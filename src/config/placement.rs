use super::{Bytes, Seconds};
use serde::Deserialize;

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
    /// Requests that may wait before further ones are refused with 429.
    pub max_queue: usize,
}

impl Default for Placement {
    fn default() -> Self {
        Self { host_memory: None, keep_alive: Seconds(300), max_wait: Seconds(120), max_queue: 64 }
    }
}

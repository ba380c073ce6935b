use crate::config::Config;
use std::time::Duration;

/// How long is too long, how many are too many, how much is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long an idle model stays loaded.
    pub keep_alive: Duration,
    /// How long a request waits for its model.
    pub max_wait: Duration,
    /// How long busy models are left in peace, at most, when another wants their room.
    pub patience: Duration,
    /// Requests that may wait.
    pub max_queue: usize,
    /// How long a model rests that nobody asks for.
    pub park_for: Duration,
    /// Bytes of host memory that models may hold while they rest.
    pub parked_memory: u64,
    /// Bytes of a card that a tenant may hold beyond its grant.
    pub tolerance: u64,
    /// For how long it may hold more than that.
    pub grace: Duration,
    /// How long a tenant has to do what it was told, before it is told more firmly.
    pub confirm: Duration,
    /// For how long memory may show as somebody's that is only on its way back.
    pub settles: Duration,
    /// For how long a card may be missing before it is lost: one reading may fail.
    pub lost_after: Duration,
}

impl Default for Limits {
    /// Those of a configuration that says nothing.
    fn default() -> Self {
        Self::new(&Config::default())
    }
}

impl Limits {
    /// The limits that `config` sets.
    pub fn new(config: &Config) -> Self {
        let placement = &config.placement;
        Self {
            keep_alive: placement.keep_alive.duration(),
            max_wait: placement.max_wait.duration(),
            patience: placement.patience.duration(),
            max_queue: placement.max_queue,
            park_for: placement.park_for.duration(),
            parked_memory: placement.parked_memory.0,
            tolerance: placement.tolerance.0,
            grace: placement.grace.duration(),
            confirm: placement.confirm.duration(),
            settles: Duration::from_secs(5),
            lost_after: Duration::from_secs(3),
        }
    }
}

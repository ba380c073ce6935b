use crate::runtime::Claim;
use std::time::Duration;

/// Why a model is not served. Each says what was asked, what there is and what would help.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// It would not fit if nothing else were loaded.
    #[error(
        "{model} needs {need}, and all that models may hold here is {budget}; use a smaller quantisation or a shorter \
         engine.context, or raise placement.host_memory"
    )]
    TooLarge {
        /// The model.
        model: String,
        /// What it needs.
        need: Claim,
        /// What there is when nothing is loaded.
        budget: Claim,
    },
    /// It does not fit beside what is to stay.
    #[error(
        "{model} needs {need}, and {pinned} is to stay in memory, which leaves too little of the {budget} that there are; unpin it, or use a \
         smaller quantisation"
    )]
    Pinned {
        /// The model.
        model: String,
        /// What it needs.
        need: Claim,
        /// What stays.
        pinned: String,
        /// What there is when nothing is loaded.
        budget: Claim,
    },
    /// There is no such card.
    #[error(
        "{name} wants a card that is not seen here; seen {}. Name one by its UUID, and look into `sovereign doctor` where \
         there should be one",
        if cards.is_empty() { "is none".into() } else { format!("are {}", cards.join(", ")) }
    )]
    NoCard {
        /// Who wants it.
        name: String,
        /// The cards that are seen, by UUID.
        cards: Vec<String>,
    },
    /// Others hold what it needs, or its own slots, and did not give it back in time.
    #[error(
        "{model} could not be served within {} s: it needs {need}, {free} is free, and {busy} other requests are being \
         answered; try again, or raise placement.max_wait",
        waited.as_secs()
    )]
    Waited {
        /// The model.
        model: String,
        /// How long the request waited.
        waited: Duration,
        /// What the model needs.
        need: Claim,
        /// What nobody held at the end.
        free: Claim,
        /// Requests being answered at the end.
        busy: usize,
    },
    /// Too many wait already.
    #[error("{waiting} requests wait already, and placement.max_queue allows no more; try again in {} s", retry_after.as_secs())]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
        /// When asking again is worth it.
        retry_after: Duration,
    },
    /// It did not start.
    #[error("{model} could not be loaded: {reason}")]
    Failed {
        /// The model.
        model: String,
        /// What the runtime said.
        reason: String,
    },
    /// It ended several times in a row and is left alone for a while.
    #[error("{model} failed {failures} times in a row and is tried again in {} s; the last time: {reason}", retry_after.as_secs())]
    Crashing {
        /// The model.
        model: String,
        /// How often in a row.
        failures: u32,
        /// The last reason.
        reason: String,
        /// When it is tried again.
        retry_after: Duration,
    },
    /// Its owner unloaded it while the request waited.
    #[error("{model} was unloaded while the request waited")]
    Unloaded {
        /// The model.
        model: String,
    },
    /// The daemon stops.
    #[error("the daemon is stopping")]
    Closing,
}

impl Refusal {
    /// When asking again is worth it; none when asking again would be answered the same.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::QueueFull { retry_after, .. } | Self::Crashing { retry_after, .. } => Some(*retry_after),
            Self::Waited { .. } | Self::Unloaded { .. } | Self::Closing => Some(Duration::from_secs(1)),
            Self::NoCard { .. } | Self::TooLarge { .. } | Self::Pinned { .. } | Self::Failed { .. } => None,
        }
    }
}

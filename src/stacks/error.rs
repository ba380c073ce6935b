use super::compose;
use crate::docker;

/// Why a stack was not brought up, taken down or removed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no such stack.
    #[error("there is no stack {name:?}{}", nearest.as_ref().map(|name| format!("; did you mean {name}?")).unwrap_or_default())]
    NotFound {
        /// What was asked for.
        name: String,
        /// The name that may have been meant.
        nearest: Option<String>,
    },
    /// Its file is not understood.
    #[error("{0}")]
    File(#[from] compose::Error),
    /// The Docker engine.
    #[error("{0}")]
    Docker(#[from] docker::Error),
    /// A service did not come up.
    #[error("{0}")]
    Service(String),
    /// Something may not leave the house.
    #[error("{0}")]
    Egress(String),
    /// A newer wish for the same stack, or the end of the daemon.
    #[error("given up for something newer")]
    Superseded,
    /// What is wanted could not be kept.
    #[error("the database failed: {0}")]
    Db(String),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.to_string())
    }
}

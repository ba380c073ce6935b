use crate::models::NotFound;
use crate::placement::Refusal;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::time::Duration;

/// An error in OpenAI's shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    status: StatusCode,
    message: String,
    code: Option<&'static str>,
    param: Option<&'static str>,
    retry: Retry,
}

/// Whether asking again is worth it. OpenAI's SDKs ask again by themselves at 429 and 5xx unless they are told not to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retry {
    Unsaid,
    After(Duration),
    Never,
}

impl Error {
    fn new(status: StatusCode, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), code, param: None, retry: Retry::Unsaid }
    }

    /// 400: the request is wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, None, message)
    }

    /// 401: no key, or none that is known.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, Some("invalid_api_key"), message)
    }

    /// 403: known, but not allowed.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, None, message)
    }

    /// 404: no such address.
    pub fn no_route(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Some("unknown_url"), message)
    }

    /// 405: not with this method.
    pub fn method(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, Some("method_not_supported"), message)
    }

    /// 413: more than anybody means to send.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, None, message)
    }

    /// 501: not yet, and not by asking again.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self { retry: Retry::Never, ..Self::new(StatusCode::NOT_IMPLEMENTED, Some("not_implemented"), message) }
    }

    /// 500: our fault.
    pub fn internal(message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::INTERNAL_SERVER_ERROR, None, message);
        tracing::error!(message = error.message, "a request failed on our side");
        error
    }

    /// 503: whoever answered has ended; asking again loads the model again.
    pub fn ended(message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("runtime_ended"), message);
        Self { retry: Retry::After(Duration::from_secs(1)), ..error }
    }

    /// The status that answers with it.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body that answers with it; also what a stream that breaks ends with.
    pub fn body(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}

impl From<NotFound> for Error {
    fn from(error: NotFound) -> Self {
        let installed = "; GET /v1/models lists what there is";
        let error = Self::new(StatusCode::NOT_FOUND, Some("model_not_found"), format!("{error}{installed}"));
        Self { param: Some("model"), ..error }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let (status, code) = match &refusal {
            Refusal::QueueFull { .. } => (StatusCode::TOO_MANY_REQUESTS, "queue_full"),
            Refusal::TooLarge { .. } => (StatusCode::SERVICE_UNAVAILABLE, "model_too_large"),
            Refusal::Waited { .. } => (StatusCode::SERVICE_UNAVAILABLE, "model_busy"),
            Refusal::Failed { .. } => (StatusCode::SERVICE_UNAVAILABLE, "model_failed"),
            Refusal::Crashing { .. } => (StatusCode::SERVICE_UNAVAILABLE, "model_crashing"),
            Refusal::Unloaded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "model_unloaded"),
            Refusal::Closing => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        let retry = refusal.retry_after().map_or(Retry::Never, Retry::After);
        Self { retry, ..Self::new(status, Some(code), refusal.to_string()) }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        match self.retry {
            Retry::Unsaid => {}
            Retry::After(wait) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
            }
            Retry::Never => {
                headers.insert("x-should-retry", HeaderValue::from_static("false"));
            }
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

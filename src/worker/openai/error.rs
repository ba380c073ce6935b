use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Seconds until another try: by then a short answer is complete.
const RETRY_AFTER: u32 = 2;

/// An error in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The HTTP status; `type` follows from it.
    pub status: StatusCode,
    /// What happened and what to do next.
    pub message: String,
    /// The field of the request that is wrong.
    pub param: Option<String>,
    /// What clients branch on, such as `model_not_found`.
    pub code: Option<&'static str>,
    /// Seconds after which it is worth to try again.
    pub retry_after: Option<u32>,
}

impl Error {
    /// An error with a message alone.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// 400: the field `param` is wrong.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// 400: the request is not what it should be, as a whole.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 429: too much at once.
    pub fn busy(message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, message);
        Self { retry_after: Some(RETRY_AFTER), ..error }.code("queue_full")
    }

    /// 500: our fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The same with a code.
    pub fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// OpenAI's name for this kind of error.
    pub fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            status if status >= 500 => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body; in the middle of a stream it is the data of an event.
    pub fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind(), "param": self.param, "code": self.code}})
    }
}

/// 400: the model that is asked for `what` is not one for that, but for what `path` does.
pub fn not_meant(what: &str, path: &str) -> Error {
    Error::invalid("model", format!("this model is not one for {what}: it is there for {path}"))
        .code("unsupported_model")
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        } else if self.status.is_server_error() {
            // OpenAI's SDKs ask again by themselves after any of these; the answer would be the same.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_shape_that_sdks_read() {
        let error = Error::invalid("n", "n is too large").code("too_many");
        let body =
            r#"{"error":{"message":"n is too large","type":"invalid_request_error","param":"n","code":"too_many"}}"#;
        assert_eq!(error.body().to_string(), body);
        let response = Error::busy("full").into_response();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (429, &HeaderValue::from(RETRY_AFTER))
        );
        let response = Error::internal("broken").into_response();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["x-should-retry"]),
            (500, &HeaderValue::from_static("false"))
        );
    }
}

//! OpenAI's dialect: who asks, under which name, for which model; then bytes are passed to a runtime and back.
//!
//! Of a request only `model` is read, and of an answer only its usage: what either side knows and we do not passes
//! through.

mod ask;
mod caller;
mod completions;
mod error;
mod events;
mod hosts;
mod metrics;
mod models;
mod record;

pub use caller::{Caller, Trusted};
pub use hosts::{Hosts, check_hosts};

use crate::app::App;
use crate::worker::openai::Error;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

/// Bytes that a request may have: pictures travel inside of it.
const LARGEST: usize = 64 << 20;

/// Everything below `/v1`, and `/metrics`.
pub fn router() -> Router<App> {
    let routes = Router::new()
        .route("/chat/completions", post(completions::chat))
        .route("/completions", post(completions::text))
        .route("/embeddings", post(completions::embeddings))
        .route("/models", get(models::list))
        .route("/models/{*id}", get(models::get))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(LARGEST));
    Router::new().nest("/v1", routes).merge(metrics::router())
}

async fn no_route(method: Method, uri: Uri) -> Error {
    Error::new(StatusCode::NOT_FOUND, format!("there is no {method} /v1{}", uri.path())).code("unknown_url")
}

async fn no_method(method: Method, uri: Uri) -> Error {
    Error::new(StatusCode::METHOD_NOT_ALLOWED, format!("/v1{} does not know {method}", uri.path()))
        .code("method_not_supported")
}

/// Whether a path belongs to programs that expect errors in OpenAI's shape.
fn is_api(path: &str) -> bool {
    path == "/v1" || path.starts_with("/v1/")
}

/// Answers programs that look whether somebody is there as Ollama does, since that is the answer which they look for.
/// Browsers, which say that they want HTML, get the dashboard.
pub async fn greet(request: Request, next: Next) -> Response {
    let accepted = request.headers().get_all(header::ACCEPT).iter();
    let wants_html = accepted.filter_map(|value| value.to_str().ok()).any(|value| value.contains("text/html"));
    if request.uri().path() == "/" && request.method().is_safe() && !wants_html {
        return "Ollama is running".into_response();
    }
    next.run(request).await
}

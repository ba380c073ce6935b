//! The dashboard: pages rendered on the server by askama, live parts pushed by SSE, assets inside the binary.
//!
//! Nothing is fetched from elsewhere, and nothing runs inline: the Content-Security-Policy allows this origin's files.

mod assets;
mod containers;
mod error;
mod figures;
mod live;
mod markdown;
mod pages;
mod session;
mod words;

use crate::app::App;
use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware;
use axum::response::Redirect;
use axum::routing::get;
use tower_http::set_header::SetResponseHeaderLayer;

/// What a page may load, and who may frame it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Everything that the dashboard answers, a page for what does not exist included; the daemon puts it behind the checks
/// of `Host` and `Origin`.
pub fn router() -> Router<App> {
    let set = |name: HeaderName, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    Router::new()
        .merge(pages::router())
        .route("/assets/{version}/{name}", get(assets::serve))
        // What browsers ask for beside plain text, which names no icon.
        .route("/favicon.ico", get(|| async { Redirect::permanent(&assets::url("icon.svg")) }))
        .fallback(|| async { error::Error::NotFound })
        .layer(middleware::from_fn(error::tell))
        .layer(set(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
        .layer(set(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        // Not `no-referrer`, under which browsers send `Origin: null` with our own forms.
        .layer(set(header::REFERRER_POLICY, "same-origin"))
        // Pages hold keys and figures; what may be kept says so itself.
        .layer(set(header::CACHE_CONTROL, "no-store"))
}

//! The dashboard: pages rendered on the server by askama, live parts pushed by SSE, assets inside the binary.
//!
//! Nothing is fetched from elsewhere, and nothing runs inline: the Content-Security-Policy allows this origin's files.

pub mod assets;
pub mod live;
pub mod markdown;

use crate::app::App;
use axum::Router;
use axum::routing::get;

/// Everything that the dashboard answers; the daemon puts it behind the checks of `Host` and `Origin`.
pub fn router() -> Router<App> {
    Router::new().route("/assets/{version}/{name}", get(assets::serve))
}

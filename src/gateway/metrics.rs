//! `/metrics`: what cards and daemon do, in Prometheus' text format.

mod cards;
mod daemon;
mod exposition;

use super::Caller;
use crate::app::App;
use crate::worker::openai::Error;
use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use exposition::Exposition;

pub(super) fn router() -> Router<App> {
    Router::new().route("/metrics", get(metrics))
}

/// Who may ask for an answer may ask for this, and anybody where the configuration says so.
async fn metrics(State(app): State<App>, caller: Result<Caller, Error>) -> Result<Response, Error> {
    if !app.config.gateway.open_metrics {
        caller?;
    }
    let sample = app.gpu.latest();
    let placement = app.placement.status().borrow().clone();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut text = Exposition::default();
    cards::add(&mut text, &sample, &app.gpu.joules(), host.trim_end());
    daemon::add(&mut text, &placement, &app.usage.totals(), app.started.elapsed().as_secs_f64());
    daemon::add_host(&mut text, &sample.host);
    Ok(([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text.into_text()).into_response())
}

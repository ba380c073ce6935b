use super::Problem;
use crate::app::App;
use crate::{gpu, placement};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(super) fn router() -> Router<App> {
    Router::new().route("/admin/v1/status", get(status))
}

/// What the daemon is doing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Of the daemon, which may be older than the program that asks.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime: u64,
    /// Who holds memory, and who waits for it.
    pub placement: Arc<placement::Status>,
    /// What the card and the host do.
    pub now: Arc<gpu::Sample>,
    /// Who holds the cards: models, services, other containers, programs of the host.
    #[serde(default)]
    pub holders: Vec<gpu::Holder>,
    /// What the cards drew on the last day of which that is known; the minute that runs is not in it.
    #[serde(default)]
    pub energy: Option<gpu::Day>,
    /// Models that can be served.
    pub models: usize,
    /// The Docker engine.
    pub docker: Docker,
}

/// The Docker engine, there or not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Docker {
    /// Its version; none when no engine answers.
    pub version: Option<String>,
    /// Why no engine answers.
    pub problem: Option<String>,
    /// Our containers, whatever their state.
    pub containers: usize,
}

async fn status(State(app): State<App>) -> Result<Json<Status>, Problem> {
    let placement = app.placement.status().borrow().clone();
    let engine = app.docker.state().borrow().clone();
    let docker = Docker {
        version: engine.engine().map(|engine| engine.version.clone()),
        problem: engine.absent().map(str::to_string),
        containers: app.docker.containers().borrow().len(),
    };
    let now = app.gpu.latest();
    let energy = app.energy.days().await?.first().cloned();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        uptime: app.started.elapsed().as_secs(),
        placement,
        holders: now.cards.iter().flat_map(gpu::Holder::of).collect(),
        now,
        energy,
        models: app.models.list().len(),
        docker,
    }))
}

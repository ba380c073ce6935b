use super::Problem;
use crate::app::App;
use crate::gpu::Day;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};

pub(super) fn router() -> Router<App> {
    Router::new().route("/admin/v1/energy", get(days))
}

/// The last days of which it is known what the cards drew, the newest first.
async fn days(State(app): State<App>) -> Result<Json<Vec<Day>>, Problem> {
    let days = app.energy.days().await?;
    Ok(Json(days.to_vec()))
}

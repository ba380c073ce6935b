//! What can be asked for.

use super::Caller;
use crate::app::App;
use crate::models::ModelSpec;
use crate::worker::openai::{Error, Model, Models};
use axum::Json;
use axum::extract::{Path, State};

/// `GET /v1/models`
pub(super) async fn list(State(app): State<App>, _: Caller) -> Json<Models> {
    Json(Models::new(app.models.list().iter().map(|spec| model(&app, spec)).collect()))
}

/// `GET /v1/models/{id}`; an alias is answered with the model that it means.
pub(super) async fn get(State(app): State<App>, _: Caller, Path(id): Path<String>) -> Result<Json<Model>, Error> {
    Ok(Json(model(&app, &*app.models.resolve(&id)?)))
}

fn model(app: &App, spec: &ModelSpec) -> Model {
    let context = spec.context_train.min(app.config.engine.context as u64);
    Model::new(&spec.name, u64::try_from(spec.pulled_at).unwrap_or_default(), Some(context))
}

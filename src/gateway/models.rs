//! What can be asked for.

use super::Caller;
use crate::app::App;
use crate::models::{ModelSpec, Wanted};
use crate::worker::openai::{Error, Model, Models};
use axum::Json;
use axum::extract::{Path, State};

/// `GET /v1/models`
pub(super) async fn list(State(app): State<App>, _: Caller) -> Json<Models> {
    let models = app.models.list();
    let named = models.iter().flat_map(|spec| spec.names().map(move |name| (spec, name)));
    Json(Models::new(named.map(|(spec, name)| model(&app, spec, name)).collect()))
}

/// `GET /v1/models/{id}`; an alias is answered with the model that it means.
pub(super) async fn get(State(app): State<App>, _: Caller, Path(id): Path<String>) -> Result<Json<Model>, Error> {
    let Wanted { spec, name } = app.models.wanted(&id)?;
    Ok(Json(model(&app, &spec, &name)))
}

fn model(app: &App, spec: &ModelSpec, name: &str) -> Model {
    let context = spec.context_train.min(app.config.engine.context as u64);
    let model = Model::new(name, u64::try_from(spec.pulled_at).unwrap_or_default(), Some(context));
    if name == spec.name { model } else { model.with_parent(&spec.name) }
}

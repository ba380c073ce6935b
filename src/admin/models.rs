use super::{Body, Problem};
use crate::app::App;
use crate::models::{self, Broken, CatalogueEntry, ModelSpec, Progress, Removed};
use axum::body::Body as Content;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::watch;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/admin/v1/models", get(list))
        .route("/admin/v1/models/{name}", delete(remove))
        .route("/admin/v1/models/catalogue", get(catalogue))
        .route("/admin/v1/models/pulls", get(pulls).post(pull).delete(cancel))
}

/// The models of this machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct ModelList {
    /// The model that answers when a request names none. It may not be installed.
    pub default: String,
    /// What can be served, by name.
    pub models: Vec<Arc<ModelSpec>>,
    /// What was pulled and cannot be served.
    pub broken: Vec<Broken>,
    /// What is on its way, and what failed to come.
    pub pulls: Vec<Progress>,
}

/// A model to pull.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPull {
    /// A name in the catalogue, an address, `hf:owner/repository/file.gguf[@revision]`, or a path on the daemon's machine.
    pub source: String,
    /// Whether the source may serve other bytes than at its first pull.
    #[serde(default)]
    pub repin: bool,
}

/// A pull, by what was asked for.
#[derive(Debug, Deserialize)]
struct Which {
    source: String,
}

async fn list(State(app): State<App>) -> Json<ModelList> {
    let installed = app.models.installed().borrow().clone();
    Json(ModelList {
        default: app.models.default().into(),
        models: installed.models.clone(),
        broken: installed.broken.clone(),
        pulls: app.models.pulls().borrow().clone(),
    })
}

async fn catalogue(State(app): State<App>) -> Json<Vec<CatalogueEntry>> {
    Json(app.models.catalogue().to_vec())
}

async fn pulls(State(app): State<App>) -> Json<Vec<Progress>> {
    Json(app.models.pulls().borrow().clone())
}

/// Begins a pull, or joins the one that runs, and answers with a [`Progress`] a line until it is over. The pull goes on
/// when the caller goes away.
async fn pull(State(app): State<App>, Body(new): Body<NewPull>) -> Result<Response, Problem> {
    if new.repin {
        app.models.unpin(&new.source).await?;
    }
    let progress = app.models.pull(&new.source)?;
    let lines = lines(progress).take_until(app.closing.clone().cancelled_owned()).map(Ok::<_, Infallible>);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Content::from_stream(lines)).into_response())
}

/// What `progress` says, now and after every change, a JSON object a line, up to its end.
fn lines(progress: watch::Receiver<Progress>) -> impl futures_util::Stream<Item = String> {
    stream::unfold(Some((progress, true)), async |state| {
        let (mut progress, first) = state?;
        if !first {
            // Its sender goes with the end of the pull, and that was told then.
            progress.changed().await.ok()?;
        }
        let now = progress.borrow_and_update().clone();
        let line = serde_json::to_string(&now).ok()? + "\n";
        Some((line, (!now.is_over()).then_some((progress, false))))
    })
}

async fn cancel(State(app): State<App>, Query(which): Query<Which>) -> Result<StatusCode, Problem> {
    match app.models.cancel(&which.source).await {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found(format!("nothing is pulled from {:?}", which.source))),
    }
}

/// Removes a model, and unloads it once those who use it are done.
async fn remove(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Removed>, Problem> {
    let removed = app.models.remove(&name).await?;
    // A worker that has the file open serves its requests to their end, also without its name.
    let (placement, model) = (app.placement.clone(), removed.name.clone());
    tokio::spawn(async move { placement.unload(&model).await });
    Ok(Json(removed))
}

impl From<models::Error> for Problem {
    fn from(error: models::Error) -> Self {
        use models::Error;
        match error {
            Error::NotFound(_) => Self::not_found(error),
            Error::Source { .. } => Self::bad_request(error),
            Error::Exists { .. } | Error::Busy { .. } => Self::conflict(error),
            error => Self::internal(error),
        }
    }
}

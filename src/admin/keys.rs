use super::{Body, Problem};
use crate::app::App;
use crate::auth::{Key, KeyError};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

pub(super) fn router() -> Router<App> {
    Router::new().route("/admin/v1/keys", get(list).post(create)).route("/admin/v1/keys/{name}", delete(revoke))
}

/// A key to make.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// How its owner will know it.
    pub name: String,
}

/// A key that was made.
#[derive(Debug, Serialize, Deserialize)]
pub struct Created {
    /// What is kept of it.
    #[serde(flatten)]
    pub key: Key,
    /// The key itself. It is told this once.
    pub secret: String,
}

async fn list(State(app): State<App>) -> Result<Json<Vec<Key>>, Problem> {
    Ok(Json(app.keys.list().await?))
}

async fn create(State(app): State<App>, Body(new): Body<NewKey>) -> Result<(StatusCode, Json<Created>), Problem> {
    let (key, secret) = app.keys.create(&new.name).await?;
    Ok((StatusCode::CREATED, Json(Created { key, secret })))
}

async fn revoke(State(app): State<App>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    app.keys.revoke(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Taken(_) => Self::conflict(error),
            KeyError::Unknown(_) => Self::not_found(error),
            KeyError::Name(_) => Self::bad_request(error),
            KeyError::Random(_) | KeyError::Database(_) => Self::internal(error),
        }
    }
}

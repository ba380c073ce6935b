use super::Problem;
use crate::app::App;
use crate::docker::{self, Engine};
use crate::stacks::{Error, Handle, StackView};
use axum::body::Body as Content;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use futures_util::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::time::Duration;

/// The shortest time between two lines about one operation: a pull tells of itself a hundred times a second.
const PACE: Duration = Duration::from_millis(100);

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/admin/v1/stacks", get(list))
        .route("/admin/v1/stacks/{name}", delete(remove).get(one))
        .route("/admin/v1/stacks/{name}/up", post(up))
        .route("/admin/v1/stacks/{name}/down", post(down))
        .route("/admin/v1/stacks/{name}/logs", get(logs))
}

/// The stacks, and the engine that would run them.
#[derive(Debug, Serialize, Deserialize)]
pub struct StackList {
    /// The Docker engine, if one answers.
    pub docker: Option<Engine>,
    /// Why none answers.
    pub absent: Option<String>,
    /// Every stack, by name.
    pub stacks: Vec<StackView>,
}

/// What an operation has come to.
#[derive(Debug, Serialize, Deserialize)]
pub struct StackUpdate {
    /// The stack.
    #[serde(flatten)]
    pub stack: StackView,
    /// Whether this is the last line.
    pub over: bool,
    /// Why the stack is not as it was wanted; only when it is over.
    pub error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Follow {
    #[serde(default)]
    follow: bool,
}

async fn list(State(app): State<App>) -> Json<StackList> {
    let state = app.docker.state().borrow().clone();
    Json(StackList {
        docker: state.engine().cloned(),
        absent: state.absent().map(str::to_owned),
        stacks: app.stacks.list().await,
    })
}

async fn one(State(app): State<App>, Path(name): Path<String>) -> Result<Json<StackView>, Problem> {
    Ok(Json(app.stacks.get(&name).await?))
}

/// Brings a stack up. Answers with a [`StackUpdate`] a line until it is; that goes on when the caller goes away.
async fn up(State(app): State<App>, Path(name): Path<String>) -> Result<Response, Problem> {
    let handle = app.stacks.up(&name).await?;
    Ok(updates(app, name, handle).await?)
}

/// Takes a stack down, and answers like [`up`].
async fn down(State(app): State<App>, Path(name): Path<String>) -> Result<Response, Problem> {
    let handle = app.stacks.down(&name).await?;
    Ok(updates(app, name, handle).await?)
}

/// Takes a stack down and removes its data, and answers like [`up`].
async fn remove(State(app): State<App>, Path(name): Path<String>) -> Result<Response, Problem> {
    let handle = app.stacks.remove(&name).await?;
    Ok(updates(app, name, handle).await?)
}

async fn updates(app: App, name: String, handle: Handle) -> Result<Response, Error> {
    let first = app.stacks.get(&name).await?;
    let closing = app.closing.clone();
    let lines = lines(app, first, handle).take_until(closing.cancelled_owned()).map(Ok::<_, Infallible>);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Content::from_stream(lines)).into_response())
}

/// A stack while an operation is under way, a JSON object a line, up to its end.
fn lines(app: App, first: StackView, handle: Handle) -> impl Stream<Item = String> {
    let changes = app.stacks.changes();
    let state = Some((app, changes, handle, StackUpdate { stack: first, over: false, error: None }));
    stream::unfold(state, async |state| {
        let (app, mut changes, mut handle, update) = state?;
        let line = serde_json::to_string(&update).ok()? + "\n";
        if update.over {
            return Some((line, None));
        }
        let name = &update.stack.name;
        let next = loop {
            let change = async {
                tokio::time::sleep(PACE).await;
                changes.changed().await
            };
            let ended = tokio::select! {
                done = &mut handle => Some(done),
                _ = change => None,
            };
            // A stack of which nothing is left is told as it last was.
            let stack = app.stacks.get(name).await.unwrap_or_else(|_| update.stack.clone());
            match ended {
                Some(done) => {
                    break StackUpdate { stack, over: true, error: done.err().map(|error| error.to_string()) };
                }
                None if stack != update.stack => break StackUpdate { stack, over: false, error: None },
                None => {}
            }
        };
        Some((line, Some((app, changes, handle, next))))
    })
}

/// What the services print, as text; with `?follow=true` also what they will.
async fn logs(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(Follow { follow }): Query<Follow>,
) -> Result<Response, Problem> {
    let lines = app.stacks.logs(&name, follow).await?;
    let text = lines.take_until(app.closing.clone().cancelled_owned()).map(|line| {
        Ok::<_, Infallible>(match line {
            Ok(line) => format!("{line}\n"),
            Err(error) => format!("sovereign: {error}\n"),
        })
    });
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Content::from_stream(text)).into_response())
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        use axum::http::StatusCode;
        match error {
            Error::NotFound { .. } => Self::not_found(error),
            Error::File(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, error),
            Error::Docker(docker::Error::Absent { .. }) => Self::new(StatusCode::SERVICE_UNAVAILABLE, error),
            Error::Docker(docker::Error::Refused { .. }) => Self::new(StatusCode::BAD_GATEWAY, error),
            Error::Egress(_) => Self::new(StatusCode::FORBIDDEN, error),
            Error::Superseded => Self::conflict(error),
            Error::Service(_) | Error::Db(_) => Self::internal(error),
        }
    }
}

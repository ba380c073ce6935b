use super::{Body, Problem};
use crate::app::App;
use crate::config::Mode;
use crate::egress::ledger::Report;
use crate::egress::{Answer, Class, Error, Page, Question, Scope, View};
use axum::body::Body as Content;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/admin/v1/egress", get(view))
        .route("/admin/v1/egress/questions", get(questions))
        .route("/admin/v1/egress/questions/{id}", post(answer))
        .route("/admin/v1/egress/decisions", post(decide))
        .route("/admin/v1/egress/decisions/{id}", delete(revoke))
        .route("/admin/v1/egress/offline", put(offline))
        .route("/admin/v1/egress/classes/{class}", put(mode))
        .route("/admin/v1/egress/rows", get(rows))
        .route("/admin/v1/egress/rows/{row}/text", get(text).delete(erase))
        .route("/admin/v1/egress/verify", get(verify))
        .route("/admin/v1/egress/export", get(export))
}

/// A decision before anybody asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct NewDecision {
    /// What it is about.
    #[serde(flatten)]
    pub scope: Scope,
    /// What it is, and how long it holds.
    #[serde(flatten)]
    pub answer: Answer,
}

/// A decision that was written down.
#[derive(Debug, Serialize, Deserialize)]
pub struct Decided {
    /// Its number; none where it held only once and for no.
    pub decision: Option<u64>,
}

/// The switch.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Whether nothing may leave.
    pub offline: bool,
}

/// A class's mode.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMode {
    /// Off, ask or on.
    pub mode: Mode,
}

#[derive(Debug, Deserialize)]
struct Which {
    before: Option<u64>,
    #[serde(default = "some")]
    limit: u32,
}

fn some() -> u32 {
    200
}

/// Rows of one answer, at most.
const MOST: u32 = 1000;

async fn view(State(app): State<App>) -> Json<View> {
    Json(app.egress.view())
}

/// What waits for the owner, now and after every change, a JSON array a line.
async fn questions(State(app): State<App>) -> Response {
    let closing = app.closing.clone().cancelled_owned();
    let lines = stream::unfold((app.egress.clone(), app.egress.changes(), None), async |state| {
        let (egress, mut changes, told): (_, _, Option<Vec<Question>>) = state;
        loop {
            changes.borrow_and_update();
            let now = egress.questions();
            if told.as_ref() != Some(&now) {
                let line = serde_json::to_string(&now).ok()? + "\n";
                return Some((Ok::<_, Infallible>(line), (egress, changes, Some(now))));
            }
            changes.changed().await.ok()?;
        }
    });
    let lines = Content::from_stream(lines.take_until(closing));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response()
}

async fn answer(
    State(app): State<App>,
    Path(id): Path<u64>,
    Body(answer): Body<Answer>,
) -> Result<Json<Decided>, Problem> {
    Ok(Json(Decided { decision: app.egress.answer(id, answer).await? }))
}

async fn decide(State(app): State<App>, Body(new): Body<NewDecision>) -> Result<Json<Decided>, Problem> {
    Ok(Json(Decided { decision: Some(app.egress.decide(new.scope, new.answer).await?) }))
}

async fn revoke(State(app): State<App>, Path(id): Path<u64>) -> Result<StatusCode, Problem> {
    app.egress.revoke(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn offline(State(app): State<App>, Body(switch): Body<Switch>) -> Result<StatusCode, Problem> {
    app.egress.set_offline(switch.offline).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn mode(
    State(app): State<App>,
    Path(class): Path<String>,
    Body(new): Body<NewMode>,
) -> Result<StatusCode, Problem> {
    let class: Class = class.parse().map_err(Problem::not_found)?;
    app.egress.set_mode(class, new.mode).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn rows(State(app): State<App>, Query(which): Query<Which>) -> Result<Json<Page>, Problem> {
    Ok(Json(app.egress.lines(which.before, which.limit.clamp(1, MOST)).await?))
}

async fn text(State(app): State<App>, Path(row): Path<u64>) -> Result<String, Problem> {
    let text = app.egress.ledger()?.text(row).await.map_err(Error::from)?;
    text.ok_or_else(|| Problem::not_found(format!("there is no text beside row {row}")))
}

async fn erase(State(app): State<App>, Path(row): Path<u64>) -> Result<StatusCode, Problem> {
    match app.egress.ledger()?.erase(row).await.map_err(Error::from)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found(format!("there is no text beside row {row}"))),
    }
}

async fn verify(State(app): State<App>) -> Result<Json<Report>, Problem> {
    Ok(Json(app.egress.ledger()?.verify().await))
}

/// Every row, a JSON object a line.
async fn export(State(app): State<App>) -> Result<Response, Problem> {
    let lines = app.egress.ledger()?.export();
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"egress.jsonl\""),
    ];
    Ok((headers, Content::from_stream(lines)).into_response())
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::NoQuestion(_) | Error::NoDecision(_) => Self::not_found(error),
            Error::Once => Self::bad_request(error),
            error => Self::internal(error),
        }
    }
}

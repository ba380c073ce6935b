//! Stacks: how they are, started and stopped, and what they print.

use super::{Shell, Tab, done, fragment, html, ledger};
use crate::app::App;
use crate::docker;
use crate::stacks::{self, StackState, StackView};
use crate::web::containers::Row;
use crate::web::error::Error;
use crate::web::live::{self, Push};
use crate::web::session::{Htmx, Owner, Sent};
use askama::Template;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use futures_util::StreamExt;
use serde::Deserialize;
use std::convert::Infallible;

const PATH: &str = "/stacks";

pub(super) fn router() -> Router<App> {
    Router::new()
        .route(PATH, get(page))
        .route("/stacks/live", get(stream))
        .route("/stacks/{name}/up", post(up))
        .route("/stacks/{name}/down", post(down))
        .route("/stacks/{name}/remove", post(remove))
        .route("/stacks/{name}/open", get(open))
        .route("/stacks/{name}/logs", get(logs))
}

#[derive(Template)]
#[template(path = "stacks.html")]
struct Page {
    shell: Shell,
    live: String,
}

/// What changes by itself.
#[derive(Debug, Template)]
#[template(path = "stacks_live.html")]
struct Live<'a> {
    csrf: &'a str,
    /// Why no Docker engine answers.
    absent: Option<&'a str>,
    stacks: Vec<Stack>,
    folder: String,
}

/// A stack.
#[derive(Debug)]
struct Stack {
    name: String,
    title: String,
    description: String,
    /// Whether it has a page of its own.
    web: bool,
    /// What its services may do that containers usually may not.
    warnings: Vec<String>,
    class: &'static str,
    state: String,
    progress: Option<String>,
    problem: Option<String>,
    up: bool,
    removable: bool,
    services: Vec<Row>,
}

impl Stack {
    fn of(view: StackView) -> Self {
        Self {
            class: match view.state {
                StackState::Running => "good",
                StackState::Starting | StackState::Stopping => "busy",
                StackState::Failing => "bad",
                StackState::Stopped | StackState::Unknown => "",
            },
            state: view.state.to_string(),
            services: view.services.iter().map(|service| Row::of_service(&view.name, service)).collect(),
            name: view.name,
            title: view.title,
            description: view.description,
            web: view.web.is_some(),
            warnings: view.warnings,
            progress: view.progress,
            problem: view.problem,
            up: view.up,
            removable: view.removable,
        }
    }
}

async fn page(State(app): State<App>, owner: Owner) -> Response {
    let csrf = owner.session.csrf;
    let live = live(&app, &csrf).await;
    html(&Page { shell: Shell { csrf, tab: Tab::Stacks }, live })
}

async fn stream(State(app): State<App>, owner: Owner, headers: HeaderMap) -> Response {
    live::to_owner(app, headers, move |app| {
        let csrf = owner.session.csrf.clone();
        async move { vec![Push::content(live(&app, &csrf).await)] }
    })
}

async fn up(State(app): State<App>, htmx: Htmx, Path(name): Path<String>, _: Sent<()>) -> Result<Response, Error> {
    app.stacks.up(&name).await.map_err(refused)?;
    Ok(done(htmx, PATH))
}

async fn down(State(app): State<App>, htmx: Htmx, Path(name): Path<String>, _: Sent<()>) -> Result<Response, Error> {
    app.stacks.down(&name).await.map_err(refused)?;
    Ok(done(htmx, PATH))
}

async fn remove(State(app): State<App>, htmx: Htmx, Path(name): Path<String>, _: Sent<()>) -> Result<Response, Error> {
    app.stacks.remove(&name).await.map_err(refused)?;
    Ok(done(htmx, PATH))
}

/// Leads to a stack's own page, on the name by which its reader reached this one.
async fn open(
    State(app): State<App>,
    _: Owner,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let web = app.stacks.get(&name).await.map_err(refused)?.web;
    let missing = || Error::Refused(StatusCode::NOT_FOUND, format!("{name} has no page of its own"));
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    Ok(Redirect::to(&page_at(&web.ok_or_else(missing)?, host)).into_response())
}

/// A stack's page as it is seen from `host`, which may have a port.
fn page_at(web: &str, host: &str) -> String {
    // The port follows the last colon, unless that is within an address of version 6.
    let name = host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(name, _)| name);
    match web.starts_with(':') {
        true => format!("http://{name}{web}"),
        false => web.to_owned(),
    }
}

#[derive(Deserialize)]
struct LogQuery {
    follow: Option<String>,
}

/// What the services of a stack printed, as text; with `follow` also what they will, until the reader leaves.
async fn logs(
    State(app): State<App>,
    _: Owner,
    Path(name): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Error> {
    let lines = app.stacks.logs(&name, query.follow.is_some()).await.map_err(refused)?;
    let text = lines
        .take_until(app.closing.clone().cancelled_owned())
        .map(|line| match line {
            Ok(line) => format!("{}  {}\n", line.service, line.text),
            Err(error) => format!("{error}\n"),
        })
        .map(Ok::<_, Infallible>);
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(text)).into_response())
}

fn refused(error: stacks::Error) -> Error {
    let status = match &error {
        stacks::Error::NotFound { .. } => StatusCode::NOT_FOUND,
        stacks::Error::File(_) => StatusCode::UNPROCESSABLE_ENTITY,
        stacks::Error::Docker(docker::Error::Absent { .. }) => StatusCode::SERVICE_UNAVAILABLE,
        stacks::Error::Docker(docker::Error::Refused { .. }) => StatusCode::BAD_GATEWAY,
        stacks::Error::Egress(_) => StatusCode::FORBIDDEN,
        stacks::Error::Superseded => StatusCode::CONFLICT,
        stacks::Error::Service(_) => StatusCode::INTERNAL_SERVER_ERROR,
        stacks::Error::Db(_) => return Error::internal(error),
    };
    Error::Refused(status, error.to_string())
}

async fn live(app: &App, csrf: &str) -> String {
    let stacks = app.stacks.list().await;
    let docker = app.docker.state().borrow().clone();
    let live = Live {
        csrf,
        absent: docker.absent(),
        stacks: stacks.into_iter().map(Stack::of).collect(),
        folder: app.config.stacks_dir().display().to_string(),
    };
    ledger::questions(app, csrf) + &fragment(&live)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::Status;
    use crate::stacks::ServiceView;

    fn view(state: StackState, up: bool, services: Vec<ServiceView>) -> StackView {
        StackView {
            name: "chroma".into(),
            title: "ChromaDB".into(),
            description: String::new(),
            web: Some(":8000/docs".into()),
            warnings: vec!["db sees all of this machine's files".into()],
            state,
            progress: None,
            problem: None,
            up,
            removable: false,
            services,
        }
    }

    fn rendered(absent: Option<&str>, view: StackView) -> String {
        let stacks = vec![Stack::of(view)];
        fragment(&Live { csrf: "token", absent, stacks, folder: "/s".into() })
    }

    #[test]
    fn its_page_is_where_this_one_was_found() {
        let check = |web, host, expected| assert_eq!(page_at(web, host), expected);
        check(":3000/", "nas.local:8808", "http://nas.local:3000/");
        check(":3000", "192.168.1.2", "http://192.168.1.2:3000");
        check(":3000", "[fd00::2]:8808", "http://[fd00::2]:3000");
        check(":3000", "[fd00::2]", "http://[fd00::2]:3000");
        check("https://photos.home/", "nas:8808", "https://photos.home/");
    }

    #[test]
    fn what_can_be_done_is_offered() {
        let service = ServiceView {
            name: "db".into(),
            image: "chroma:1".into(),
            status: Status::Healthy,
            restarts: 2,
            ports: Vec::new(),
        };
        let running = rendered(None, view(StackState::Running, true, vec![service]));
        assert!(running.contains("/stacks/chroma/down") && !running.contains("/stacks/chroma/up"), "{running}");
        assert!(running.contains("Healthy") && running.contains("/stacks/chroma/logs"), "{running}");
        assert!(running.contains("/stacks/chroma/open") && running.contains("sees all of this machine"), "{running}");
        let stopped = rendered(None, view(StackState::Stopped, false, Vec::new()));
        assert!(stopped.contains("/stacks/chroma/up") && !stopped.contains("disabled"), "{stopped}");
        assert!(!stopped.contains("/stacks/chroma/logs"), "{stopped}");
        let absent = rendered(Some("no socket"), view(StackState::Unknown, false, Vec::new()));
        assert!(absent.contains("no socket") && absent.contains("disabled"), "{absent}");
    }
}

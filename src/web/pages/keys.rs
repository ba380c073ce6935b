//! API keys: made, shown once, revoked.

use super::{Shell, Tab, fragment, html};
use crate::app::App;
use crate::auth::{Key, KeyError};
use crate::db;
use crate::web::error::Error;
use crate::web::session::{Htmx, Owner, Sent};
use crate::web::words;
use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;

pub(super) fn router() -> Router<App> {
    Router::new().route("/keys", get(page).post(create)).route("/keys/revoke", post(revoke))
}

#[derive(Template)]
#[template(path = "keys.html")]
struct Page {
    shell: Shell,
    list: String,
}

#[derive(Template)]
#[template(path = "keys_list.html")]
struct List {
    csrf: String,
    problem: Option<String>,
    created: Option<Created>,
    keys: Vec<Row>,
    /// Where programs reach us: the way on which this browser came.
    base: String,
    model: String,
}

#[derive(Debug)]
struct Created {
    name: String,
    secret: String,
}

#[derive(Debug, PartialEq)]
struct Row {
    name: String,
    prefix: String,
    created: String,
    used: String,
}

impl Row {
    fn of(key: Key, now: i64) -> Self {
        Self {
            used: key.last_used_at.map_or("never".into(), |at| words::ago(at, now)),
            created: words::date(key.created_at),
            name: key.name,
            prefix: key.prefix,
        }
    }
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

async fn page(State(app): State<App>, owner: Owner, headers: HeaderMap) -> Result<Response, Error> {
    let list = list(&app, &headers, owner.session.csrf.clone(), None, None).await?;
    Ok(whole(owner.session.csrf, &list))
}

async fn create(State(app): State<App>, htmx: Htmx, headers: HeaderMap, sent: Sent<Name>) -> Result<Response, Error> {
    let made = app.keys.create(&sent.form.name).await;
    let made = made.map(|(key, secret)| Some(Created { name: key.name, secret }));
    answer(&app, htmx, &headers, sent.session.csrf, made).await
}

async fn revoke(State(app): State<App>, htmx: Htmx, headers: HeaderMap, sent: Sent<Name>) -> Result<Response, Error> {
    let revoked = app.keys.revoke(&sent.form.name).await.map(|()| None);
    answer(&app, htmx, &headers, sent.session.csrf, revoked).await
}

/// The list again, after something was done or refused. No redirect: a new key is in this answer and nowhere else.
async fn answer(
    app: &App,
    htmx: Htmx,
    headers: &HeaderMap,
    csrf: String,
    result: Result<Option<Created>, KeyError>,
) -> Result<Response, Error> {
    let (status, created, problem) = match result {
        Ok(created) => (StatusCode::OK, created, None),
        Err(error @ (KeyError::Random(_) | KeyError::Database(_))) => return Err(Error::internal(error)),
        Err(error @ KeyError::Unknown(_)) => (StatusCode::NOT_FOUND, None, Some(error.to_string())),
        Err(error @ KeyError::Taken(_)) => (StatusCode::CONFLICT, None, Some(error.to_string())),
        Err(error @ KeyError::Name(_)) => (StatusCode::UNPROCESSABLE_ENTITY, None, Some(error.to_string())),
    };
    let list = list(app, headers, csrf.clone(), created, problem).await?;
    let mut response = if htmx.0 { html(&list) } else { whole(csrf, &list) };
    *response.status_mut() = status;
    Ok(response)
}

async fn list(
    app: &App,
    headers: &HeaderMap,
    csrf: String,
    created: Option<Created>,
    problem: Option<String>,
) -> Result<List, Error> {
    let keys = app.keys.list().await.map_err(Error::internal)?;
    let now = db::now();
    Ok(List {
        csrf,
        problem,
        created,
        keys: keys.into_iter().map(|key| Row::of(key, now)).collect(),
        base: base(headers),
        model: app.config.models.default.clone(),
    })
}

fn whole(csrf: String, list: &List) -> Response {
    html(&Page { shell: Shell { csrf, tab: Tab::Keys }, list: fragment(list) })
}

/// The address under which this browser reached us.
fn base(headers: &HeaderMap) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let scheme = if text("x-forwarded-proto") == Some("https") { "https" } else { "http" };
    format!("{scheme}://{}", text(header::HOST.as_str()).unwrap_or("localhost:8808"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_key() {
        let key = Key { id: 1, name: "laptop".into(), prefix: "sk-sov-abc".into(), created_at: 0, last_used_at: None };
        assert_eq!(Row::of(key.clone(), 100).used, "never");
        assert_eq!(Row::of(Key { last_used_at: Some(100), ..key }, 400).used, "5 min ago");
    }

    #[test]
    fn the_address_is_the_one_that_worked() {
        let mut headers = HeaderMap::new();
        headers.insert("host", "nas.local:8808".parse().unwrap());
        assert_eq!(base(&headers), "http://nas.local:8808");
        headers.insert("x-forwarded-proto", "https".parse().unwrap());
        assert_eq!(base(&headers), "https://nas.local:8808");
    }
}

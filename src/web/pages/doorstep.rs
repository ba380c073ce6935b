//! Set-up, log-in and log-out: what stands before the dashboard.

use super::html;
use crate::app::App;
use crate::auth::SessionError;
use crate::web::error::Error;
use crate::web::session::Sent;
use askama::Template;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use serde::Deserialize;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/setup", get(setup_page).post(set_up))
        .route("/login", get(login_page).post(log_in))
        .route("/logout", post(log_out))
}

#[derive(Template)]
#[template(path = "setup.html")]
struct Setup {
    /// What opens the form; without it the page says where to find the link.
    token: Option<String>,
    problem: Option<String>,
}

#[derive(Template)]
#[template(path = "login.html")]
struct Login {
    problem: Option<String>,
}

#[derive(Deserialize)]
struct Link {
    token: Option<String>,
}

#[derive(Deserialize)]
struct SetupForm {
    token: String,
    password: String,
    repeated: String,
}

#[derive(Deserialize)]
struct LoginForm {
    password: String,
}

async fn setup_page(State(app): State<App>, Query(link): Query<Link>) -> Response {
    if app.sessions.setup_token().is_none() {
        return Redirect::to("/").into_response();
    }
    match link.token {
        None => html(&Setup { token: None, problem: None }),
        Some(token) if app.sessions.may_set_up(&token) => html(&Setup { token: Some(token), problem: None }),
        Some(_) => refused(&SessionError::Token, |problem| html(&Setup { token: None, problem })),
    }
}

async fn set_up(State(app): State<App>, Form(form): Form<SetupForm>) -> Response {
    let again = |token: String, problem: Option<String>| {
        let token = app.sessions.may_set_up(&token).then_some(token);
        html(&Setup { token, problem })
    };
    if form.password != form.repeated {
        let differ = SessionError::Password("The two passwords differ.".into());
        return refused(&differ, |problem| again(form.token, problem));
    }
    match app.sessions.set_up(&form.token, form.password).await {
        Ok(opened) => enter(opened.cookie),
        Err(error) => refused(&error, |problem| again(form.token, problem)),
    }
}

async fn login_page(State(app): State<App>, headers: HeaderMap) -> Response {
    if app.sessions.setup_token().is_some() {
        Redirect::to("/setup").into_response()
    } else if app.sessions.check(&headers).await.is_some() {
        Redirect::to("/").into_response()
    } else {
        html(&Login { problem: None })
    }
}

async fn log_in(State(app): State<App>, Form(form): Form<LoginForm>) -> Response {
    match app.sessions.log_in(form.password).await {
        Ok(opened) => enter(opened.cookie),
        Err(error) => refused(&error, |problem| html(&Login { problem })),
    }
}

async fn log_out(State(app): State<App>, headers: HeaderMap, _: Sent<()>) -> Result<Response, Error> {
    let cookie = app.sessions.log_out(&headers).await.map_err(Error::internal)?;
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/login")).into_response())
}

fn enter(cookie: HeaderValue) -> Response {
    ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response()
}

/// The page again, with what is wrong. What failed on our side is told as such, and its cause in the log.
fn refused(error: &SessionError, page: impl FnOnce(Option<String>) -> Response) -> Response {
    let status = match error {
        SessionError::Token => StatusCode::FORBIDDEN,
        SessionError::Password(_) => StatusCode::UNPROCESSABLE_ENTITY,
        SessionError::Wrong => StatusCode::UNAUTHORIZED,
        SessionError::Wait(_) => StatusCode::TOO_MANY_REQUESTS,
        SessionError::Database(_) | SessionError::Hash(_) | SessionError::Random(_) => {
            return Error::internal(error).into_response();
        }
    };
    let mut response = page(Some(error.to_string()));
    *response.status_mut() = status;
    if let SessionError::Wait(wait) = error {
        response.headers_mut().insert(header::RETRY_AFTER, wait.as_secs().max(1).into());
    }
    response
}

//! One file a page: what it shows, prepared by pure functions from what the handles know, and its handlers, which
//! extract, ask and answer. `templates/` mirrors this folder.

mod chat;
mod doorstep;
mod home;
mod keys;
mod ledger;
mod models;
mod stacks;

use super::error::{Error, notices};
use super::session::Htmx;
use crate::app::App;
use askama::Template;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};

/// Every page's routes.
pub fn router() -> Router<App> {
    Router::new()
        .merge(doorstep::router())
        .merge(home::router())
        .merge(chat::router())
        .merge(models::router())
        .merge(stacks::router())
        .merge(ledger::router())
        .merge(keys::router())
}

/// The pages in the rail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tab {
    /// What goes on.
    Home,
    /// Talking to a model.
    Chat,
    /// Files on the disk.
    Models,
    /// Services in containers.
    Stacks,
    /// What left the house.
    Ledger,
    /// What programs log in with.
    Keys,
}

/// The rail: tab, path, icon, label.
pub const NAVIGATION: [(Tab, &str, &str, &str); 6] = [
    (Tab::Home, "/", "home", "Home"),
    (Tab::Chat, "/chat", "chat", "Chat"),
    (Tab::Models, "/models", "models", "Models"),
    (Tab::Stacks, "/stacks", "stacks", "Stacks"),
    (Tab::Ledger, "/ledger", "ledger", "Ledger"),
    (Tab::Keys, "/keys", "keys", "API keys"),
];

/// What every page of the owner's has.
#[derive(Debug)]
pub struct Shell {
    /// The token that its forms repeat.
    pub csrf: String,
    /// Where it is.
    pub tab: Tab,
}

/// A template as an answer.
pub fn html(template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response(),
        Err(error) => Error::internal(error).into_response(),
    }
}

/// A template as a part of a page. One that fails is missing from it, and in the log.
fn fragment(template: &impl Template) -> String {
    template.render().unwrap_or_else(|error| {
        tracing::error!(%error, "a part of a page failed");
        String::new()
    })
}

/// The answer to a form whose effect the live part of its page will show: nothing to htmx, the page to a browser.
fn done(htmx: Htmx, page: &'static str) -> Response {
    match htmx {
        // What an earlier attempt was refused for is settled.
        Htmx(true) => (StatusCode::OK, notices(), String::new()).into_response(),
        Htmx(false) => Redirect::to(page).into_response(),
    }
}

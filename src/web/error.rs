//! Why a page was not given. A handler says what is wrong; how it is told depends on who asked: a browser gets a page,
//! htmx a notice for the page that it is on, a program a line of text.

use super::pages;
use super::session::Htmx;
use askama::Template;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

/// Why there is no page.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Nobody owns the appliance yet: 401, or the way to the set-up.
    #[error("This appliance is not set up yet. `sovereign serve` printed a link for it when it started.")]
    NotSetUp,
    /// No session: 401, or the way to the log-in.
    #[error("Log in first.")]
    LoggedOut,
    /// A request that changes something, and that none of our pages made: 403.
    #[error("This request did not come from a page of this dashboard. Load the page again, and repeat what you did.")]
    Forged,
    /// 404.
    #[error("There is no such page.")]
    NotFound,
    /// What was asked for cannot be done, and why.
    #[error("{1}")]
    Refused(StatusCode, String),
    /// Our fault: 500. The cause is in the log.
    #[error("Something failed inside the daemon; its log says what.")]
    Internal,
}

impl Error {
    /// Our fault. The cause goes to the log.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "a page failed");
        Self::Internal
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NotSetUp | Self::LoggedOut => StatusCode::UNAUTHORIZED,
            Self::Forged => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Refused(status, _) => *status,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Where a browser goes instead.
    fn elsewhere(&self) -> Option<&'static str> {
        match self {
            Self::NotSetUp => Some("/setup"),
            Self::LoggedOut => Some("/login"),
            _ => None,
        }
    }

    fn tell(&self, reader: Reader) -> Response {
        let status = self.status();
        let text = self.to_string();
        match (reader, self.elsewhere()) {
            (Reader::Browser, Some(path)) => Redirect::to(path).into_response(),
            (Reader::Htmx, Some(path)) => {
                (status, [("hx-redirect", HeaderValue::from_static(path))], text).into_response()
            }
            (Reader::Browser, None) => {
                let title = status.canonical_reason().unwrap_or("Error");
                let page = Page { status: status.as_u16(), title, detail: &text };
                (status, pages::html(&page)).into_response()
            }
            (Reader::Htmx, None) => (status, notices(), pages::html(&Notice { text: &text })).into_response(),
            (Reader::Program, _) => (status, text).into_response(),
        }
    }
}

impl IntoResponse for Error {
    /// An empty answer that carries the error until [`tell`] has seen who asked.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Headers by which htmx puts an answer where the page shows notices, wherever it was meant to go.
pub fn notices() -> [(&'static str, HeaderValue); 2] {
    [("hx-retarget", HeaderValue::from_static("#notices")), ("hx-reswap", HeaderValue::from_static("innerHTML"))]
}

/// The layer that tells errors.
pub async fn tell(request: Request, next: Next) -> Response {
    let reader = Reader::of(request.headers());
    let mut response = next.run(request).await;
    match response.extensions_mut().remove::<Error>() {
        Some(error) => error.tell(reader),
        None => response,
    }
}

/// Who reads the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Browser,
    Htmx,
    Program,
}

impl Reader {
    fn of(headers: &HeaderMap) -> Self {
        match Htmx::of(headers) {
            Htmx(true) => Self::Htmx,
            Htmx(false) if wants_html(headers) => Self::Browser,
            Htmx(false) => Self::Program,
        }
    }
}

/// Whether a page is wanted, rather than an answer for programs.
fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

#[derive(Template)]
#[template(path = "error.html")]
struct Page<'a> {
    status: u16,
    title: &'a str,
    detail: &'a str,
}

#[derive(Template)]
#[template(path = "notice.html")]
struct Notice<'a> {
    text: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_gets_what_it_can_read() {
        let check = |error: Error, reader: Reader, status: u16, header: Option<(&str, &str)>| {
            let response = error.tell(reader);
            assert_eq!(response.status(), status, "{error} for {reader:?}");
            if let Some((name, value)) = header {
                assert_eq!(response.headers()[name], value, "{error} for {reader:?}");
            }
        };
        check(Error::LoggedOut, Reader::Browser, 303, Some(("location", "/login")));
        check(Error::NotSetUp, Reader::Browser, 303, Some(("location", "/setup")));
        check(Error::LoggedOut, Reader::Htmx, 401, Some(("hx-redirect", "/login")));
        check(Error::LoggedOut, Reader::Program, 401, None);
        check(Error::Forged, Reader::Htmx, 403, Some(("hx-retarget", "#notices")));
        check(Error::NotFound, Reader::Browser, 404, Some(("content-type", "text/html; charset=utf-8")));
        check(Error::NotFound, Reader::Program, 404, Some(("content-type", "text/plain; charset=utf-8")));
    }
}

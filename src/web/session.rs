//! Who asks: the owner, by the session cookie, and for whatever changes something also by the CSRF token.

use super::error::Error;
use crate::app::App;
use crate::auth::Session;
use axum::Form;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The owner. In a handler's signature it means that nobody else is answered.
#[derive(Debug, Clone)]
pub struct Owner {
    /// What proves it.
    pub session: Session,
}

impl Owner {
    /// By the cookie alone: enough to look, not to change anything.
    async fn looking(app: &App, headers: &HeaderMap) -> Result<Self, Error> {
        if app.sessions.setup_token().is_some() {
            return Err(Error::NotSetUp);
        }
        let session = app.sessions.check(headers).await.ok_or(Error::LoggedOut)?;
        Ok(Self { session })
    }
}

impl FromRequestParts<App> for Owner {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        let owner = Self::looking(app, &parts.headers).await?;
        if owner.session.allows(&parts.method, &parts.headers) { Ok(owner) } else { Err(Error::Forged) }
    }
}

/// A form that the owner sent from one of our pages: its token came in a hidden field or, by htmx, in a header.
#[derive(Debug)]
pub struct Sent<T> {
    /// What proves the owner.
    pub session: Session,
    /// The fields.
    pub form: T,
}

#[derive(Deserialize)]
struct Fields<T> {
    #[serde(default)]
    csrf: String,
    #[serde(flatten)]
    form: T,
}

impl<T: DeserializeOwned + Send> FromRequest<App> for Sent<T> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self, Error> {
        let owner = Owner::looking(app, request.headers()).await?;
        let by_header = owner.session.allows(request.method(), request.headers());
        let Form(fields) = Form::<Fields<T>>::from_request(request, app)
            .await
            .map_err(|rejection| Error::Refused(StatusCode::BAD_REQUEST, rejection.body_text()))?;
        if by_header || owner.session.owns(fields.csrf.as_bytes()) {
            Ok(Self { session: owner.session, form: fields.form })
        } else {
            Err(Error::Forged)
        }
    }
}

/// Whether htmx asks, which wants a fragment where a browser wants a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Htmx(pub bool);

impl Htmx {
    /// Whether these are htmx's headers.
    pub fn of(headers: &HeaderMap) -> Self {
        Self(headers.contains_key("hx-request"))
    }
}

impl<S: Sync> FromRequestParts<S> for Htmx {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.headers))
    }
}

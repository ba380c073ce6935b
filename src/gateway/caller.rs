//! Who asks.

use super::error::{forbidden, unauthorized};
use crate::app::App;
use crate::auth::{CSRF_HEADER, KEY_PREFIX};
use crate::worker::openai::Error;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use std::net::SocketAddr;

/// Marks requests that came over the admin socket: who may open that needs no key.
#[derive(Debug, Clone, Copy)]
pub struct Trusted;

/// Who asks, as a request proves it. A handler that takes one answers nobody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The owner, on the admin socket.
    Owner,
    /// The owner's browser, from the dashboard.
    Dashboard,
    /// The holder of an API key.
    Key(i64),
    /// A program on this machine, without a key.
    Loopback,
}

impl Caller {
    /// The key that pays.
    pub fn key(&self) -> Option<i64> {
        match self {
            Self::Key(id) => Some(*id),
            Self::Owner | Self::Dashboard | Self::Loopback => None,
        }
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        if parts.extensions.get::<Trusted>().is_some() {
            return Ok(Self::Owner);
        }
        // SDKs cannot be made to send no key at all; a text that cannot be one of ours counts as none.
        if let Some(secret) = bearer(&parts.headers).filter(|secret| secret.starts_with(KEY_PREFIX)) {
            let key = app.keys.verify(secret).await.map_err(|error| Error::internal(error.to_string()))?;
            return match key {
                Some(key) => Ok(Self::Key(key.id)),
                None => Err(unauthorized("this API key is unknown or was revoked")),
            };
        }
        if let Some(session) = app.sessions.check(&parts.headers).await {
            return match session.allows(&parts.method, &parts.headers) {
                true => Ok(Self::Dashboard),
                false => Err(forbidden(format!("the header {CSRF_HEADER} is missing or wrong"))),
            };
        }
        if app.config.gateway.anonymous_loopback && is_loopback(parts) {
            return Ok(Self::Loopback);
        }
        Err(unauthorized(
            "an API key is needed: `Authorization: Bearer sk-sov-...`; make one on the dashboard or by \
             `sovereign key create NAME`",
        ))
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, secret) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

/// Whether a program on this machine asks for itself. A proxy on this machine asks for others, and says so.
fn is_loopback(parts: &Parts) -> bool {
    let forwarded = [header::FORWARDED.as_str(), "x-forwarded-for", "x-real-ip"];
    let Some(ConnectInfo(peer)) = parts.extensions.get::<ConnectInfo<SocketAddr>>() else { return false };
    peer.ip().to_canonical().is_loopback() && !forwarded.iter().any(|name| parts.headers.contains_key(*name))
}

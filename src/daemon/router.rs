//! Who answers what, on the port and on the socket.

use crate::app::App;
use crate::gateway::{self, Hosts, Trusted};
use crate::{admin, web};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::{Extension, Router};
use std::sync::Arc;

/// The port: the dashboard, the gateway, and our own API behind the dashboard's session.
pub fn tcp(app: &App) -> Router {
    let hosts = Arc::new(Hosts::new(&app.config));
    let admin = admin::router().route_layer(from_fn_with_state(app.clone(), admin::behind_session));
    Router::new()
        .merge(gateway::router())
        .merge(admin)
        .merge(web::router())
        .layer(from_fn(gateway::greet))
        .layer(from_fn_with_state(hosts, gateway::check_hosts))
        .with_state(app.clone())
}

/// The socket: our own API, open, and the gateway, which asks nobody for a key here. Who may open it is told by its mode.
pub fn socket(app: &App) -> Router {
    Router::new().merge(gateway::router()).merge(admin::router()).layer(Extension(Trusted)).with_state(app.clone())
}

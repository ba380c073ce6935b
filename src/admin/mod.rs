//! Our own JSON API under `/admin/v1`: what the CLI speaks over the unix socket, and the dashboard's scripts over TCP.
//!
//! One file a noun, each exporting its `router()`. Errors are RFC 9457 problems. Nothing here asks who the caller is:
//! the daemon serves it openly on the socket, and behind a session on TCP.

mod egress;
mod energy;
mod keys;
mod models;
mod problem;
mod session;
mod stacks;
mod status;

pub use egress::{Decided, NewDecision, NewMode, Switch};
pub use keys::{Created, NewKey};
pub use models::{ModelList, NewPull};
pub use problem::{Body, Problem};
pub use session::behind_session;
pub use stacks::{StackList, StackUpdate};
pub use status::{Docker, Status};

use crate::app::App;
use axum::Router;
use axum::http::{Method, Uri};
use axum::routing::any;

/// Every noun's routes.
pub fn router() -> Router<App> {
    Router::new()
        .merge(egress::router())
        .merge(energy::router())
        .merge(keys::router())
        .merge(models::router())
        .merge(stacks::router())
        .merge(status::router())
        .route("/admin/v1/{*rest}", any(no_route))
}

async fn no_route(method: Method, uri: Uri) -> Problem {
    Problem::not_found(format!("there is no {method} {}", uri.path()))
}

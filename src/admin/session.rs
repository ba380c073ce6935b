use super::Problem;
use crate::app::App;
use crate::auth::CSRF_HEADER;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;

/// Lets through what the dashboard's own scripts ask: they have a session, and for unsafe methods its CSRF token.
pub async fn behind_session(State(app): State<App>, request: Request, next: Next) -> Result<Response, Problem> {
    match app.sessions.check(request.headers()).await {
        None => {
            Err(Problem::new(StatusCode::UNAUTHORIZED, "log in to the dashboard, or use `sovereign` on the machine"))
        }
        Some(session) if session.allows(request.method(), request.headers()) => Ok(next.run(request).await),
        Some(_) => Err(Problem::new(StatusCode::FORBIDDEN, format!("the header {CSRF_HEADER} is missing or wrong"))),
    }
}

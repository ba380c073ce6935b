use super::{Placement, Status};
use crate::models::ModelSpec;
use std::sync::Arc;
use std::time::Duration;

/// How long after a failure, or an end, a model that is to stay is loaded again.
const AGAIN: Duration = Duration::from_secs(10);

/// Loads a model, and, where it is to `stay`, loads it again whenever it has gone. `find` says what its name stands for
/// at the moment.
pub async fn keep(
    placement: Placement,
    name: String,
    stay: bool,
    find: impl Fn(&str) -> Option<Arc<ModelSpec>> + Send,
) {
    let mut status = placement.status();
    loop {
        if let Some(spec) = find(&name) {
            if let Err(refusal) = placement.acquire(spec).await {
                tracing::warn!(model = name, %refusal, "a model that is to be loaded could not be");
            }
        } else {
            tracing::warn!(model = name, "placement.models names a model that is not installed");
        }
        let is_there = |status: &Status| status.tenants.iter().any(|tenant| tenant.model == name);
        if !stay || status.wait_for(|status| !is_there(status)).await.is_err() || placement.messages.is_closed() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = placement.messages.closed() => return,
        }
    }
}

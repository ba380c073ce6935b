//! What a worker holds of a card, told and given back for a while: `GET /memory`, `POST /sleep`, `POST /wake_up`,
//! `POST /park`, `POST /shrink`.

use super::Card;
use super::engine::Rest;
use super::face::Face;
use super::openai::Error;
use crate::engine::kernels::cuda::Device;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

/// What is held of a card.
pub(super) struct OnCard {
    /// What was planned.
    pub(super) card: Card,
    /// Where it is held: the card, opened by each model.
    pub(super) devices: Vec<Arc<Device>>,
    /// Why other kernels compute than the best for the card, if they do.
    pub(super) reason: Option<String>,
    /// Whether somebody else holds the memory in which weights are kept.
    pub(super) outlived: bool,
}

impl std::fmt::Debug for OnCard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnCard").field("card", &self.card).finish_non_exhaustive()
    }
}

impl OnCard {
    /// Bytes that are held now, besides what the driver takes.
    fn taken(&self) -> u64 {
        self.devices.iter().map(|device| device.taken()).sum()
    }

    fn told(&self) -> Value {
        let Card { name, limit, plan, capacity, .. } = &self.card;
        json!({
            "card": name,
            "limit": limit,
            "planned": plan,
            "planned_total": plan.total(),
            "taken": self.taken(),
            "slots": capacity.slots,
            "context": capacity.context,
            "kv_tokens": capacity.tokens(),
            "kv": capacity.kind.name(),
            "generic_kernels": self.reason,
        })
    }

    /// The same for Prometheus.
    pub(super) fn metrics(&self) -> String {
        let Card { limit, plan, .. } = &self.card;
        let mut text = String::new();
        let parts = [
            ("weights", plan.weights),
            ("kv", plan.kv),
            ("activations", plan.activations),
            ("scratch", plan.scratch),
            ("graphs", plan.graphs),
            ("context", plan.context),
        ];
        let gauge = "# TYPE sovereign_worker_vram";
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP sovereign_worker_vram_limit_bytes Bytes of the card that may be taken.");
        let _ = writeln!(text, "{gauge}_limit_bytes gauge\nsovereign_worker_vram_limit_bytes {limit}");
        let _ =
            writeln!(text, "# HELP sovereign_worker_vram_planned_bytes Bytes of the card that were planned, by part.");
        let _ = writeln!(text, "{gauge}_planned_bytes gauge");
        for (part, bytes) in parts {
            let _ = writeln!(text, "sovereign_worker_vram_planned_bytes{{part=\"{part}\"}} {bytes}");
        }
        let _ =
            writeln!(text, "# HELP sovereign_worker_vram_taken_bytes Bytes taken now, but for what the driver takes.");
        let _ = writeln!(text, "{gauge}_taken_bytes gauge\nsovereign_worker_vram_taken_bytes {}", self.taken());
        text
    }
}

pub(super) async fn memory(State(face): State<Arc<Face>>) -> Json<Value> {
    let mut told = face.on_card.as_ref().map_or_else(|| json!({}), OnCard::told);
    told["asleep"] = face.metrics.is_asleep().into();
    Json(told)
}

pub(super) async fn sleep(State(face): State<Arc<Face>>) -> Result<Json<Value>, Error> {
    let host = rest(&face, Rest::Sleep).await?;
    Ok(Json(json!({"asleep": true, "keeps_context": true, "host_bytes": host})))
}

pub(super) async fn wake(State(face): State<Arc<Face>>) -> Result<Json<Value>, Error> {
    rest(&face, Rest::Wake).await?;
    Ok(Json(json!({"asleep": false, "keeps_context": true})))
}

/// That this process may end, and the next one start from the weights that it leaves.
pub(super) async fn park(State(face): State<Arc<Face>>) -> Result<Json<Value>, Error> {
    if !face.on_card.as_ref().is_some_and(|on_card| on_card.outlived) {
        return Err(Error::bad_request("nobody holds the memory in which its weights would stay: stop it instead"));
    }
    let host = rest(&face, Rest::Park).await?;
    Ok(Json(json!({"parked": true, "host_bytes": host})))
}

/// Room for keys and values that nobody uses, given back for good.
pub(super) async fn shrink(State(face): State<Arc<Face>>) -> Result<Json<Value>, Error> {
    let bytes = rest(&face, Rest::Shrink).await?;
    Ok(Json(json!({"given_back": bytes})))
}

async fn rest(face: &Face, rest: Rest) -> Result<u64, Error> {
    if face.on_card.is_none() {
        let message = "this model runs on the processor and has nothing to give back; stop it instead";
        return Err(Error::bad_request(message));
    }
    let done = face.engine()?.rest(rest).await;
    done.map_err(|problem| Error::new(StatusCode::SERVICE_UNAVAILABLE, problem).code("no_memory"))
}

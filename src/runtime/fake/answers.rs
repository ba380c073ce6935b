//! What the double answers.

use super::{Fake, Script};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_util::stream;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The routes of one start.
pub(super) fn router(fake: Fake, script: Script, crash: CancellationToken) -> Router {
    let answers = Answers { fake, script: Arc::new(script), crash };
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(chat))
        .route("/v1/embeddings", post(chat))
        .with_state(answers)
}

#[derive(Clone)]
struct Answers {
    fake: Fake,
    script: Arc<Script>,
    crash: CancellationToken,
}

/// A request that counts as being answered as long as this lives.
struct Answering(Fake);

impl Answering {
    fn new(fake: &Fake) -> Self {
        fake.0.send_modify(|known| {
            known.journal.answering += 1;
            known.journal.requests += 1;
        });
        Self(fake.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.send_modify(|known| known.journal.answering -= 1);
    }
}

async fn chat(State(answers): State<Answers>, body: String) -> Response {
    let answering = Answering::new(&answers.fake);
    let Ok(request) = serde_json::from_str::<serde_json::Value>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let pieces = answers.script.pieces.clone();
    let tokens = pieces.len();
    let usage = serde_json::json!({"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": tokens + 3});
    if request["stream"] != true {
        tokio::select! {
            () = tokio::time::sleep(answers.script.pause) => {}
            () = answers.crash.cancelled() => {
                let broken = stream::iter([Err::<String, _>(std::io::Error::other("crashed"))]);
                return Body::from_stream(broken).into_response();
            }
        }
        let choice = serde_json::json!({"index": 0, "message": {"role": "assistant", "content": pieces.concat()}});
        let answer = serde_json::json!({"object": "chat.completion", "choices": [choice], "usage": usage});
        return axum::Json(answer).into_response();
    }
    let mut events: Vec<String> = pieces
        .iter()
        .map(|piece| serde_json::json!({"choices": [{"index": 0, "delta": {"content": piece}}]}).to_string())
        .collect();
    if request["stream_options"]["include_usage"] == true {
        events.push(serde_json::json!({"choices": [], "usage": usage}).to_string());
    }
    events.push("[DONE]".into());
    let (pause, crash) = (answers.script.pause, answers.crash.clone());
    let events = stream::unfold((events.into_iter(), answering), move |(mut events, answering)| {
        let crash = crash.clone();
        async move {
            let event = events.next()?;
            tokio::select! {
                () = tokio::time::sleep(pause) => Some((Ok(format!("data: {event}\n\n")), (events, answering))),
                () = crash.cancelled() => Some((Err(std::io::Error::other("crashed")), (events, answering))),
            }
        }
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

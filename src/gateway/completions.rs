//! Requests for answers: to a runtime, and back.

use super::Caller;
use super::ask::Ask;
use super::error::ended;
use super::events::{Events, Seen};
use super::record::Record;
use crate::app::App;
use crate::egress;
use crate::models::Wanted;
use crate::placement::{Lease, Refusal};
use crate::runtime::Endpoint;
use crate::worker::openai::{CHOSEN, Error, not_meant};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::convert::Infallible;
use std::time::{Duration, Instant};

/// How long the end of a runtime may take to be known once it has broken off.
const OBITUARY: Duration = Duration::from_secs(2);

const EMBEDDINGS: &str = "/v1/embeddings";

/// `POST /v1/chat/completions`
pub(super) async fn chat(
    State(app): State<App>,
    caller: Caller,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    forward(app, &caller, "/v1/chat/completions", body).await
}

/// `POST /v1/completions`
pub(super) async fn text(
    State(app): State<App>,
    caller: Caller,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    forward(app, &caller, "/v1/completions", body).await
}

/// `POST /v1/embeddings`
pub(super) async fn embeddings(
    State(app): State<App>,
    caller: Caller,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    forward(app, &caller, EMBEDDINGS, body).await
}

async fn forward(
    app: App,
    caller: &Caller,
    path: &str,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    let started = Instant::now();
    let ask = Ask::read(body.map_err(|rejection| Error::new(rejection.status(), rejection.body_text()))?)?;
    let Wanted { spec, name } = app.models.wanted(ask.model.as_deref().unwrap_or(&app.config.models.default))?;
    // A model that cannot help is not loaded to say so.
    match (spec.embeds, path == EMBEDDINGS) {
        (true, false) => return Err(not_meant("answers", EMBEDDINGS)),
        (false, true) => return Err(not_meant("embeddings", "/v1/chat/completions")),
        _ => {}
    }
    let lease = app.placement.acquire(spec).await?;
    let record = Record::new(app.usage.clone(), caller, lease.endpoint(), started);
    let mut passage = Passage { app, lease, record };

    let endpoint = passage.lease.endpoint();
    let request = passage.lease.client().post(endpoint.address.url(path));
    let request = request.header(header::CONTENT_TYPE, "application/json").header(CHOSEN, &name);
    let sent = request.body(ask.body).send().await;
    let answer = match sent {
        Ok(answer) => answer,
        Err(error) => return Err(passage.broken(Some(&error)).await),
    };
    let status = answer.status();
    let headers = headers(endpoint, name, answer.headers());
    if is_stream(answer.headers()) {
        let events = Events::new(ask.usage_is_ours);
        return Ok((status, headers, passage.stream(answer, events)).into_response());
    }
    match answer.bytes().await {
        Ok(body) => {
            passage.record.seen = Seen::whole(&body);
            passage.record.finish(status);
            Ok((status, headers, body).into_response())
        }
        Err(error) => Err(passage.broken(Some(&error)).await),
    }
}

/// What an answer holds on its way. Whoever streams it owns this: with the caller the request at the runtime goes, and
/// the lease.
struct Passage {
    app: App,
    lease: Lease,
    record: Record,
}

impl Passage {
    /// The answer's events as they come. A stream that breaks ends with an error that the caller can read.
    fn stream(self, answer: egress::Response, events: Events) -> Body {
        let steps = stream::unfold(Some((self, answer, events)), |state| async {
            let (mut passage, mut answer, mut events) = state?;
            loop {
                match answer.chunk().await {
                    Ok(Some(arrived)) => {
                        let passed = events.pass(&arrived, &mut passage.record.seen);
                        passage.record.arrived();
                        if !passed.is_empty() {
                            return Some((Ok::<_, Infallible>(passed), Some((passage, answer, events))));
                        }
                    }
                    Ok(None) if passage.record.seen.done || passage.record.seen.failed => {
                        let status = if passage.record.seen.failed { StatusCode::BAD_GATEWAY } else { answer.status() };
                        passage.record.finish(status);
                        return Some((Ok(events.rest()), None));
                    }
                    Ok(None) => return Some((Ok(passage.last_words(None).await), None)),
                    Err(error) => return Some((Ok(passage.last_words(Some(&error)).await), None)),
                }
            }
        });
        Body::from_stream(steps)
    }

    /// The event that ends a stream which broke.
    async fn last_words(&mut self, error: Option<&egress::HttpError>) -> Bytes {
        format!("data: {}\n\n", self.broken(error).await.body()).into()
    }

    /// Why the runtime did not answer to the end.
    async fn broken(&mut self, error: Option<&egress::HttpError>) -> Error {
        let refusal = if self.app.closing.is_cancelled() {
            Error::from(Refusal::Closing)
        } else {
            let reason = match (self.lease.ended(OBITUARY).await, error) {
                (Some(exit), _) => exit.reason,
                (None, Some(error)) => egress::causes(error),
                (None, None) => "its answer broke off".into(),
            };
            ended(&self.lease.endpoint().model, &reason)
        };
        self.record.finish(refusal.status);
        refusal
    }
}

fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}

/// The headers of an answer: what the runtime said about its body, and who the runtime was.
fn headers(endpoint: &Endpoint, model: String, answer: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let ours = ["x-should-retry", "x-sovereign-truncated"].map(HeaderName::from_static);
    for name in [header::CONTENT_TYPE, header::RETRY_AFTER].into_iter().chain(ours) {
        if let Some(value) = answer.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    if is_stream(answer) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Proxies such as nginx would otherwise collect the stream before passing it on.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    }
    let facts = [
        ("x-sovereign-runtime", endpoint.runtime.to_string()),
        (CHOSEN, model),
        ("x-sovereign-quant", endpoint.quant.clone()),
        ("x-sovereign-context", endpoint.context.to_string()),
    ];
    for (name, value) in facts {
        // What cannot stand in a header comes from a file's metadata, and is left out.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    headers
}

//! A double for tests: an OpenAI endpoint inside this process. A [`Script`] says how a model behaves, and the double
//! remembers what was asked of it.

use super::{Attribution, Claim, Endpoint, Exit, ExitWatch, Running, StartError};
use crate::egress::Address;
use crate::models::ModelSpec;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_util::stream;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The runtime's name.
pub const NAME: &str = "fake";

/// How one model behaves.
#[derive(Debug, Clone)]
pub struct Script {
    /// Host memory that it claims.
    pub ram: u64,
    /// Requests that it answers at once.
    pub slots: usize,
    /// How long a start takes.
    pub load: Duration,
    /// Why a start fails, if it does.
    pub failure: Option<String>,
    /// The pieces of its answer; each is one event of a stream.
    pub pieces: Vec<String>,
    /// The pause before each piece.
    pub pause: Duration,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            ram: 1,
            slots: 2,
            load: Duration::ZERO,
            failure: None,
            pieces: vec!["Hello".into(), " world".into()],
            pause: Duration::ZERO,
        }
    }
}

/// The double of a runtime. Clones share what they know.
#[derive(Debug, Clone, Default)]
pub struct Fake(Arc<watch::Sender<Known>>);

#[derive(Debug, Default)]
struct Known {
    scripts: HashMap<String, Script>,
    /// Host memory held by those that start or run, by start.
    held: BTreeMap<u64, u64>,
    /// Cancelled to make a model crash.
    crashes: HashMap<String, CancellationToken>,
    journal: Journal,
}

/// What was asked of a double.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Journal {
    /// Models in the order in which they were started.
    pub starts: Vec<String>,
    /// The most host memory that was held at once.
    pub peak_ram: u64,
    /// Requests being answered.
    pub answering: usize,
    /// Requests that were begun.
    pub requests: usize,
}

impl Fake {
    /// Sets how `model` behaves from its next start on.
    pub fn script(&self, model: &str, script: Script) {
        self.0.send_modify(|known| drop(known.scripts.insert(model.to_string(), script)));
    }

    /// Ends a running model as a crash would.
    pub fn crash(&self, model: &str) {
        if let Some(crash) = self.0.borrow().crashes.get(model) {
            crash.cancel();
        }
    }

    /// What was asked so far.
    pub fn journal(&self) -> Journal {
        self.0.borrow().journal.clone()
    }

    /// Returns once the journal says so.
    pub async fn until(&self, says: impl Fn(&Journal) -> bool) {
        // The sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(|known| says(&known.journal)).await;
    }
}

/// One tenant of the double.
#[derive(Debug, Clone)]
pub struct Double {
    fake: Fake,
    spec: Arc<ModelSpec>,
}

impl Double {
    /// What would serve `spec`.
    pub fn new(fake: Fake, spec: Arc<ModelSpec>) -> Self {
        Self { fake, spec }
    }

    /// The model.
    pub fn spec(&self) -> &Arc<ModelSpec> {
        &self.spec
    }

    /// What its script claims.
    pub fn need(&self) -> Claim {
        Claim { ram: self.script().ram, threads: 1, ..Claim::default() }
    }

    /// Requests that it answers at once.
    pub fn slots(&self) -> usize {
        self.script().slots
    }

    fn script(&self) -> Script {
        self.fake.0.borrow().scripts.get(&self.spec.name).cloned().unwrap_or_default()
    }

    /// Starts as its script says; see [`super::Tenant::start`].
    ///
    /// # Errors
    /// What the script says, or that no port is left.
    pub async fn start(&self, stop: &CancellationToken) -> Result<Running, StartError> {
        let script = self.script();
        let model = self.spec.name.clone();
        let held = Held::new(&self.fake, &model, script.ram);
        tokio::select! {
            () = tokio::time::sleep(script.load) => {}
            () = stop.cancelled() => return Err(StartError::Stopped),
        }
        if let Some(failure) = script.failure {
            return Err(StartError::Failed(failure));
        }
        let failed = |error: std::io::Error| StartError::Failed(error.to_string());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;

        let (exit, exits) = ExitWatch::channel();
        let (asked, crash) = (CancellationToken::new(), CancellationToken::new());
        self.fake.0.send_modify(|known| drop(known.crashes.insert(model.clone(), crash.clone())));
        let answers = Answers { fake: self.fake.clone(), script: Arc::new(script), crash: crash.clone() };
        let router = Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/completions", post(chat))
            .route("/v1/embeddings", post(chat))
            .with_state(answers);
        let ended = asked.clone();
        tokio::spawn(async move {
            let reason = tokio::select! {
                served = axum::serve(listener, router) => format!("{served:?}"),
                () = ended.cancelled() => "it was asked to".into(),
                () = crash.cancelled() => "the script says crash".into(),
            };
            // Told after its memory is back, as a process's exit is.
            drop(held);
            exit.send_replace(Some(Exit { reason }));
        });
        let endpoint = Endpoint {
            address: Address::Tcp(address),
            model,
            runtime: NAME,
            context: 4096,
            quant: self.spec.quantisation.clone(),
        };
        Ok(Running::new(Attribution::Daemon, exits, Some(endpoint), asked))
    }
}

/// Memory that a tenant occupies as long as this lives.
struct Held {
    fake: Fake,
    start: u64,
}

impl Held {
    fn new(fake: &Fake, model: &str, ram: u64) -> Self {
        let mut start = 0;
        fake.0.send_modify(|known| {
            known.journal.starts.push(model.to_string());
            start = known.journal.starts.len() as u64;
            known.held.insert(start, ram);
            known.journal.peak_ram = known.journal.peak_ram.max(known.held.values().sum());
        });
        Self { fake: fake.clone(), start }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.fake.0.send_modify(|known| {
            known.held.remove(&self.start);
        });
    }
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

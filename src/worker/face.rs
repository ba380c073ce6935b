//! The routes: a handler reads, asks, answers.

use super::answer::{Answer, Dialect};
use super::embedding::{Embedding, embeddings};
use super::engine::Engine;
use super::memory::{self, OnCard};
use super::metrics::Metrics;
use super::openai::{CHOSEN, Error, Fields, Generation, Model, Models, Tools, Wanted, chat, completion, not_meant};
use super::prompt::{self, Fitted};
use super::tokens;
use crate::engine::blocks::Chain;
use crate::engine::grammar::{Grammars, Opened};
use crate::engine::output::{Constrained, Format, Opening, Parser};
use crate::engine::sequence::Job;
use crate::engine::template::Template;
use crate::engine::tokenizer::Tokenizer;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, MatchedPath, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::sync::Arc;

/// The most bytes of a request: some hundred thousand tokens.
const BODY: usize = 4 << 20;

/// What requests are answered from.
#[derive(Debug)]
pub(super) struct Face {
    /// The model alone.
    pub(super) base: Served,
    /// The same with each of its adapters.
    pub(super) adapters: Vec<Served>,
    /// When the model came here, in seconds since 1970.
    pub(super) created: u64,
    pub(super) duty: Duty,
    pub(super) tokenizer: Arc<Tokenizer>,
    /// The bytes of the longest token.
    pub(super) longest_token: usize,
    pub(super) template: Template,
    pub(super) grammars: Grammars,
    pub(super) metrics: Arc<Metrics>,
    /// What is held of a card, if anything is.
    pub(super) on_card: Option<OnCard>,
}

/// What a request may ask for by its name.
#[derive(Debug, Clone)]
pub(super) struct Served {
    pub(super) name: Arc<str>,
    /// What its conversations begin with.
    pub(super) root: Chain,
}

/// What the model is there for.
#[derive(Debug)]
pub(super) enum Duty {
    /// It answers.
    Answers(Engine),
    /// It turns texts into vectors.
    Embeds(Embedding),
}

/// A body that may have been too long.
pub(super) type Body = Result<Bytes, BytesRejection>;

/// The routes of a worker.
pub(super) fn router(face: Arc<Face>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completion))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/memory", get(memory::memory))
        .route("/sleep", post(memory::sleep))
        .route("/wake_up", post(memory::wake))
        .route("/park", post(memory::park))
        .route("/shrink", post(memory::shrink))
        .fallback(async || Error::new(StatusCode::NOT_FOUND, "there is nothing under this path"))
        .method_not_allowed_fallback(async || {
            Error::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not answer to this method")
        })
        .layer(DefaultBodyLimit::max(BODY))
        .layer(middleware::from_fn_with_state(face.clone(), count))
        .with_state(face)
}

async fn count(State(face): State<Arc<Face>>, path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    // Paths that lead nowhere are anybody's invention, and must not become labels.
    face.metrics.request(path.as_ref().map_or("other", MatchedPath::as_str), response.status().as_u16());
    response
}

async fn chat(State(face): State<Arc<Face>>, headers: HeaderMap, body: Body) -> Result<Response, Error> {
    face.engine()?;
    let fields = fields(body)?;
    let served = face.served(&headers, &fields)?;
    let request = chat::Request::read(&fields)?;
    let (Fitted { tokens, left_out }, turn, generation) = face.blocking(move |face| face.turn(request)).await?;
    let answer = face.answer(served, Dialect::Chat, vec![tokens], None, Some(turn), generation).await?;
    Ok(prompt::tell(answer, left_out))
}

/// What is known of a model's turn in a conversation before it answers.
struct Turn {
    format: Format,
    opening: Opening,
    /// What it may call.
    tools: Vec<String>,
    /// What its calls may be.
    calls: Option<Opened>,
}

async fn completion(State(face): State<Arc<Face>>, headers: HeaderMap, body: Body) -> Result<Response, Error> {
    face.engine()?;
    let fields = fields(body)?;
    let served = face.served(&headers, &fields)?;
    let request = completion::Request::read(&fields)?;
    let generation = request.generation.clone();
    let read = move |face: &Face| -> Result<_, Error> {
        let echo = || request.prompts.iter().map(|prompt| face.prompt_text(prompt)).collect();
        Ok((face.prompts(&request)?, request.echo.then(echo)))
    };
    let (prompts, echo) = face.blocking(read).await?;
    let left_out = prompts.iter().map(|prompt| prompt.left_out).sum();
    let prompts = prompts.into_iter().map(|prompt| prompt.tokens).collect();
    let answer = face.answer(served, Dialect::Completion, prompts, echo, None, generation).await?;
    Ok(prompt::tell(answer, left_out))
}

async fn models(State(face): State<Arc<Face>>) -> Json<Models> {
    Json(Models::new(face.all().map(|served| face.model(served)).collect()))
}

async fn model(State(face): State<Arc<Face>>, Path(id): Path<String>) -> Result<Json<Model>, Error> {
    Ok(Json(face.model(face.find(&id)?)))
}

async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

async fn metrics(State(face): State<Arc<Face>>) -> impl IntoResponse {
    let on_card = face.on_card.as_ref().map(OnCard::metrics).unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], face.metrics.render() + &on_card)
}

/// Reads a body.
pub(super) fn fields(body: Body) -> Result<Fields, Error> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Error::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a request may have up to {BODY} bytes"))
        }
        status => Error::new(status, rejection.body_text()),
    })?;
    Fields::parse(&body)
}

impl Face {
    /// What answers.
    ///
    /// # Errors
    /// The model embeds.
    pub(super) fn engine(&self) -> Result<&Engine, Error> {
        match &self.duty {
            Duty::Answers(engine) => Ok(engine),
            Duty::Embeds(_) => Err(not_meant("answers", "/v1/embeddings")),
        }
    }

    /// What turns texts into vectors.
    ///
    /// # Errors
    /// The model answers.
    pub(super) fn embedding(&self) -> Result<&Embedding, Error> {
        match &self.duty {
            Duty::Embeds(embedding) => Ok(embedding),
            Duty::Answers(_) => Err(not_meant("embeddings", "/v1/chat/completions")),
        }
    }

    /// Tokens that one conversation or text may have.
    pub(super) fn context(&self) -> usize {
        match &self.duty {
            Duty::Answers(engine) => engine.context(),
            Duty::Embeds(embedding) => embedding.context(),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Served> {
        std::iter::once(&self.base).chain(&self.adapters)
    }

    /// What goes by a name.
    fn find(&self, name: &str) -> Result<&Served, Error> {
        self.all().find(|served| *served.name == *name).ok_or_else(|| {
            let names: Vec<&str> = self.all().map(|served| &*served.name).collect();
            let message = format!("there is no model {name:?} here; served: {}", names.join(", "));
            let error = Error::new(StatusCode::NOT_FOUND, message).code("model_not_found");
            Error { param: Some("model".into()), ..error }
        })
    }

    /// What a request asks for. Without adapters there is no choice, and every name stands for the model.
    fn served(&self, headers: &HeaderMap, fields: &Fields) -> Result<Served, Error> {
        let asked = fields.text("model")?;
        let chosen = headers.get(CHOSEN).and_then(|chosen| chosen.to_str().ok());
        match chosen.or(asked) {
            Some(name) if !self.adapters.is_empty() => self.find(name).cloned(),
            _ => Ok(self.base.clone()),
        }
    }

    fn model(&self, served: &Served) -> Model {
        let model = Model::new(&*served.name, self.created, Some(self.context() as u64));
        match served.name == self.base.name {
            true => model,
            false => model.with_parent(&*self.base.name),
        }
    }

    /// Does what may take long, such as reading a long text into tokens, while others are answered.
    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let face = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&face)).await;
        done.unwrap_or_else(|error| Err(Error::internal(format!("the request could not be read: {error}"))))
    }

    /// The tokens of a conversation, and what the model may say to it.
    fn turn(&self, request: chat::Request) -> Result<(Fitted, Turn, Generation), Error> {
        let (text, fitted) = self.chat_fitting(&request)?;
        let chat::Request { tools, mut generation, .. } = request;
        let format = self.template.format();
        let opening = format.opening(&text);
        let constrained = Constrained { format, opening, tokenizer: &self.tokenizer };
        let required = tools.required();
        generation.wanted = match generation.wanted {
            _ if !required.is_empty() => {
                let source = constrained.calls(&required, tools.parallel);
                Some(Wanted { source, param: "tools".into() })
            }
            Some(Wanted { source, param }) => Some(Wanted { source: constrained.behind_thought(source), param }),
            None => None,
        };
        // What must be is no less than what may be.
        let calls = if generation.wanted.is_none() { self.opened(&constrained, &tools)? } else { None };
        let turn = Turn { format, opening, tools: tools.names(), calls };
        Ok((fitted, turn, generation))
    }

    /// What keeps the arguments of calls to their schemas, once the model begins one: where that cannot be done, as a schema
    /// says what is not supported, it is not done for tools that are not strict.
    fn opened(&self, constrained: &Constrained, tools: &Tools) -> Result<Option<Opened>, Error> {
        let several = tools.parallel;
        let compile = |tools: &[Value]| {
            let tools: Vec<&Value> = tools.iter().collect();
            let (mark, source) = constrained.opened(&tools, several)?;
            Some(self.grammars.compile(&source).map(|grammar| Opened { mark, grammar, once: !several }))
        };
        if tools.offered.is_empty() {
            return Ok(None);
        }
        match compile(&tools.offered) {
            Some(Err(_)) => {}
            opened => return Ok(opened.and_then(Result::ok)),
        }
        match compile(&tools.loosened()) {
            Some(Err(error)) if tools.offered.iter().any(Tools::is_strict) => {
                let message = format!("the schema of a strict tool cannot be followed: {}", error.message);
                Err(Error::invalid("tools", message))
            }
            opened => Ok(opened.and_then(Result::ok)),
        }
    }

    async fn answer(
        self: &Arc<Self>,
        served: Served,
        dialect: Dialect,
        prompts: Vec<Vec<u32>>,
        echo: Option<Vec<String>>,
        turn: Option<Turn>,
        generation: Generation,
    ) -> Result<Response, Error> {
        let biased: Vec<u32> = generation.params.logit_bias.iter().map(|(token, _)| *token).collect();
        self.check_tokens("logit_bias", &biased)?;
        let Generation { choices, params, wanted, stop, stream, include_usage, max_tokens, .. } = generation;
        let grammar = match wanted {
            Some(wanted) => {
                let compile =
                    move |face: &Face| face.grammars.compile(&wanted.source).map_err(|error| wanted.refuse(&error));
                Some(self.blocking(compile).await?)
            }
            None => None,
        };
        let shown = turn.as_ref().map(|turn| turn.format.shown(&self.tokenizer, !turn.tools.is_empty()));
        let shown = shown.unwrap_or_default();
        let opened = turn.as_ref().and_then(|turn| turn.calls.clone());
        let parser = |turn: &Turn| Parser::new(turn.format, turn.opening, turn.tools.clone(), stream);
        let parsers = turn.iter().flat_map(|turn| (0..choices).map(move |_| parser(turn))).collect();
        let echo = echo.unwrap_or_else(|| vec![String::new(); prompts.len()]);
        let echo = echo.iter().flat_map(|echo| std::iter::repeat_n(echo.clone(), choices)).collect();
        let job = |prompt: &Vec<u32>, choice: usize| {
            let mut params = params.clone();
            // Each choice is another one, and all of them are the same the next time.
            params.seed = params.seed.map(|seed| seed.wrapping_add(choice as u64));
            let (prompt, stop, grammar) = (prompt.clone(), stop.clone(), grammar.clone());
            let (max_tokens, shown, opened) = (max_tokens.unwrap_or(usize::MAX), shown.clone(), opened.clone());
            Job { prompt, root: served.root, max_tokens, params, stop, grammar, opened, shown }
        };
        let jobs = prompts.iter().flat_map(|prompt| (0..choices).map(move |choice| (prompt, choice)));
        let logprobs = params.top_logprobs.is_some();
        let events = self.engine()?.submit(jobs.map(|(prompt, choice)| job(prompt, choice)).collect())?;
        let model = served.name;
        let answer = Answer { dialect, model, choices, echo, logprobs, include_usage, parsers, events };
        if stream { Ok(answer.stream()) } else { answer.whole().await }
    }
}

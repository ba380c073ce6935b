//! Events in, OpenAI's answers out: whole, or as a stream.

use super::engine::Events;
use super::openai::{Envelope, Error, Usage, chat, completion, finish_reason, id, now};
use crate::engine::output::{Parser, Piece};
use crate::engine::sequence::{Counts, Event, Finish, Scored};
use axum::Json;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// How often a stream that has nothing to say shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Which endpoint answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Chat,
    Completion,
}

/// An answer on its way: some choices, of one prompt or of several.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) dialect: Dialect,
    pub(super) model: Arc<str>,
    /// Choices of each prompt.
    pub(super) choices: usize,
    /// What each choice begins with.
    pub(super) echo: Vec<String>,
    pub(super) logprobs: bool,
    pub(super) include_usage: bool,
    /// What tells the parts of each choice of a chat.
    pub(super) parsers: Vec<Parser>,
    pub(super) events: Events,
}

/// What became of one choice.
#[derive(Debug, Clone, Default)]
struct Part {
    text: String,
    thought: String,
    calls: Vec<chat::ToolCall>,
    tokens: Vec<Scored>,
    finish: Option<Finish>,
    counts: Counts,
}

impl Part {
    fn add(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.text.push_str(&text),
                Piece::Reasoning(text) => self.thought.push_str(&text),
                Piece::Call(name) => self.calls.push(chat::ToolCall::new(name)),
                Piece::Arguments(text) => {
                    if let Some(call) = self.calls.last_mut() {
                        call.function.arguments.push_str(&text);
                    }
                }
            }
        }
    }
}

impl Answer {
    /// The parts of a text.
    fn parse(&mut self, index: usize, text: String) -> Vec<Piece> {
        match self.parsers.get_mut(index) {
            Some(parser) => parser.push(&text),
            None => vec![Piece::Text(text)],
        }
    }

    /// The parts that were held back until the end.
    fn parse_rest(&mut self, index: usize) -> Vec<Piece> {
        self.parsers.get_mut(index).map(Parser::finish).unwrap_or_default()
    }

    /// OpenAI's name for why a choice ended.
    fn reason(&self, index: usize, finish: Finish) -> &'static str {
        let called = self.parsers.get(index).is_some_and(Parser::has_called);
        if called && finish == Finish::Stop { "tool_calls" } else { finish_reason(finish) }
    }

    /// Waits for all of it.
    pub(super) async fn whole(mut self) -> Result<Response, Error> {
        let mut parts: Vec<Part> =
            self.echo.iter().map(|echo| Part { text: echo.clone(), ..Part::default() }).collect();
        while parts.iter().any(|part| part.finish.is_none()) {
            match self.events.recv().await {
                Some((index, Event::Text { text, tokens })) => {
                    parts[index].add(self.parse(index, text));
                    parts[index].tokens.extend(tokens);
                }
                Some((index, Event::Finished { reason, counts })) => {
                    parts[index].add(self.parse_rest(index));
                    parts[index].finish = Some(reason);
                    parts[index].counts = counts;
                }
                Some((_, Event::Failed(message))) => return Err(Error::internal(message)),
                None => return Err(Error::internal(ENDED)),
            }
        }
        let counts: Vec<Counts> = parts.iter().map(|part| part.counts).collect();
        let usage = Some(Some(usage(&counts, self.choices)));
        let parts = parts.into_iter().enumerate();
        let reason = |index: usize, finish: Option<Finish>| finish.map(|finish| self.reason(index, finish));
        Ok(match self.dialect {
            Dialect::Chat => {
                let choice = |(index, part): (usize, Part)| chat::Choice {
                    index,
                    message: chat::Message::new(part.text, part.thought, part.calls),
                    logprobs: self.logprobs.then(|| chat::Logprobs::new(&part.tokens)),
                    finish_reason: reason(index, part.finish).unwrap_or_default(),
                };
                let choices = parts.map(choice).collect();
                let (id, object) = (id("chatcmpl-").into(), "chat.completion");
                Json(Envelope { id, object, created: now(), model: self.model, choices, usage }).into_response()
            }
            Dialect::Completion => {
                let choice = |(index, part): (usize, Part)| completion::Choice {
                    index,
                    logprobs: self.logprobs.then(|| completion::Logprobs::new(&part.tokens, 0)),
                    text: part.text,
                    finish_reason: reason(index, part.finish),
                };
                let choices = parts.map(choice).collect();
                let (id, object) = (id("cmpl-").into(), "text_completion");
                Json(Envelope { id, object, created: now(), model: self.model, choices, usage }).into_response()
            }
        })
    }

    /// Sends it piece by piece.
    pub(super) fn stream(self) -> Response {
        let pieces = stream::unfold(Pieces::new(self), |mut pieces| async move {
            let data = pieces.next().await?;
            Some((Ok::<_, Infallible>(sse::Event::default().data(data)), pieces))
        });
        let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive");
        Sse::new(pieces).keep_alive(keep_alive).into_response()
    }
}

const ENDED: &str = "the engine ended before the answer was complete";

/// The prompt of several choices counts once.
fn usage(counts: &[Counts], choices: usize) -> Usage {
    let prompts = || counts.iter().step_by(choices.max(1));
    Usage::new(
        prompts().map(|counts| counts.prompt).sum(),
        prompts().map(|counts| counts.cached).sum(),
        counts.iter().map(|counts| counts.completion).sum(),
    )
}

/// The pieces of a stream.
#[derive(Debug)]
struct Pieces {
    answer: Answer,
    id: Arc<str>,
    created: u64,
    /// What is to be sent before more is received.
    ready: VecDeque<String>,
    /// What became of each choice.
    finished: Vec<Option<Counts>>,
    /// Characters of each choice that were sent.
    offsets: Vec<usize>,
    /// Calls of each choice that were begun.
    calls: Vec<usize>,
    done: bool,
}

impl Pieces {
    fn new(answer: Answer) -> Self {
        let id = id(match answer.dialect {
            Dialect::Chat => "chatcmpl-",
            Dialect::Completion => "cmpl-",
        });
        let choices = answer.echo.len();
        let mut pieces = Self {
            id: id.into(),
            created: now(),
            ready: VecDeque::new(),
            finished: vec![None; choices],
            offsets: vec![0; choices],
            calls: vec![0; choices],
            done: false,
            answer,
        };
        for index in 0..choices {
            pieces.open(index);
        }
        pieces
    }

    /// The next piece; none after the last.
    async fn next(&mut self) -> Option<String> {
        while self.ready.is_empty() && !self.done {
            match self.answer.events.recv().await {
                Some((index, Event::Text { text, tokens })) => self.text(index, text, &tokens),
                Some((index, Event::Finished { reason, counts })) => self.finish(index, reason, counts),
                Some((_, Event::Failed(message))) => self.fail(message),
                None => self.fail(ENDED.into()),
            }
        }
        self.ready.pop_front()
    }

    fn open(&mut self, index: usize) {
        let echo = std::mem::take(&mut self.answer.echo[index]);
        match self.answer.dialect {
            Dialect::Chat => {
                let content = Some(String::new());
                let delta = chat::Delta { role: Some("assistant"), content, ..chat::Delta::default() };
                self.piece(chat::ChunkChoice { index, delta, logprobs: None, finish_reason: None });
            }
            Dialect::Completion if !echo.is_empty() => {
                self.piece(completion::Choice { index, text: echo, logprobs: None, finish_reason: None });
            }
            Dialect::Completion => {}
        }
    }

    fn text(&mut self, index: usize, text: String, tokens: &[Scored]) {
        let wanted = self.answer.logprobs;
        match self.answer.dialect {
            Dialect::Chat => {
                let logprobs = wanted.then(|| chat::Logprobs::new(tokens));
                let pieces = self.answer.parse(index, text);
                self.parts(index, pieces, logprobs);
            }
            Dialect::Completion => {
                let logprobs = wanted.then(|| completion::Logprobs::new(tokens, self.offsets[index]));
                self.offsets[index] += text.chars().count();
                self.piece(completion::Choice { index, text, logprobs, finish_reason: None });
            }
        }
    }

    /// The parts of a chat, the first of them with the log-probabilities of all.
    fn parts(&mut self, index: usize, pieces: Vec<Piece>, mut logprobs: Option<chat::Logprobs>) {
        for piece in pieces {
            let mut delta = chat::Delta::default();
            match piece {
                Piece::Text(text) => delta.content = Some(text),
                Piece::Reasoning(text) => delta.thought = chat::Thought::new(Some(text)),
                Piece::Call(name) => {
                    delta.tool_calls.push(chat::CallDelta::first(self.calls[index], name));
                    self.calls[index] += 1;
                }
                Piece::Arguments(text) => {
                    delta.tool_calls.push(chat::CallDelta::more(self.calls[index].saturating_sub(1), text));
                }
            }
            self.piece(chat::ChunkChoice { index, delta, logprobs: logprobs.take(), finish_reason: None });
        }
        // What is held back of the text is not held back of the tokens.
        if logprobs.as_ref().is_some_and(|logprobs| !logprobs.content.is_empty()) {
            let delta = chat::Delta { content: Some(String::new()), ..chat::Delta::default() };
            self.piece(chat::ChunkChoice { index, delta, logprobs, finish_reason: None });
        }
    }

    fn finish(&mut self, index: usize, reason: Finish, counts: Counts) {
        let rest = self.answer.parse_rest(index);
        self.parts(index, rest, None);
        let finish_reason = Some(self.answer.reason(index, reason));
        match self.answer.dialect {
            Dialect::Chat => {
                let delta = chat::Delta::default();
                self.piece(chat::ChunkChoice { index, delta, logprobs: None, finish_reason });
            }
            Dialect::Completion => {
                self.piece(completion::Choice { index, text: String::new(), logprobs: None, finish_reason });
            }
        }
        self.finished[index] = Some(counts);
        if let Some(counts) = self.finished.iter().copied().collect::<Option<Vec<_>>>() {
            if self.answer.include_usage {
                let usage = Some(usage(&counts, self.answer.choices));
                self.envelope::<()>(Vec::new(), Some(usage));
            }
            self.ready.push_back("[DONE]".into());
            self.done = true;
        }
    }

    /// Tells an error in the middle of a stream, which ends with it.
    fn fail(&mut self, message: String) {
        self.ready.push_back(Error::internal(message).body().to_string());
        self.done = true;
    }

    fn piece<C: Serialize>(&mut self, choice: C) {
        let usage = self.answer.include_usage.then_some(None);
        self.envelope(vec![choice], usage);
    }

    fn envelope<C: Serialize>(&mut self, choices: Vec<C>, usage: Option<Option<Usage>>) {
        let object = match self.answer.dialect {
            Dialect::Chat => "chat.completion.chunk",
            Dialect::Completion => "text_completion",
        };
        let (id, created, model) = (self.id.clone(), self.created, self.answer.model.clone());
        let piece = Envelope { id, object, created, model, choices, usage };
        match serde_json::to_string(&piece) {
            Ok(data) => self.ready.push_back(data),
            Err(error) => self.fail(format!("a piece cannot be written: {error}")),
        }
    }
}

#[cfg(test)]
mod tests;

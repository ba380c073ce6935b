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
mod tests {
    use super::*;
    use crate::engine::output::{Calls, Format, Opening};
    use crate::engine::sequence::Candidate;
    use serde_json::{Value, json};
    use tokio::sync::mpsc::unbounded_channel;

    fn text(text: &str) -> Event {
        Event::Text { text: text.into(), tokens: Vec::new() }
    }

    fn finished(reason: Finish, completion: usize) -> Event {
        Event::Finished { reason, counts: Counts { prompt: 5, cached: 2, completion } }
    }

    /// An answer of two choices, whose events lie ready.
    fn answer(dialect: Dialect, events: Vec<(usize, Event)>) -> Answer {
        let (sender, receiver) = unbounded_channel();
        for event in events {
            sender.send(event).unwrap();
        }
        let echo = vec![String::new(); 2];
        let model = "m".into();
        Answer {
            dialect,
            model,
            choices: 2,
            echo,
            logprobs: false,
            include_usage: true,
            parsers: Vec::new(),
            events: receiver,
        }
    }

    fn two() -> Vec<(usize, Event)> {
        vec![
            (0, text("a")),
            (1, text("x")),
            (1, finished(Finish::Length, 1)),
            (0, text("b")),
            (0, finished(Finish::Stop, 2)),
        ]
    }

    async fn whole(answer: Answer) -> Value {
        let body = axum::body::to_bytes(answer.whole().await.unwrap().into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    /// What a stream sends, without what is the same in each piece.
    async fn pieces(answer: Answer) -> Vec<Value> {
        let mut pieces = Pieces::new(answer);
        let mut sent = Vec::new();
        while let Some(piece) = pieces.next().await {
            let Ok(mut piece) = serde_json::from_str::<Value>(&piece) else {
                sent.push(piece.into());
                continue;
            };
            if let Some(piece) = piece.as_object_mut() {
                for same in ["id", "object", "created", "model"] {
                    piece.remove(same);
                }
            }
            sent.push(piece);
        }
        sent
    }

    const USAGE: &str = r#"{"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8,
                            "prompt_tokens_details": {"cached_tokens": 2}}"#;

    #[tokio::test]
    async fn a_whole_chat() {
        let answer = whole(answer(Dialect::Chat, two())).await;
        let choice = |index: usize, content: &str, reason: &str| {
            let message = json!({"role": "assistant", "content": content, "refusal": null});
            json!({"index": index, "message": message, "logprobs": null, "finish_reason": reason})
        };
        assert_eq!(answer["choices"], json!([choice(0, "ab", "stop"), choice(1, "x", "length")]));
        assert_eq!(answer["usage"], serde_json::from_str::<Value>(USAGE).unwrap());
        assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("m")));
        assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-") && answer["created"].as_u64().unwrap() > 0);
    }

    #[tokio::test]
    async fn a_streamed_chat() {
        let sent = pieces(answer(Dialect::Chat, two())).await;
        let piece = |index: usize, delta: Value, reason: Option<&str>| {
            let choice = json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": reason});
            json!({"choices": [choice], "usage": null})
        };
        let opening = json!({"role": "assistant", "content": ""});
        let expected = [
            piece(0, opening.clone(), None),
            piece(1, opening, None),
            piece(0, json!({"content": "a"}), None),
            piece(1, json!({"content": "x"}), None),
            piece(1, json!({}), Some("length")),
            piece(0, json!({"content": "b"}), None),
            piece(0, json!({}), Some("stop")),
            json!({"choices": [], "usage": serde_json::from_str::<Value>(USAGE).unwrap()}),
            json!("[DONE]"),
        ];
        assert_eq!(sent, expected);
    }

    /// A chat whose first choice thinks, then calls; the second only talks.
    fn calling() -> Answer {
        let format = Format { calls: Calls::Hermes, reasons: true, tells_tools: true };
        let parser = || Parser::new(format, Opening::MayReason, vec!["add".into()], true);
        let events = vec![
            (0, text("<think>Hm</think>")),
            (1, text("Hi")),
            (0, text("<tool_call>{\"name\": \"add\", \"arguments\": {\"a\"")),
            (0, text(": 1}}</tool_call>")),
            (1, finished(Finish::Stop, 1)),
            (0, finished(Finish::Stop, 9)),
        ];
        Answer { parsers: vec![parser(), parser()], ..answer(Dialect::Chat, events) }
    }

    #[tokio::test]
    async fn a_whole_chat_with_a_call() {
        let answer = whole(calling()).await;
        let mut choice = answer["choices"][0].clone();
        let id = choice["message"]["tool_calls"][0]["id"].take();
        assert!(id.as_str().unwrap().starts_with("call_"));
        let function = json!({"name": "add", "arguments": "{\"a\": 1}"});
        let message = json!({"role": "assistant", "content": null, "refusal": null, "reasoning": "Hm",
            "reasoning_content": "Hm", "tool_calls": [{"id": null, "type": "function", "function": function}]});
        assert_eq!(choice["message"], message);
        assert_eq!(choice["finish_reason"], "tool_calls");
        assert_eq!(answer["choices"][1]["message"]["content"], "Hi");
        assert_eq!(answer["choices"][1]["finish_reason"], "stop");
    }

    #[tokio::test]
    async fn a_streamed_chat_with_a_call() {
        let mut deltas = Vec::new();
        let mut reason = Value::Null;
        for piece in pieces(calling()).await {
            let Some(choice) = piece["choices"].get(0).filter(|choice| choice["index"] == 0) else { continue };
            let mut delta = choice["delta"].clone();
            if let Some(id) = delta.pointer_mut("/tool_calls/0/id") {
                *id = json!(id.as_str().unwrap().starts_with("call_"));
            }
            deltas.push(delta);
            reason = choice["finish_reason"].clone();
        }
        let more = |arguments: &str| json!({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]});
        let function = json!({"name": "add", "arguments": ""});
        let expected = [
            json!({"role": "assistant", "content": ""}),
            json!({"reasoning": "Hm", "reasoning_content": "Hm"}),
            json!({"tool_calls": [{"index": 0, "id": true, "type": "function", "function": function}]}),
            more("{\"a\""),
            more(": 1}"),
            json!({}),
        ];
        assert_eq!(deltas, expected);
        assert_eq!(reason, "tool_calls");
    }

    #[tokio::test]
    async fn a_completion_begins_with_its_echo() {
        let echoing = || Answer { echo: vec!["> ".into(), "> ".into()], ..answer(Dialect::Completion, two()) };
        let answer = whole(echoing()).await;
        assert_eq!(answer["choices"][0]["text"], "> ab");
        assert_eq!(answer["object"], "text_completion");
        let sent = pieces(echoing()).await;
        let texts: Vec<&Value> = sent.iter().map(|piece| &piece["choices"][0]["text"]).collect();
        assert_eq!(texts[..4], ["> ", "> ", "a", "x"]);
    }

    #[tokio::test]
    async fn log_probabilities_stand_beside_their_text() {
        let candidate = |bytes: &[u8]| Candidate { bytes: bytes.to_vec(), logprob: -0.5 };
        let tokens = vec![Scored { chosen: candidate(b"ab"), top: vec![candidate(b"\xFF")] }];
        let events = || {
            let text = |tokens: &Vec<Scored>| Event::Text { text: "ab".into(), tokens: tokens.clone() };
            vec![(0, text(&tokens)), (0, text(&tokens)), (0, finished(Finish::Stop, 2)), (1, finished(Finish::Stop, 0))]
        };
        let answer = |dialect| Answer { logprobs: true, ..answer(dialect, events()) };
        let alternative = json!({"token": "\u{FFFD}", "logprob": -0.5, "bytes": [255]});
        let token = json!({"token": "ab", "logprob": -0.5, "bytes": [97, 98], "top_logprobs": [alternative]});
        let chat = whole(answer(Dialect::Chat)).await;
        assert_eq!(chat["choices"][0]["logprobs"], json!({"content": [token, token], "refusal": null}));
        let completion = whole(answer(Dialect::Completion)).await;
        assert_eq!(completion["choices"][0]["logprobs"]["text_offset"], json!([0, 2]));
        let sent = pieces(answer(Dialect::Completion)).await;
        assert_eq!(sent[1]["choices"][0]["logprobs"]["text_offset"], json!([2]));
    }

    #[tokio::test]
    async fn failures_are_told_in_either_form() {
        let failing = || answer(Dialect::Chat, vec![(0, text("a")), (1, Event::Failed("no memory".into()))]);
        let error = failing().whole().await.unwrap_err();
        assert_eq!((error.status.as_u16(), error.message.as_str()), (500, "no memory"));
        let sent = pieces(failing()).await;
        assert_eq!(sent.last().unwrap()["error"]["message"], "no memory");
        // The engine's end is noticed by the silence.
        let sent = pieces(answer(Dialect::Chat, vec![(0, text("a"))])).await;
        assert_eq!(sent.last().unwrap()["error"]["type"], "server_error");
    }
}

//! Prompts: what a request asks, in tokens that fit into the context.

use super::face::Face;
use super::openai::completion::{self, Prompt};
use super::openai::{Error, chat};
use crate::engine::template::Chat;
use crate::engine::tokenizer::Special;
use axum::http::HeaderValue;
use axum::response::Response;
use serde_json::Value;

/// The header that tells what was left out, where that was allowed and done: how many tokens of prompts, or how many texts
/// to embed were cut.
const TRUNCATED: &str = "x-sovereign-truncated";

/// A prompt that may have been shortened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fitted {
    pub(super) tokens: Vec<u32>,
    /// Tokens that were left out.
    pub(super) left_out: usize,
}

impl Face {
    /// The tokens of a conversation.
    pub(super) fn chat_prompt(&self, request: &chat::Request) -> Result<Vec<u32>, Error> {
        let text = self.chat_text(request, &request.messages)?;
        self.check_length("messages", &text)?;
        Ok(self.tokenizer.encode(&text, Special::Parse, true))
    }

    /// The text and tokens of a conversation, without its oldest turns where that was asked for and is needed. What the
    /// system says stays.
    pub(super) fn chat_fitting(&self, request: &chat::Request) -> Result<(String, Fitted), Error> {
        if !request.generation.truncate {
            let text = self.chat_text(request, &request.messages)?;
            self.check_length("messages", &text)?;
            let tokens = self.tokenizer.encode(&text, Special::Parse, true);
            self.check_room("messages", tokens.len())?;
            return Ok((text, Fitted { tokens, left_out: 0 }));
        }
        let role = |message: &Value| message["role"].as_str().unwrap_or_default().to_string();
        let told = request.messages.iter().take_while(|message| matches!(&*role(message), "system" | "developer"));
        let (system, turns) = request.messages.split_at(told.count());
        // Where the conversation may begin: with what a user says, last of all with the end of it.
        let mut starts: Vec<usize> = (0..turns.len()).filter(|&at| at == 0 || role(&turns[at]) == "user").collect();
        let room = self.room(request.generation.max_tokens);
        let from = |start: usize| -> Result<(String, Vec<u32>), Error> {
            let text = self.chat_text(request, &[system, &turns[start..]].concat())?;
            let tokens = self.tokenizer.encode(&text, Special::Parse, true);
            Ok((text, tokens))
        };
        let (text, whole) = from(0)?;
        if whole.len() <= room || starts.len() <= 1 {
            self.check_room("messages", whole.len())?;
            return Ok((text, Fitted { tokens: whole, left_out: 0 }));
        }
        let (all, mut fitting) = (whole.len(), None);
        while !starts.is_empty() {
            let (earlier, later) = starts.split_at(starts.len() / 2);
            let (text, tokens) = from(later[0])?;
            starts = if tokens.len() <= room {
                fitting = Some((text, tokens));
                earlier.to_vec()
            } else if later.len() == 1 && fitting.is_none() {
                return Err(self.too_long("messages", &tokens.len().to_string()));
            } else {
                later[1..].to_vec()
            };
        }
        let (text, tokens) = fitting.ok_or_else(|| self.too_long("messages", &all.to_string()))?;
        Ok((text, Fitted { left_out: all - tokens.len(), tokens }))
    }

    fn chat_text(&self, request: &chat::Request, messages: &[Value]) -> Result<String, Error> {
        let chat::Request { tools, variables, .. } = request;
        let chat = Chat { messages, tools: &tools.offered, add_generation_prompt: true, variables: variables.as_ref() };
        self.template.render(&chat).map_err(|error| Error::invalid("messages", error.to_string()))
    }

    /// The tokens of each prompt of a completion; without those that are farthest from what is to be written, where that was
    /// asked for and is needed.
    pub(super) fn prompts(&self, request: &completion::Request) -> Result<Vec<Fitted>, Error> {
        let truncate = request.generation.truncate;
        let room = if truncate { self.room(request.generation.max_tokens) } else { usize::MAX };
        let fitted = |prompt: &Prompt| -> Result<Fitted, Error> {
            let fitted = match &request.suffix {
                Some(suffix) => self.between(prompt, suffix, room)?,
                None => self.end_of(self.prompt(prompt, !truncate)?, room),
            };
            self.check_room("prompt", fitted.tokens.len())?;
            Ok(fitted)
        };
        request.prompts.iter().map(fitted).collect()
    }

    /// The tokens that ask for what stands between a prompt and a suffix.
    fn between(&self, prompt: &Prompt, suffix: &str, room: usize) -> Result<Fitted, Error> {
        let (tokens, left_out) = self.tokenizer.infill(&self.prompt_text(prompt), suffix, room).ok_or_else(|| {
            let message = format!(
                "{:?} was not trained to fill in: it has no tokens for what stands around a gap",
                self.base.name
            );
            Error::invalid("suffix", message).code("unsupported_value")
        })?;
        Ok(Fitted { tokens, left_out })
    }

    /// The last `room` tokens, after the token that texts begin with.
    fn end_of(&self, mut tokens: Vec<u32>, room: usize) -> Fitted {
        let left_out = tokens.len().saturating_sub(room);
        let first = usize::from(tokens.first().is_some_and(|first| Some(*first) == self.tokenizer.begins_with()));
        if left_out > 0 {
            tokens.drain(first..first + left_out);
        }
        Fitted { tokens, left_out }
    }

    /// Tokens that a prompt may have that is shortened: the answer has as many as it may have, or a quarter of the context.
    fn room(&self, max_tokens: Option<usize>) -> usize {
        let context = self.context();
        context - max_tokens.unwrap_or(context / 4).clamp(1, (context / 2).max(1))
    }

    fn prompt(&self, prompt: &Prompt, check: bool) -> Result<Vec<u32>, Error> {
        match prompt {
            Prompt::Text(text) => {
                if check {
                    self.check_length("prompt", text)?;
                }
                Ok(self.tokenizer.encode(text, Special::Parse, true))
            }
            Prompt::Tokens(tokens) => {
                self.check_tokens("prompt", tokens)?;
                Ok(tokens.clone())
            }
        }
    }

    pub(super) fn prompt_text(&self, prompt: &Prompt) -> String {
        match prompt {
            Prompt::Text(text) => text.clone(),
            Prompt::Tokens(tokens) => self.tokenizer.decode(tokens),
        }
    }

    /// All must be tokens of the model.
    pub(super) fn check_tokens(&self, param: &str, tokens: &[u32]) -> Result<(), Error> {
        let vocabulary = self.tokenizer.len();
        match tokens.iter().find(|token| **token as usize >= vocabulary) {
            Some(token) => {
                let message = format!("{token} is not a token of this model, which has {vocabulary}");
                Err(Error::invalid(param, message))
            }
            None => Ok(()),
        }
    }

    /// Refuses at once what cannot fit however well it splits into tokens.
    fn check_length(&self, param: &str, text: &str) -> Result<(), Error> {
        let least = text.len() / self.longest_token.max(1);
        if least > self.context() {
            return Err(self.too_long(param, &format!("at least {least}")));
        }
        Ok(())
    }

    fn check_room(&self, param: &str, tokens: usize) -> Result<(), Error> {
        match tokens {
            0 => Err(Error::invalid(param, format!("{param} is empty"))),
            tokens if tokens >= self.context() => Err(self.too_long(param, &tokens.to_string())),
            _ => Ok(()),
        }
    }

    fn too_long(&self, param: &str, tokens: &str) -> Error {
        let context = self.context();
        let message = format!(
            "the prompt has {tokens} tokens, and an answer must fit into the {context} of the context too; with \
             truncation \"auto\" its beginning is left out"
        );
        Error::invalid(param, message).code("context_length_exceeded")
    }
}

/// Says in an answer's headers what was left out of what was asked.
pub(super) fn tell(mut response: Response, left_out: usize) -> Response {
    if left_out > 0 {
        response.headers_mut().insert(TRUNCATED, HeaderValue::from(left_out));
    }
    response
}

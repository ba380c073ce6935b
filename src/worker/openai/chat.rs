//! `POST /v1/chat/completions`.

use super::generation::MAX_LOGPROBS;
use super::{Error, Fields, Generation, message};
use crate::engine::sequence::{Candidate, Scored};
use serde::Serialize;
use serde_json::{Map, Value};

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The conversation, as chat templates know it.
    pub messages: Vec<Value>,
    /// The tools that the model is told of.
    pub tools: Vec<Value>,
    /// Further variables of the template, such as `enable_thinking` (vLLM's field).
    pub variables: Option<Map<String, Value>>,
    /// How to answer.
    pub generation: Generation,
}

impl Request {
    /// Reads the fields.
    ///
    /// # Errors
    /// The first that is wrong, by its name.
    pub fn read(fields: &Fields) -> Result<Self, Error> {
        let mut generation = Generation::read(fields)?;
        let logprobs = fields.flag("logprobs")?.unwrap_or(false);
        let top = fields.integer("top_logprobs", 0..=MAX_LOGPROBS)?;
        if top.is_some_and(|top| top > 0) && !logprobs {
            return Err(Error::invalid("top_logprobs", "top_logprobs may only be set where logprobs is true"));
        }
        let top = usize::try_from(top.unwrap_or(0)).unwrap_or(0);
        generation.params.top_logprobs = logprobs.then_some(top);
        Ok(Self {
            messages: message::messages(fields)?,
            tools: message::tools(fields)?,
            variables: fields.object("chat_template_kwargs")?.cloned(),
            generation,
        })
    }
}

/// One whole answer.
#[derive(Debug, Clone, Serialize)]
pub struct Choice {
    /// Which of the answers.
    pub index: usize,
    /// The answer.
    pub message: Message,
    /// Where they were asked for.
    pub logprobs: Option<Logprobs>,
    /// Why it ended.
    pub finish_reason: &'static str,
}

/// What the model says.
#[derive(Debug, Clone, Serialize)]
pub struct Message {
    /// Always `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: String,
    /// Local models refuse within their text.
    pub refusal: Option<String>,
}

impl Message {
    /// An answer of this text.
    pub fn new(content: String) -> Self {
        Self { role: "assistant", content, refusal: None }
    }
}

/// A piece of an answer.
#[derive(Debug, Clone, Serialize)]
pub struct ChunkChoice {
    /// Which of the answers.
    pub index: usize,
    /// What it adds.
    pub delta: Delta,
    /// Where they were asked for.
    pub logprobs: Option<Logprobs>,
    /// In the last piece, why it ended.
    pub finish_reason: Option<&'static str>,
}

/// What a piece adds: the role first, then text, and nothing in the last.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Delta {
    /// Always `assistant`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// Log-probabilities of an answer, or of a piece of one.
#[derive(Debug, Clone, Serialize)]
pub struct Logprobs {
    /// One a token.
    pub content: Vec<Token>,
    /// See [`Message::refusal`].
    pub refusal: Option<Vec<Token>>,
}

/// A token that was chosen.
#[derive(Debug, Clone, Serialize)]
pub struct Token {
    /// Itself.
    #[serde(flatten)]
    pub chosen: Alternative,
    /// The likeliest in its place.
    pub top_logprobs: Vec<Alternative>,
}

/// A token that could be chosen.
#[derive(Debug, Clone, Serialize)]
pub struct Alternative {
    /// Its text, with replacement characters where its bytes are none.
    pub token: String,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Logprobs {
    /// Of these tokens.
    pub fn new(tokens: &[Scored]) -> Self {
        let alternative = |candidate: &Candidate| Alternative {
            token: String::from_utf8_lossy(&candidate.bytes).into_owned(),
            logprob: candidate.logprob,
            bytes: candidate.bytes.clone(),
        };
        let token = |scored: &Scored| Token {
            chosen: alternative(&scored.chosen),
            top_logprobs: scored.top.iter().map(alternative).collect(),
        };
        Self { content: tokens.iter().map(token).collect(), refusal: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logprobs_are_a_flag_and_a_number() {
        let check = |fields: &str, expected: Result<Option<usize>, &str>| {
            let body = format!(r#"{{"messages": [{{"role": "user", "content": "hi"}}]{fields}}}"#);
            let read = Request::read(&Fields::parse(body.as_bytes()).unwrap());
            let read = read
                .map(|request| request.generation.params.top_logprobs)
                .map_err(|error| error.param.unwrap_or_default());
            assert_eq!(read, expected.map_err(str::to_string), "{fields}");
        };
        check("", Ok(None));
        check(r#", "logprobs": false, "top_logprobs": 0"#, Ok(None));
        check(r#", "logprobs": true"#, Ok(Some(0)));
        check(r#", "logprobs": true, "top_logprobs": 64"#, Ok(Some(64)));
        check(r#", "logprobs": true, "top_logprobs": 65"#, Err("top_logprobs"));
        check(r#", "top_logprobs": 2"#, Err("top_logprobs"));
        check(r#", "logprobs": 3"#, Err("logprobs"));
    }
}

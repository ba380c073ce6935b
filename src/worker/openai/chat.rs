//! `POST /v1/chat/completions`.

use super::generation::MAX_LOGPROBS;
use super::{Error, Fields, Generation, Tools, message};
use crate::engine::sequence::{Candidate, Scored};
use serde::Serialize;
use serde_json::{Map, Value};

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The conversation, as chat templates know it.
    pub messages: Vec<Value>,
    /// The tools that the model may call.
    pub tools: Tools,
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
            tools: Tools::read(fields)?,
            variables: variables(fields)?,
            generation,
        })
    }
}

/// What templates know besides: vLLM's `chat_template_kwargs`, and what asks for no thoughts in other words.
fn variables(fields: &Fields) -> Result<Option<Map<String, Value>>, Error> {
    let mut variables = fields.object("chat_template_kwargs")?.cloned().unwrap_or_default();
    let thinks = match fields.flag("enable_thinking")? {
        None if fields.text("reasoning_effort")? == Some("none") => Some(false),
        thinks => thinks,
    };
    if let Some(thinks) = thinks {
        variables.entry("enable_thinking").or_insert(thinks.into());
    }
    Ok(Some(variables).filter(|variables| !variables.is_empty()))
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
    /// The text; none where tools are called and nothing is said.
    pub content: Option<String>,
    /// Local models refuse within their text.
    pub refusal: Option<String>,
    /// What the model thought before.
    #[serde(flatten)]
    pub thought: Thought,
    /// The tools that it calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

impl Message {
    /// An answer of this text, thought and these calls.
    pub fn new(content: String, thought: String, tool_calls: Vec<ToolCall>) -> Self {
        let content = Some(content).filter(|content| !content.is_empty() || tool_calls.is_empty());
        let thought = Thought::new(Some(thought).filter(|thought| !thought.is_empty()));
        Self { role: "assistant", content, refusal: None, thought, tool_calls }
    }
}

/// What a model thinks, which OpenAI does not show: by vLLM's name for it, and by the one that it had.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Thought {
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
}

impl Thought {
    /// Of this text.
    pub fn new(text: Option<String>) -> Self {
        Self { reasoning: text.clone(), reasoning_content: text }
    }
}

/// A call of a tool.
#[derive(Debug, Clone, Serialize)]
pub struct ToolCall {
    /// What its result refers to.
    pub id: String,
    /// Always `function`.
    pub r#type: &'static str,
    /// What is called.
    pub function: Function,
}

impl ToolCall {
    /// A call by this name, without arguments yet.
    pub fn new(name: String) -> Self {
        let function = Function { name: Some(name), arguments: String::new() };
        Self { id: super::id("call_"), r#type: "function", function }
    }
}

/// A function with arguments, or in a stream more of them.
#[derive(Debug, Clone, Serialize)]
pub struct Function {
    /// Its name; in a stream in the first piece alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// JSON.
    pub arguments: String,
}

/// A piece of a call.
#[derive(Debug, Clone, Serialize)]
pub struct CallDelta {
    /// Which of the calls.
    pub index: usize,
    /// In the first piece alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// In the first piece alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<&'static str>,
    /// What it adds.
    pub function: Function,
}

impl CallDelta {
    /// The first piece of a call.
    pub fn first(index: usize, name: String) -> Self {
        let ToolCall { id, r#type, function } = ToolCall::new(name);
        Self { index, id: Some(id), r#type: Some(r#type), function }
    }

    /// A further one.
    pub fn more(index: usize, arguments: String) -> Self {
        Self { index, id: None, r#type: None, function: Function { name: None, arguments } }
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
    /// More of what the model thinks.
    #[serde(flatten)]
    pub thought: Thought,
    /// More of its calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<CallDelta>,
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
    fn thinking_is_asked_for_in_several_words() {
        let check = |fields: &str, expected: Option<&str>| {
            let read = variables(&Fields::parse(format!("{{{fields}}}").as_bytes()).unwrap()).unwrap();
            assert_eq!(read.map(|variables| Value::from(variables).to_string()).as_deref(), expected, "{fields}");
        };
        check("", None);
        check(r#""chat_template_kwargs": {"a": 1}"#, Some(r#"{"a":1}"#));
        check(r#""enable_thinking": true"#, Some(r#"{"enable_thinking":true}"#));
        check(r#""reasoning_effort": "none""#, Some(r#"{"enable_thinking":false}"#));
        check(r#""reasoning_effort": "low""#, None);
        let both = r#""enable_thinking": false, "chat_template_kwargs": {"enable_thinking": true}"#;
        check(both, Some(r#"{"enable_thinking":true}"#));
    }

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

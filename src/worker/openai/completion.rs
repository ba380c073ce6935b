//! `POST /v1/completions`.

use super::fields::kind;
use super::generation::MAX_LOGPROBS;
use super::{Error, Fields, Generation};
use crate::engine::sequence::{Candidate, Scored};
use serde::Serialize;
use serde_json::{Map, Value};

/// Tokens of an answer unless the request says, as OpenAI has it.
const MAX_TOKENS: usize = 16;
/// The most prompts of one request.
const MAX_PROMPTS: usize = 32;

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What to go on from; each is answered by itself.
    pub prompts: Vec<Prompt>,
    /// What is to follow the answer, which then stands between the two.
    pub suffix: Option<String>,
    /// Whether answers begin with their prompt.
    pub echo: bool,
    /// How to answer; `max_tokens` is always there.
    pub generation: Generation,
}

/// A prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Text.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<u32>),
}

impl Request {
    /// Reads the fields.
    ///
    /// # Errors
    /// The first that is wrong, by its name.
    pub fn read(fields: &Fields) -> Result<Self, Error> {
        let mut generation = Generation::read(fields)?;
        generation.max_tokens.get_or_insert(MAX_TOKENS);
        let logprobs = fields.integer("logprobs", 0..=MAX_LOGPROBS)?;
        let echo = fields.flag("echo")?.unwrap_or(false);
        if echo && logprobs.is_some() {
            let message = "echo together with logprobs is not supported here: prompts are not scored";
            return Err(Error::invalid("echo", message).code("unsupported_value"));
        }
        generation.params.top_logprobs = logprobs.and_then(|top| top.try_into().ok());
        let suffix = fields.text("suffix")?.filter(|suffix| !suffix.is_empty()).map(str::to_owned);
        Ok(Self { prompts: prompts(fields, "prompt", MAX_PROMPTS)?, suffix, echo, generation })
    }
}

/// Reads the field of this name: one text or several, in either form, `most` at most.
///
/// # Errors
/// It is missing or something else.
pub(super) fn prompts(fields: &Fields, field: &str, most: usize) -> Result<Vec<Prompt>, Error> {
    let wrong = |name: &str, value: &Value| {
        let message =
            format!("{name} must be a string, an array of tokens, or an array of either, not {}", kind(value));
        Error::invalid(name, message)
    };
    let one = |name: &str, value: &Value| match value {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(list) => tokens(list).map(Prompt::Tokens).ok_or_else(|| wrong(name, value)),
        _ => Err(wrong(name, value)),
    };
    let value = fields.get(field).ok_or_else(|| Error::invalid(field, format!("{field} is missing")))?;
    match value {
        Value::Array(list) if list.is_empty() => Err(Error::invalid(field, format!("{field} must not be empty"))),
        Value::Array(list) if !list[0].is_number() => {
            if list.len() > most {
                let message = format!("{field} may be a list of up to {most}, not of {}", list.len());
                return Err(Error::invalid(field, message));
            }
            list.iter().enumerate().map(|(at, value)| one(&format!("{field}[{at}]"), value)).collect()
        }
        value => Ok(vec![one(field, value)?]),
    }
}

/// Numbers of tokens, if all are such.
pub(in crate::worker) fn tokens(list: &[Value]) -> Option<Vec<u32>> {
    list.iter().map(|token| token.as_u64()?.try_into().ok()).collect()
}

/// One answer, or a piece of one.
#[derive(Debug, Clone, Serialize)]
pub struct Choice {
    /// Which of the answers: those to the first prompt come first.
    pub index: usize,
    /// The text, or what a piece adds to it.
    pub text: String,
    /// Where they were asked for.
    pub logprobs: Option<Logprobs>,
    /// Why it ended; in a stream only the last piece says so.
    pub finish_reason: Option<&'static str>,
}

/// Log-probabilities of an answer, or of a piece of one: lists of the same length, one entry a token.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Logprobs {
    /// Where the token begins, in characters of the answer.
    pub text_offset: Vec<usize>,
    /// The natural logarithm of its probability.
    pub token_logprobs: Vec<f64>,
    /// Its text.
    pub tokens: Vec<String>,
    /// The likeliest in its place.
    pub top_logprobs: Vec<Map<String, Value>>,
}

impl Logprobs {
    /// Of these tokens, of which the first begins at `offset`.
    pub fn new(tokens: &[Scored], mut offset: usize) -> Self {
        let text = |candidate: &Candidate| match std::str::from_utf8(&candidate.bytes) {
            Ok(text) => text.to_string(),
            // As OpenAI writes them: tokens that are no characters must stay distinct keys.
            Err(_) => candidate.bytes.iter().fold("bytes:".to_string(), |text, byte| text + &format!("\\x{byte:02x}")),
        };
        let mut logprobs = Self::default();
        for token in tokens {
            logprobs.text_offset.push(offset);
            // Counts the characters that begin in this token.
            offset += token.chosen.bytes.iter().filter(|byte| **byte & 0xC0 != 0x80).count();
            logprobs.token_logprobs.push(token.chosen.logprob.into());
            logprobs.tokens.push(text(&token.chosen));
            logprobs.top_logprobs.push(token.top.iter().map(|top| (text(top), top.logprob.into())).collect());
        }
        logprobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Request, Error> {
        Request::read(&Fields::parse(body.as_bytes()).unwrap())
    }

    #[test]
    fn prompts_have_four_shapes() {
        let check = |prompt: &str, expected: &[Prompt]| {
            assert_eq!(read(&format!("{{\"prompt\": {prompt}}}")).unwrap().prompts, expected, "{prompt}");
        };
        let text = |text: &str| Prompt::Text(text.into());
        check(r#""a""#, &[text("a")]);
        check(r#"["a", "b"]"#, &[text("a"), text("b")]);
        check("[1, 2]", &[Prompt::Tokens(vec![1, 2])]);
        check("[[1, 2], [3]]", &[Prompt::Tokens(vec![1, 2]), Prompt::Tokens(vec![3])]);
    }

    #[test]
    fn refuses_by_name() {
        let check = |body: &str, param: &str| {
            let error = read(body).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{body}: {error}");
        };
        check("{}", "prompt");
        check(r#"{"prompt": 5}"#, "prompt");
        check(r#"{"prompt": []}"#, "prompt");
        check(r#"{"prompt": [1, "a"]}"#, "prompt");
        check(r#"{"prompt": [-1]}"#, "prompt");
        check(r#"{"prompt": ["a", 5]}"#, "prompt[1]");
        check(&format!("{{\"prompt\": {:?}}}", ["a"; 33]), "prompt");
        check(r#"{"prompt": "a", "logprobs": true}"#, "logprobs");
        check(r#"{"prompt": "a", "logprobs": 65}"#, "logprobs");
        check(r#"{"prompt": "a", "logprobs": 1, "echo": true}"#, "echo");
        check(r#"{"prompt": "a", "suffix": 5}"#, "suffix");
    }

    #[test]
    fn log_probabilities_count_characters() {
        let candidate = |bytes: &[u8]| Candidate { bytes: bytes.to_vec(), logprob: -1.0 };
        let scored = |bytes: &[u8]| Scored { chosen: candidate(bytes), top: vec![candidate(b"x")] };
        let tokens = [scored("é".as_bytes()), scored(b"\xF0\x9F"), scored(b"\x98\x80"), scored(b"ab"), scored(b"c")];
        let logprobs = Logprobs::new(&tokens, 2);
        assert_eq!(logprobs.text_offset, [2, 3, 4, 4, 6]);
        assert_eq!(logprobs.tokens, ["é", "bytes:\\xf0\\x9f", "bytes:\\x98\\x80", "ab", "c"]);
        assert_eq!(logprobs.top_logprobs[0].get("x"), Some(&Value::from(-1.0)));
    }
}

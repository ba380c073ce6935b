//! `POST /v1/embeddings`.

use super::completion::{Prompt, prompts};
use super::{Error, Fields};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use std::sync::Arc;

/// The most texts of one request, as OpenAI has it.
const MAX_TEXTS: usize = 2048;
/// More dimensions than any model gives.
const MAX_DIMENSIONS: i64 = 1 << 20;

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What to embed.
    pub texts: Vec<Prompt>,
    /// How vectors are written.
    pub encoding: Encoding,
    /// How many of a vector's numbers are wanted, if not all.
    pub dimensions: Option<usize>,
    /// Whether a text that is too long is cut, which a header tells, rather than refused.
    pub truncate: bool,
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As a list of numbers.
    Float,
    /// As the bytes of their floats, the lowest first, in base64.
    Base64,
}

impl Request {
    /// Reads the fields.
    ///
    /// # Errors
    /// The first that is wrong, by its name.
    pub fn read(fields: &Fields) -> Result<Self, Error> {
        let encoding = match fields.text("encoding_format")? {
            None | Some("float") => Encoding::Float,
            Some("base64") => Encoding::Base64,
            Some(other) => {
                let message = format!("encoding_format must be \"float\" or \"base64\", not {other:?}");
                return Err(Error::invalid("encoding_format", message));
            }
        };
        let dimensions = fields.integer("dimensions", 1..=MAX_DIMENSIONS)?;
        Ok(Self {
            texts: prompts(fields, "input", MAX_TEXTS)?,
            encoding,
            dimensions: dimensions.and_then(|dimensions| dimensions.try_into().ok()),
            truncate: fields.flag("truncate")?.unwrap_or(true),
        })
    }

    /// The vector as it was asked for: of length one, and with as many dimensions.
    ///
    /// # Errors
    /// The model gives fewer.
    pub fn shape(&self, mut vector: Vec<f32>) -> Result<Vector, Error> {
        let given = vector.len();
        if self.dimensions.is_some_and(|dimensions| dimensions > given) {
            let message = format!("dimensions must be from 1 to {given}, which this model's vectors have");
            return Err(Error::invalid("dimensions", message));
        }
        vector.truncate(self.dimensions.unwrap_or(given));
        let length = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 {
            vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
        Ok(match self.encoding {
            Encoding::Float => Vector::Float(vector),
            Encoding::Base64 => {
                let bytes: Vec<u8> = vector.into_iter().flat_map(f32::to_le_bytes).collect();
                Vector::Base64(BASE64_STANDARD.encode(bytes))
            }
        })
    }
}

/// A vector as it is sent.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Vector {
    /// Its numbers.
    Float(Vec<f32>),
    /// The bytes of its floats in base64.
    Base64(String),
}

/// The vector of a text.
#[derive(Debug, Clone, Serialize)]
pub struct Embedding {
    /// Always `embedding`.
    pub object: &'static str,
    /// Which of the texts.
    pub index: usize,
    /// The vector.
    pub embedding: Vector,
}

/// The answer.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    object: &'static str,
    data: Vec<Embedding>,
    model: Arc<str>,
    usage: Usage,
}

/// Tokens that a request cost: there is no answer that would cost any.
#[derive(Debug, Clone, Copy, Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl Answer {
    /// Of these vectors, in the order of their texts, which had so many tokens.
    pub fn new(model: Arc<str>, vectors: Vec<Vector>, tokens: usize) -> Self {
        let embedding = |(index, embedding)| Embedding { object: "embedding", index, embedding };
        let data = vectors.into_iter().enumerate().map(embedding).collect();
        Self { object: "list", data, model, usage: Usage { prompt_tokens: tokens, total_tokens: tokens } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Request, Error> {
        Request::read(&Fields::parse(body.as_bytes()).unwrap())
    }

    #[test]
    fn texts_come_in_four_shapes() {
        let check = |input: &str, expected: &[Prompt]| {
            assert_eq!(read(&format!("{{\"input\": {input}}}")).unwrap().texts, expected);
        };
        let text = |text: &str| Prompt::Text(text.into());
        check(r#""a""#, &[text("a")]);
        check(r#"["a", "b"]"#, &[text("a"), text("b")]);
        check("[1, 2]", &[Prompt::Tokens(vec![1, 2])]);
        check("[[1], [2, 3]]", &[Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |body: &str, param: &str, words: &str| {
            let error = read(body).unwrap_err();
            assert!(error.param.as_deref() == Some(param) && error.message.contains(words), "{error:?}");
        };
        check("{}", "input", "input is missing");
        check(r#"{"input": []}"#, "input", "must not be empty");
        check(r#"{"input": ["a", 5]}"#, "input[1]", "not an integer");
        check(r#"{"input": {"a": 1}}"#, "input", "not an object");
        check(&format!("{{\"input\": [\"a\"{}]}}", ",\"a\"".repeat(2048)), "input", "up to 2048");
        check(r#"{"input": "a", "encoding_format": "hex"}"#, "encoding_format", "\"float\" or \"base64\"");
        check(r#"{"input": "a", "dimensions": 0}"#, "dimensions", "from 1");
        check(r#"{"input": "a", "truncate": 1}"#, "truncate", "a boolean");
    }

    #[test]
    fn vectors_are_shortened_before_they_have_length_one() {
        let shape = |fields: &str, vector: &[f32]| {
            read(&format!("{{\"input\": \"a\"{fields}}}")).unwrap().shape(vector.to_vec())
        };
        assert_eq!(shape("", &[3.0, 0.0, -4.0]).unwrap(), Vector::Float(vec![0.6, 0.0, -0.8]));
        assert_eq!(shape(", \"dimensions\": 1", &[3.0, 4.0]).unwrap(), Vector::Float(vec![1.0]));
        assert_eq!(shape("", &[0.0, 0.0]).unwrap(), Vector::Float(vec![0.0, 0.0]));
        let base64 = shape(", \"encoding_format\": \"base64\"", &[2.0, 0.0]).unwrap();
        assert_eq!(base64, Vector::Base64("AACAPwAAAAA=".into()));
        let error = shape(", \"dimensions\": 3", &[3.0, 4.0]).unwrap_err();
        assert_eq!(
            (error.param.as_deref(), &*error.message),
            (Some("dimensions"), "dimensions must be from 1 to 2, which this model's vectors have")
        );
    }
}

use super::Error;
use super::constraint::{self, Wanted};
use super::fields::{Fields, kind};
use crate::engine::sampler::Params;
use serde_json::Value;

/// The most answers to one prompt.
const MAX_CHOICES: i64 = 8;
/// The most stop strings, as OpenAI has it.
const MAX_STOPS: usize = 4;
/// The most bytes of a stop string: all of one may have to be held back.
const MAX_STOP: usize = 1024;
/// The most log-probabilities a token.
pub(super) const MAX_LOGPROBS: i64 = 64;

/// The fields that chats and completions have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The most tokens of an answer, where the request says.
    pub max_tokens: Option<usize>,
    /// How many answers to each prompt.
    pub choices: usize,
    /// An answer ends before the first of these.
    pub stop: Vec<String>,
    /// How tokens are chosen.
    pub params: Params,
    /// What the answer must be.
    pub wanted: Option<Wanted>,
    /// Whether too long a prompt is shortened rather than refused.
    pub truncate: bool,
    /// Whether the answer comes in pieces.
    pub stream: bool,
    /// Whether a stream ends with its usage.
    pub include_usage: bool,
}

impl Generation {
    /// Reads the fields.
    ///
    /// # Errors
    /// The first that is wrong, by its name.
    pub fn read(fields: &Fields) -> Result<Self, Error> {
        fields.text("model")?;
        let most = i64::from(u32::MAX);
        let legacy = fields.integer("max_tokens", 0..=most)?;
        let max_tokens = fields.integer("max_completion_tokens", 0..=most)?.or(legacy);
        let stream = fields.flag("stream")?.unwrap_or(false);
        let choices = fields.integer("n", 1..=MAX_CHOICES)?.unwrap_or(1);
        if fields.integer("best_of", 1..=MAX_CHOICES)?.is_some_and(|best_of| best_of != choices) {
            return Err(Error::invalid("best_of", "best_of must be equal to n: answers are not ranked"));
        }
        Ok(Self {
            max_tokens: max_tokens.and_then(|most| most.try_into().ok()),
            choices: choices.try_into().unwrap_or(1),
            stop: stop(fields)?,
            params: params(fields)?,
            wanted: constraint::read(fields)?,
            truncate: truncate(fields)?,
            stream,
            include_usage: include_usage(fields, stream)?,
        })
    }
}

/// The word of OpenAI's responses, for all that answers.
fn truncate(fields: &Fields) -> Result<bool, Error> {
    match fields.text("truncation")? {
        None | Some("disabled") => Ok(false),
        Some("auto") => Ok(true),
        Some(other) => {
            let message = format!("truncation must be \"auto\" or \"disabled\", not {other:?}");
            Err(Error::invalid("truncation", message))
        }
    }
}

fn include_usage(fields: &Fields, stream: bool) -> Result<bool, Error> {
    let Some(options) = fields.object("stream_options")? else { return Ok(false) };
    if !stream {
        return Err(Error::invalid("stream_options", "stream_options may only be set where stream is true"));
    }
    match options.get("include_usage") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(include)) => Ok(*include),
        Some(other) => {
            let name = "stream_options.include_usage";
            Err(Error::invalid(name, format!("{name} must be a boolean, not {}", kind(other))))
        }
    }
}

fn stop(fields: &Fields) -> Result<Vec<String>, Error> {
    let stops: Vec<String> = match fields.get("stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(stops)) if stops.len() > MAX_STOPS => {
            return Err(Error::invalid(
                "stop",
                format!("stop may have up to {MAX_STOPS} strings, not {}", stops.len()),
            ));
        }
        Some(Value::Array(stops)) => {
            let text = |(at, stop): (usize, &Value)| match stop.as_str() {
                Some(stop) => Ok(stop.to_string()),
                None => {
                    let name = format!("stop[{at}]");
                    Err(Error::invalid(&name, format!("{name} must be a string, not {}", kind(stop))))
                }
            };
            stops.iter().enumerate().map(text).collect::<Result<_, _>>()?
        }
        Some(other) => {
            let message = format!("stop must be a string or an array of strings, not {}", kind(other));
            return Err(Error::invalid("stop", message));
        }
    };
    match stops.iter().find(|stop| stop.len() > MAX_STOP) {
        Some(stop) => {
            let message = format!("a stop string may have up to {MAX_STOP} bytes, not {}", stop.len());
            Err(Error::invalid("stop", message))
        }
        None => Ok(stops),
    }
}

fn params(fields: &Fields) -> Result<Params, Error> {
    let default = Params::default();
    let number = |name, range, otherwise| Ok::<f32, Error>(fields.number(name, range)?.unwrap_or(otherwise));
    Ok(Params {
        temperature: number("temperature", 0.0..=2.0, default.temperature)?,
        top_p: number("top_p", 0.0..=1.0, default.top_p)?,
        // vLLM's clients write -1 where all tokens are meant, llama.cpp's write 0.
        top_k: match fields.integer("top_k", -1..=i64::from(i32::MAX))? {
            Some(most) => usize::try_from(most).unwrap_or(0),
            None => default.top_k,
        },
        min_p: number("min_p", 0.0..=1.0, default.min_p)?,
        repetition_penalty: number("repetition_penalty", 0.01..=10.0, default.repetition_penalty)?,
        presence_penalty: number("presence_penalty", -2.0..=2.0, default.presence_penalty)?,
        frequency_penalty: number("frequency_penalty", -2.0..=2.0, default.frequency_penalty)?,
        logit_bias: logit_bias(fields)?,
        seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(i64::cast_unsigned),
        ..default
    })
}

fn logit_bias(fields: &Fields) -> Result<Vec<(u32, f32)>, Error> {
    let Some(biases) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let bias = |(token, bias): (&String, &Value)| {
        let name = format!("logit_bias.{token}");
        let Ok(token) = token.parse() else {
            return Err(Error::invalid(&name, format!("logit_bias maps numbers of tokens, but {token:?} is none")));
        };
        match bias.as_f64() {
            Some(bias) if (-100.0..=100.0).contains(&bias) => Ok((token, bias as f32)),
            _ => Err(Error::invalid(&name, format!("{name} must be a number from -100 to 100"))),
        }
    };
    biases.iter().map(bias).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Generation, Error> {
        Generation::read(&Fields::parse(body.as_bytes()).unwrap())
    }

    #[test]
    fn reads_what_clients_send() {
        let plain = read("{}").unwrap();
        assert_eq!((plain.choices, plain.max_tokens, plain.stream), (1, None, false));
        assert_eq!(plain.params, Params::default());

        let full = read(
            r#"{"model": "m", "max_tokens": 5, "max_completion_tokens": 7, "n": 2, "best_of": 2, "stop": ["a", "b"],
                "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.5, "seed": -1,
                "presence_penalty": 1, "frequency_penalty": -1, "logit_bias": {"5": -100, "7": 1.5},
                "stream": true, "stream_options": {"include_usage": true, "include_obfuscation": false},
                "response_format": {"type": "text"}, "user": "me", "unheard_of": {}}"#,
        )
        .unwrap();
        assert_eq!((full.choices, full.max_tokens, full.include_usage), (2, Some(7), true));
        assert_eq!(full.stop, ["a", "b"]);
        let params = &full.params;
        assert_eq!((params.temperature, params.top_p, params.top_k, params.min_p), (0.0, 0.5, 3, 0.1));
        assert_eq!((params.presence_penalty, params.frequency_penalty), (1.0, -1.0));
        assert_eq!((params.seed, params.repetition_penalty), (Some(u64::MAX), 1.5));
        assert_eq!(params.logit_bias, [(5, -100.0), (7, 1.5)]);

        assert_eq!(read(r#"{"stop": "x"}"#).unwrap().stop, ["x"]);
        assert_eq!(read(r#"{"top_k": -1}"#).unwrap().params.top_k, 0);
    }

    #[test]
    fn refuses_by_name() {
        let check = |body: &str, param: &str| {
            let error = read(body).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{body}: {error}");
        };
        check(r#"{"model": 3}"#, "model");
        check(r#"{"max_tokens": -1}"#, "max_tokens");
        check(r#"{"max_completion_tokens": "many"}"#, "max_completion_tokens");
        check(r#"{"n": 0}"#, "n");
        check(r#"{"n": 9}"#, "n");
        check(r#"{"n": 2, "best_of": 3}"#, "best_of");
        check(r#"{"stop": 5}"#, "stop");
        check(r#"{"stop": ["a", 5]}"#, "stop[1]");
        check(r#"{"stop": ["1", "2", "3", "4", "5"]}"#, "stop");
        check(&format!(r#"{{"stop": "{}"}}"#, "x".repeat(2000)), "stop");
        check(r#"{"temperature": 2.1}"#, "temperature");
        check(r#"{"temperature": [1]}"#, "temperature");
        check(r#"{"top_p": -0.1}"#, "top_p");
        check(r#"{"top_k": -2}"#, "top_k");
        check(r#"{"repetition_penalty": 0}"#, "repetition_penalty");
        check(r#"{"logit_bias": {"x": 1}}"#, "logit_bias.x");
        check(r#"{"logit_bias": {"4": 101}}"#, "logit_bias.4");
        check(r#"{"logit_bias": []}"#, "logit_bias");
        check(r#"{"stream": "yes"}"#, "stream");
        check(r#"{"stream_options": {}}"#, "stream_options");
        check(r#"{"stream": true, "stream_options": {"include_usage": 1}}"#, "stream_options.include_usage");
        check(r#"{"response_format": {}}"#, "response_format.type");
    }
}

//! Chat templates: the Jinja in a model's file that turns messages into the text that it was trained on.
//!
//! The environment is the one of Hugging Face's `apply_chat_template`: trimmed blocks, Python's methods on strings and
//! maps, `raise_exception`, `strftime_now`, and a `tojson` that escapes nothing. Fuel bounds what a template may do.

mod python;

use super::gguf::Metadata;
use super::output::Format;
use super::tokenizer::{Token, Tokenizer};
use super::{Error, stack};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;

/// The format of the models whose vocabulary has `<|im_start|>`.
const CHATML: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') + '<|im_end|>' + '\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// What a template may spend: an instruction costs 1, as do 64 bytes. It lasts for tens of milliseconds; real templates
/// spend some ten on a message.
const FUEL: u64 = 500_000;

/// A model's chat template.
#[derive(Debug)]
pub struct Template {
    /// The templates by name, or why there are none.
    templates: Result<Environment<'static>, String>,
    has_tools: bool,
    format: Format,
    bos: String,
    eos: String,
}

/// What is rendered.
#[derive(Debug, Clone, Default)]
pub struct Chat<'a> {
    /// The messages, in OpenAI's shape.
    pub messages: &'a [Json],
    /// The tools that the model may call, in OpenAI's shape.
    pub tools: &'a [Json],
    /// Whether the text ends where the model's answer begins.
    pub add_generation_prompt: bool,
    /// Further variables, such as `enable_thinking`.
    pub variables: Option<&'a Map<String, Json>>,
}

impl Template {
    /// The template of this file. A model that has none, or a broken one, still completes text: the error waits for the
    /// first chat.
    pub fn from_gguf(metadata: &Metadata, tokenizer: &Tokenizer) -> Template {
        const KEY: &str = "tokenizer.chat_template";
        let source = |key: &str| metadata.find::<&str>(key).map_err(|error| error.to_string());
        let chatml = || tokenizer.token("<|im_start|>").map(|_| CHATML);
        let sources = source(KEY).and_then(|chat| {
            let chat = chat.or_else(chatml).ok_or("this model has no chat template; use /v1/completions")?;
            Ok((chat, source("tokenizer.chat_template.tool_use")?))
        });
        let name = |token: Option<Token>| {
            token.map_or_else(String::new, |token| String::from_utf8_lossy(tokenizer.name(token)).into_owned())
        };
        let (bos, eos) = (name(tokenizer.bos()), name(tokenizer.eos()));
        match sources {
            Ok((chat, tools)) => Template::new(chat, tools, bos, eos),
            Err(problem) => {
                let format = Format::of("");
                Template { templates: Err(problem), has_tools: false, format, bos, eos }
            }
        }
    }

    /// The template of these sources: for chats, and for those with tools where that is another.
    pub fn new(chat: &str, tools: Option<&str>, bos: String, eos: String) -> Template {
        let templates = environment(chat, tools)
            .map_err(|error| format!("this model's chat template cannot be read: {}", describe(&error)));
        let format = Format::of(&[chat, tools.unwrap_or_default()].concat());
        Template { templates, has_tools: tools.is_some(), format, bos, eos }
    }

    /// How the model writes what is no text.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The text of a chat.
    ///
    /// # Errors
    /// [`Error::Request`] when the template refuses the messages, or they have what a text model cannot read;
    /// [`Error::Unsupported`] when there is no template or it fails.
    pub fn render(&self, chat: &Chat) -> Result<String, Error> {
        let environment = self.templates.as_ref().map_err(|problem| Error::Unsupported(problem.clone()))?;
        stack::with_room("template", || self.render_chat(environment, chat))
            .unwrap_or_else(|problem| Err(Error::Unsupported(problem)))
    }

    fn render_chat(&self, environment: &Environment, chat: &Chat) -> Result<String, Error> {
        let messages = chat.messages.iter().enumerate().map(|(at, message)| normalise(at, message));
        let messages = self.format.adapt(messages.collect::<Result<Vec<Json>, Error>>()?, chat.tools);
        // Hugging Face's convention is that the arguments of a call are an object, OpenAI's that they are its text. A
        // template that fails on the one may be made for the other.
        let objects: Vec<Json> = messages.iter().map(parse_arguments).collect();
        match self.render_messages(environment, &objects, chat) {
            Err(Error::Unsupported(_)) if objects != messages => self.render_messages(environment, &messages, chat),
            result => result,
        }
    }

    fn render_messages(&self, environment: &Environment, messages: &[Json], chat: &Chat) -> Result<String, Error> {
        let variables = chat.variables.into_iter().flatten();
        let mut context: BTreeMap<&str, Value> =
            variables.map(|(name, value)| (name.as_str(), python::value(value))).collect();
        let list = |values: &[Json]| values.iter().map(python::value).collect::<Value>();
        context.insert("messages", list(messages));
        context.insert("tools", if chat.tools.is_empty() { Value::from(()) } else { list(chat.tools) });
        // Of retrieval, which comes as messages here: Hugging Face defines it, and templates ask.
        context.entry("documents").or_insert(Value::from(()));
        context.insert("add_generation_prompt", chat.add_generation_prompt.into());
        context.insert("bos_token", self.bos.as_str().into());
        context.insert("eos_token", self.eos.as_str().into());
        let name = if self.has_tools && !chat.tools.is_empty() { "tools" } else { "chat" };
        let rendered = environment.get_template(name).and_then(|template| template.render(Value::from_pairs(context)));
        rendered.map_err(|error| match python::raised(&error) {
            Some(message) => Error::Request(format!("the model's chat template refuses the messages: {message}")),
            None if error.kind() == ErrorKind::OutOfFuel => {
                Error::Request("the model's chat template takes too long over these messages".into())
            }
            None => Error::Unsupported(format!("this model's chat template fails: {}", describe(&error))),
        })
    }
}

fn environment(chat: &str, tools: Option<&str>) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(unknown_method_callback);
    python::install(&mut environment);
    environment.add_template_owned("chat", without_generation(chat))?;
    if let Some(tools) = tools {
        environment.add_template_owned("tools", without_generation(tools))?;
    }
    Ok(environment)
}

/// `{% generation %}` marks what trainers mask; to us it is a block like any other.
fn without_generation(source: &str) -> String {
    let mut rewritten = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(len) = rest[start..].find("%}") else { break };
        let (tag, after) = (&rest[start..start + len], &rest[start + len..]);
        rewritten.push_str(&rest[..start]);
        match tag.trim_start_matches(['{', '%', '-', '+']).trim_end_matches(['-', '+']).trim() {
            "generation" => rewritten.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => rewritten.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => rewritten.push_str(tag),
        }
        rest = after;
    }
    rewritten.push_str(rest);
    rewritten
}

/// A message whose content is text, not parts of it.
fn normalise(at: usize, message: &Json) -> Result<Json, Error> {
    let Json::Object(message) = message else {
        return Err(Error::Request(format!("messages[{at}] is no object")));
    };
    let mut message = message.clone();
    if let Some(Json::Array(parts)) = message.get("content") {
        let text = |part: &Json| match (part.get("type").and_then(Json::as_str), part.get("text")) {
            (Some("text") | None, Some(Json::String(text))) => Ok(text.clone()),
            (kind, _) => Err(Error::Request(format!(
                "messages[{at}] has a part of type {:?}, but this model reads text only",
                kind.unwrap_or("none")
            ))),
        };
        let text = parts.iter().map(text).collect::<Result<String, Error>>()?;
        message.insert("content".into(), Json::String(text));
    }
    Ok(Json::Object(message))
}

/// The message with the arguments of its calls as objects.
fn parse_arguments(message: &Json) -> Json {
    let mut message = message.clone();
    let calls = message.get_mut("tool_calls").and_then(Json::as_array_mut).into_iter().flatten();
    for arguments in calls.filter_map(|call| call.get_mut("function")?.get_mut("arguments")) {
        if let Some(object @ Json::Object(_)) = arguments.as_str().and_then(|text| serde_json::from_str(text).ok()) {
            *arguments = object;
        }
    }
    message
}

/// What went wrong and where, in one line.
fn describe(error: &minijinja::Error) -> String {
    let line = error.line().map_or_else(String::new, |line| format!(" in line {line}"));
    match error.detail() {
        Some(detail) => format!("{}: {detail}{line}", error.kind()),
        None => format!("{}{line}", error.kind()),
    }
}

#[cfg(test)]
mod parity;
#[cfg(test)]
mod tests;

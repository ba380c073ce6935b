//! What templates expect of Python that Jinja in Rust does not have.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, escape_formatter};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};
use serde_json::{Map, Number, Serializer, Value as Json};
use std::io;

/// Deeper values are refused: the walk over them is recursive.
const MAX_DEPTH: usize = 64;

/// The source of errors that a template raised itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// What the template raised, where that is why it failed.
pub(super) fn raised(error: &Error) -> Option<&str> {
    let sources = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    sources.filter_map(|error| error.downcast_ref::<Raised>()).map(|raised| raised.0.as_str()).next()
}

pub(super) fn install(environment: &mut Environment) {
    environment.add_function("raise_exception", |message: &str| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message.to_owned())))
    });
    environment.add_function("strftime_now", |format: &str| {
        let now = jiff::fmt::strtime::BrokenDownTime::from(&jiff::Zoned::now());
        now.to_string(format).map_err(|error| invalid(error.to_string()))
    });
    environment.add_filter("tojson", to_json);
    // Python writes `True`, `None` and `{'key': 'value'}`.
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Bool | ValueKind::None | ValueKind::Seq | ValueKind::Map => {
            let mut text = String::new();
            repr(value, &mut text, 0)?;
            state.consume_fuel(text.len() as u64 / 16)?;
            out.write_str(&text).map_err(|_| Error::new(ErrorKind::WriteFailure, "no room for the text"))
        }
        _ => escape_formatter(out, state, value),
    });
}

/// JSON as a template's value.
pub(super) fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(bool) => Value::from(*bool),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text),
        Json::Array(items) => items.iter().map(value).collect(),
        Json::Object(entries) => Value::from_pairs(entries.iter().map(|(key, entry)| (key.as_str(), value(entry)))),
    }
}

/// `json.dumps(value, ensure_ascii=False, ...)`.
fn to_json(state: &State, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let _: Option<bool> = options.get("ensure_ascii")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let json = json(value, sort.unwrap_or(false), 0)?;
    let mut bytes = Vec::new();
    let written = match (indent, separators.as_deref()) {
        (Some(indent), _) => {
            let indent = " ".repeat(indent.min(16));
            let formatter = PrettyFormatter::with_indent(indent.as_bytes());
            json.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))
        }
        (None, separators) => {
            let (item, key) = match separators {
                Some([item, key]) => (item.as_str(), key.as_str()),
                _ => (", ", ": "),
            };
            json.serialize(&mut Serializer::with_formatter(&mut bytes, Separated { item, key }))
        }
    };
    written.map_err(|error| invalid(error.to_string()))?;
    // A walk costs more than a copy.
    state.consume_fuel(bytes.len() as u64 / 16)?;
    String::from_utf8(bytes).map(Value::from).map_err(|error| invalid(error.to_string()))
}

/// JSON in one line, with Python's separators.
struct Separated<'a> {
    item: &'a str,
    key: &'a str,
}

impl Separated<'_> {
    fn item<W: ?Sized + io::Write>(&self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }
}

impl Formatter for Separated<'_> {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }
}

fn json(value: &Value, sort: bool, depth: usize) -> Result<Json, Error> {
    check_depth(depth)?;
    Ok(match value.kind() {
        ValueKind::Undefined | ValueKind::None => Json::Null,
        ValueKind::Bool => Json::Bool(value.is_true()),
        ValueKind::Number => Json::Number(number(value)?),
        ValueKind::Seq | ValueKind::Iterable => {
            Json::Array(value.try_iter()?.map(|item| json(&item, sort, depth + 1)).collect::<Result<_, _>>()?)
        }
        ValueKind::Map => {
            let entry = |key: Value| Ok((text(&key), json(&value.get_item(&key)?, sort, depth + 1)?));
            let mut entries = value.try_iter()?.map(entry).collect::<Result<Vec<_>, Error>>()?;
            if sort {
                entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            }
            Json::Object(Map::from_iter(entries))
        }
        ValueKind::String => Json::String(text(value)),
        kind => return Err(invalid(format!("{kind} cannot be written as JSON"))),
    })
}

fn number(value: &Value) -> Result<Number, Error> {
    let float = || f64::try_from(value.clone()).ok().and_then(Number::from_f64);
    let unsigned = || u64::try_from(value.clone()).ok().map(Number::from);
    let signed = value.is_integer().then(|| value.as_i64().map(Number::from).or_else(unsigned)).flatten();
    signed.or_else(float).ok_or_else(|| invalid(format!("{value} cannot be written as JSON")))
}

/// `str(value)` of what is no string.
fn repr(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    check_depth(depth)?;
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => quote(&text(value), out),
        ValueKind::Seq => {
            out.push('[');
            for (at, item) in value.try_iter()?.enumerate() {
                out.push_str(if at == 0 { "" } else { ", " });
                repr(&item, out, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (at, key) in value.try_iter()?.enumerate() {
                out.push_str(if at == 0 { "" } else { ", " });
                repr(&key, out, depth + 1)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// Python's quotes: single ones, unless the text has such and no double ones.
fn quote(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for char in text.chars() {
        match char {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            char if char == quote => out.extend(['\\', char]),
            char => out.push(char),
        }
    }
    out.push(quote);
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn check_depth(depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH { Err(invalid(format!("a value is nested deeper than {MAX_DEPTH} levels"))) } else { Ok(()) }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

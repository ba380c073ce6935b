//! What templates expect of Python that Jinja in Rust does not have.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, escape_formatter};
use serde_json::{Map, Number, Value as Json};

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
    environment.add_filter("string", |state: &State, value: &Value| {
        let text = string(value)?;
        state.consume_fuel(text.len() as u64 / 16)?;
        Ok::<_, Error>(text)
    });
    environment.add_filter("join", join);
    // Nothing is nothing to iterate over, in Python.
    environment.add_test("iterable", |value: &Value| {
        !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number)
    });
    // Python writes `True`, `None` and `{'key': 'value'}`.
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Bool | ValueKind::None | ValueKind::Number | ValueKind::Seq | ValueKind::Map => {
            let text = string(value)?;
            state.consume_fuel(text.len() as u64 / 16)?;
            out.write_str(&text).map_err(|_| Error::new(ErrorKind::WriteFailure, "no room for the text"))
        }
        _ => escape_formatter(out, state, value),
    });
}

/// `str(value)`.
fn string(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Bool | ValueKind::None | ValueKind::Number | ValueKind::Seq | ValueKind::Map => {
            let mut text = String::new();
            repr(value, &mut text, 0)?;
            Ok(text)
        }
        _ => Ok(text(value)),
    }
}

fn join(state: &State, values: &Value, separator: Option<&str>) -> Result<String, Error> {
    let parts = match values.as_str() {
        Some(text) => text.chars().map(String::from).collect::<Vec<_>>(),
        None => values.try_iter()?.map(|value| string(&value)).collect::<Result<_, _>>()?,
    };
    let joined = parts.join(separator.unwrap_or_default());
    state.consume_fuel(joined.len() as u64 / 16)?;
    Ok(joined)
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
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.as_str(), key.as_str()),
        _ => (if indent.is_some() { "," } else { ", " }, ": "),
    };
    let dump = Dump { ascii: ascii.unwrap_or(false), indent: indent.map(|indent| indent.min(16)), item, key };
    let mut text = String::new();
    dump.value(&json(value, sort.unwrap_or(false), 0)?, 0, &mut text);
    // A walk costs more than a copy.
    state.consume_fuel(text.len() as u64 / 16)?;
    Ok(text.into())
}

/// How JSON is written.
struct Dump<'a> {
    /// Whether other characters are escaped.
    ascii: bool,
    /// Spaces a level, where each value has a line.
    indent: Option<usize>,
    item: &'a str,
    key: &'a str,
}

impl Dump<'_> {
    fn value(&self, value: &Json, level: usize, out: &mut String) {
        match value {
            Json::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                Some(number) => out.push_str(&float(number)),
                None => out.push_str(&number.to_string()),
            },
            Json::String(text) => self.string(text, out),
            Json::Array(items) if !items.is_empty() => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.before(at, level + 1, out);
                    self.value(item, level + 1, out);
                }
                self.line(level, out);
                out.push(']');
            }
            Json::Object(entries) if !entries.is_empty() => {
                out.push('{');
                for (at, (key, entry)) in entries.iter().enumerate() {
                    self.before(at, level + 1, out);
                    self.string(key, out);
                    out.push_str(self.key);
                    self.value(entry, level + 1, out);
                }
                self.line(level, out);
                out.push('}');
            }
            other => out.push_str(&other.to_string()),
        }
    }

    fn before(&self, at: usize, level: usize, out: &mut String) {
        out.push_str(if at == 0 { "" } else { self.item });
        self.line(level, out);
    }

    fn line(&self, level: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * level));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        let quoted = Json::from(text).to_string();
        if !self.ascii {
            return out.push_str(&quoted);
        }
        for char in quoted.chars() {
            match char {
                char if char.is_ascii() => out.push(char),
                char => char.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
            }
        }
    }
}

/// `repr(value)`: the shortest digits, with an exponent where it is small or large.
fn float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return value.to_string() };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ if value.fract() == 0.0 => format!("{value}.0"),
        _ => value.to_string(),
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
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(number) => out.push_str(&float(number)),
            Err(_) => out.push_str(&value.to_string()),
        },
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

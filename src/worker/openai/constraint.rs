use super::Error;
use super::fields::{Fields, describe, kind};
use crate::engine::grammar::{self, Source};
use serde_json::{Map, Value, json};

/// The most choices of an answer.
const MAX_CHOICES: usize = 1024;

/// What an answer must be, and which field says so.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The grammar.
    pub source: Source,
    /// The field, such as `response_format.json_schema.schema`.
    pub param: String,
}

impl Wanted {
    /// The error of a grammar that cannot be used: it names the field, and the place within a schema.
    pub fn refuse(&self, error: &grammar::Error) -> Error {
        let param = format!("{}{}", self.param, error.place);
        let message = format!("{param} cannot be followed: {}", error.message);
        Error::invalid(param, message)
    }
}

/// Reads what constrains an answer: OpenAI's `response_format`, vLLM's `structured_outputs` and its older `guided_*`, and
/// llama.cpp's `grammar` and `json_schema`. At most one of them can be followed.
///
/// # Errors
/// A field is wrong, or contradicts another.
pub(super) fn read(fields: &Fields) -> Result<Option<Wanted>, Error> {
    let mut wanted: Vec<Wanted> = response_format(fields)?.into_iter().collect();
    if let Some(outputs) = fields.object("structured_outputs")? {
        let known = ["json", "json_object", "regex", "choice", "grammar"];
        for key in known {
            let value = outputs.get(key).filter(|value| !value.is_null());
            wanted.extend(
                value.map(|value| one(key, &format!("structured_outputs.{key}"), value)).transpose()?.flatten(),
            );
        }
    }
    let alone = [
        ("guided_json", "json"),
        ("guided_regex", "regex"),
        ("guided_choice", "choice"),
        ("guided_grammar", "grammar"),
        ("json_schema", "json"),
        ("grammar", "grammar"),
    ];
    for (name, key) in alone {
        wanted.extend(fields.get(name).map(|value| one(key, name, value)).transpose()?.flatten());
    }
    match wanted.as_slice() {
        [first, second, ..] => {
            let message = format!("an answer can follow {} or {}, not both", first.param, second.param);
            Err(Error::invalid(&second.param, message))
        }
        _ => Ok(wanted.pop()),
    }
}

fn response_format(fields: &Fields) -> Result<Option<Wanted>, Error> {
    let Some(format) = fields.object("response_format")? else { return Ok(None) };
    let wanted = |path: &str, schema: &Value| {
        let param = format!("response_format.{path}");
        schema_source(&param, schema).map(|source| Some(Wanted { source, param }))
    };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        // llama.cpp takes a schema here too.
        Some("json_object") => wanted("schema", format.get("schema").unwrap_or(&json!({"type": "object"}))),
        Some("json_schema") => {
            let path = "response_format.json_schema";
            let described = match format.get("json_schema") {
                Some(Value::Object(described)) => described,
                other => return Err(wrong(path, "an object with a schema", other)),
            };
            check_name(described)?;
            match described.get("schema") {
                Some(schema) => wanted("json_schema.schema", schema),
                None => Err(wrong(&format!("{path}.schema"), "a schema", None)),
            }
        }
        Some(other) => {
            let message =
                format!("response_format {other:?} is not supported here: text, json_object and json_schema are");
            Err(Error::invalid("response_format.type", message).code("unsupported_value"))
        }
        None => Err(Error::invalid("response_format.type", "response_format must have a type, such as \"text\"")),
    }
}

/// OpenAI's names are short and plain. Local clients leave them out.
fn check_name(described: &Map<String, Value>) -> Result<(), Error> {
    let plain = |name: &str| {
        (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    match described.get("name") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(name)) if plain(name) => Ok(()),
        other => Err(wrong("response_format.json_schema.name", "a name of up to 64 letters, digits, _ and -", other)),
    }
}

/// What one field asks for; nothing where it is a flag that is off.
fn one(key: &str, param: &str, value: &Value) -> Result<Option<Wanted>, Error> {
    let source = match (key, value) {
        ("json", schema) => schema_source(param, schema)?,
        ("json_object", Value::Bool(false)) => return Ok(None),
        ("json_object", Value::Bool(true)) => Source::Schema(json!({"type": "object"})),
        ("json_object", other) => return Err(wrong(param, "a boolean", Some(other))),
        ("choice", Value::Array(choices)) => Source::Regex(choice(param, choices)?),
        ("choice", other) => return Err(wrong(param, "an array of strings", Some(other))),
        (_, Value::String(text)) if text.is_empty() => return Ok(None),
        ("regex", Value::String(regex)) => Source::Regex(regex.clone()),
        ("grammar", Value::String(grammar)) => Source::of_grammar(grammar),
        (_, other) => return Err(wrong(param, "a string", Some(other))),
    };
    Ok(Some(Wanted { source, param: param.into() }))
}

/// A schema, or its text.
fn schema_source(param: &str, schema: &Value) -> Result<Source, Error> {
    match schema {
        Value::Object(_) | Value::Bool(_) => Ok(Source::Schema(schema.clone())),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(Source::Schema(schema)),
            Ok(other) => Err(wrong(param, "a schema", Some(&other))),
            Err(error) => Err(Error::invalid(param, format!("{param} is not JSON: {}", describe(&error)))),
        },
        other => Err(wrong(param, "a schema, which is an object", Some(other))),
    }
}

/// An expression that matches any of `choices`.
fn choice(param: &str, choices: &[Value]) -> Result<String, Error> {
    if choices.is_empty() || choices.len() > MAX_CHOICES {
        let message = format!("{param} must have from 1 to {MAX_CHOICES} choices, not {}", choices.len());
        return Err(Error::invalid(param, message));
    }
    let escaped = |(at, choice): (usize, &Value)| match choice {
        Value::String(text) if !text.is_empty() => Ok(fancy_regex::escape(text).into_owned()),
        other => Err(wrong(&format!("{param}[{at}]"), "a string that is not empty", Some(other))),
    };
    let choices = choices.iter().enumerate().map(escaped).collect::<Result<Vec<_>, _>>()?;
    Ok(format!("({})", choices.join("|")))
}

fn wrong(param: &str, expected: &str, found: Option<&Value>) -> Error {
    Error::invalid(param, format!("{param} must be {expected}, not {}", found.map_or("missing", kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expected: Option<(Source, &str)>) {
        let wanted = read(&Fields::parse(body.as_bytes()).unwrap()).unwrap();
        let expected = expected.map(|(source, param)| Wanted { source, param: param.into() });
        assert_eq!(wanted, expected, "{body}");
    }

    #[test]
    fn formats_are_openais_vllms_and_llama_cpps() {
        let schema = |schema: Value| Source::Schema(schema);
        let null = || schema(json!({"type": "null"}));
        check("{}", None);
        check(r#"{"response_format": {"type": "text"}}"#, None);
        check(
            r#"{"response_format": {"type": "json_object"}}"#,
            Some((schema(json!({"type": "object"})), "response_format.schema")),
        );
        check(
            r#"{"response_format": {"type": "json_schema", "json_schema":
                {"name": "x", "strict": true, "schema": {"type": "null"}}}}"#,
            Some((null(), "response_format.json_schema.schema")),
        );
        check(r#"{"structured_outputs": {"json": "{\"type\": \"null\"}"}}"#, Some((null(), "structured_outputs.json")));
        check(r#"{"structured_outputs": {"json_object": false}}"#, None);
        check(
            r#"{"structured_outputs": {"choice": ["a.b", "c"]}}"#,
            Some((Source::Regex(r"(a\.b|c)".into()), "structured_outputs.choice")),
        );
        check(r#"{"guided_regex": "a+"}"#, Some((Source::Regex("a+".into()), "guided_regex")));
        check(r#"{"guided_json": {"type": "null"}}"#, Some((null(), "guided_json")));
        check(r#"{"json_schema": {"type": "null"}}"#, Some((null(), "json_schema")));
        check(r#"{"grammar": "start: \"a\""}"#, Some((Source::Lark("start: \"a\"".into()), "grammar")));
        check(r#"{"grammar": ""}"#, None);
    }

    #[test]
    fn refuses_by_name() {
        let check = |body: &str, param: &str| {
            let error = read(&Fields::parse(body.as_bytes()).unwrap()).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{body}: {error}");
        };
        check(r#"{"response_format": {}}"#, "response_format.type");
        check(r#"{"response_format": {"type": "xml"}}"#, "response_format.type");
        check(r#"{"response_format": {"type": "json_schema"}}"#, "response_format.json_schema");
        check(
            r#"{"response_format": {"type": "json_schema", "json_schema": {}}}"#,
            "response_format.json_schema.schema",
        );
        check(
            r#"{"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}"#,
            "response_format.json_schema.name",
        );
        check(r#"{"structured_outputs": {"choice": []}}"#, "structured_outputs.choice");
        check(r#"{"structured_outputs": {"choice": ["a", 1]}}"#, "structured_outputs.choice[1]");
        check(r#"{"guided_json": "{"}"#, "guided_json");
        check(r#"{"guided_json": 5}"#, "guided_json");
        check(r#"{"guided_regex": 5}"#, "guided_regex");
        check(r#"{"guided_regex": "a", "grammar": "start: \"a\""}"#, "grammar");
        check(r#"{"response_format": {"type": "json_object"}, "guided_choice": ["a"]}"#, "guided_choice");
    }

    #[test]
    fn a_grammar_that_is_refused_names_field_and_place() {
        let wanted = Wanted { source: Source::Regex(String::new()), param: "json_schema".into() };
        let error = wanted.refuse(&grammar::Error { place: ".items".into(), message: "it is odd".into() });
        assert_eq!(error.param.as_deref(), Some("json_schema.items"));
        assert_eq!(error.message, "json_schema.items cannot be followed: it is odd");
    }
}

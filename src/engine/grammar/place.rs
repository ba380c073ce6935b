//! Where in a schema something is wrong.

use super::Error;
use serde_json::{Map, Value};
use std::time::{Duration, Instant};

/// How long the place is looked for; then a part that has it is named.
const PATIENCE: Duration = Duration::from_millis(500);

/// Keywords whose value is one schema.
const ONE: [&str; 3] = ["items", "additionalProperties", "not"];
/// Those whose value maps names to schemas. Definitions come first: what refers to a wrong one is wrong as well.
const NAMED: [&str; 4] = ["$defs", "definitions", "properties", "patternProperties"];
/// Those whose value is a list of schemas.
const LISTED: [&str; 4] = ["prefixItems", "anyOf", "oneOf", "allOf"];

/// Refuses a schema that is nested deeper than `most` levels.
pub(super) fn check_depth(schema: &Value, most: usize) -> Result<(), Error> {
    let mut level: Vec<&Value> = vec![schema];
    for _ in 0..most {
        level = level
            .into_iter()
            .flat_map(|value| match value {
                Value::Object(fields) => fields.values().collect(),
                Value::Array(items) => items.iter().collect(),
                _ => Vec::new(),
            })
            .collect();
        if level.is_empty() {
            return Ok(());
        }
    }
    Err(Error { place: String::new(), message: format!("it is nested deeper than {most} levels") })
}

/// The smallest part of `schema` that is wrong by itself, where the whole is for the reason `message`. `check` says what
/// is wrong with a part.
pub(super) fn locate(schema: &Value, message: &str, check: impl Fn(&Value) -> Option<String>) -> Error {
    let begun = Instant::now();
    let mut error = Error { place: String::new(), message: message.to_string() };
    let mut part = schema;
    'deeper: loop {
        for (step, child) in children(part) {
            if begun.elapsed() > PATIENCE {
                return error;
            }
            if let Some(message) = check(&with_definitions(child, schema)) {
                error.place.push_str(&step);
                error.message = message;
                part = child;
                continue 'deeper;
            }
        }
        return error;
    }
}

/// The schemas of which `schema` is made, by the step that leads to each.
pub(super) fn children(schema: &Value) -> Vec<(String, &Value)> {
    let Value::Object(fields) = schema else { return Vec::new() };
    let mut children = Vec::new();
    for key in NAMED {
        let named = fields.get(key).and_then(Value::as_object).into_iter().flatten();
        children.extend(named.map(|(name, child)| (format!(".{key}.{name}"), child)));
    }
    for key in LISTED {
        let listed = fields.get(key).and_then(Value::as_array).into_iter().flatten();
        children.extend(listed.enumerate().map(|(at, child)| (format!(".{key}[{at}]"), child)));
    }
    children.extend(ONE.iter().filter_map(|key| Some((format!(".{key}"), fields.get(*key)?))));
    children
}

/// A schema and all of which it is made.
pub(super) fn all(schema: &Value) -> impl Iterator<Item = &Value> {
    let mut parts = vec![schema];
    std::iter::from_fn(move || {
        let part = parts.pop()?;
        parts.extend(children(part).into_iter().map(|(_, child)| child));
        Some(part)
    })
}

/// A part together with what it may refer to.
fn with_definitions(part: &Value, schema: &Value) -> Value {
    let Value::Object(fields) = part else { return part.clone() };
    let definitions = |key: &str| schema.get(key).map(|value| (key.to_string(), value.clone()));
    let mut whole: Map<String, Value> = ["$defs", "definitions"].into_iter().filter_map(definitions).collect();
    whole.extend(fields.clone());
    Value::Object(whole)
}

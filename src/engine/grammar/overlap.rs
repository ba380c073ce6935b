//! How much work it is to intersect expressions.
//!
//! What several expressions allow at once (`allOf` with patterns, `&` and `~` in Lark) is found by following them together: each
//! step takes the product of the ways in which each can go on. `llguidance` counts its steps, not what one takes, so that
//! sixty short expressions would keep it busy for ever.

use super::{Error, place};
use serde_json::{Deserializer, Value};
use std::collections::HashMap;

/// The most ways of all expressions that meet, multiplied.
const MOST: f64 = 1e5;
/// The ways of what the library itself has for a `format`, and for lengths.
const FORMAT: f64 = 16.0;
const LENGTH: f64 = 2.0;

/// Refuses a schema in which too many patterns meet.
pub(super) fn check_schema(schema: &Value) -> Result<(), Error> {
    let mut weights = Weights { schema, all: 0.0, of: HashMap::new() };
    // What a reference of another kind leads to could be any of them.
    weights.all = place::all(schema).map(own).sum();
    let mut parts = vec![(String::new(), schema)];
    while let Some((at, part)) = parts.pop() {
        check(weights.weigh(part)).map_err(|message| Error { place: at.clone(), message })?;
        parts.extend(place::children(part).into_iter().map(|(step, child)| (format!("{at}{step}"), child)));
    }
    Ok(())
}

/// Refuses a grammar in Lark that intersects too much, or has a schema within it that does.
pub(super) fn check_lark(lark: &str) -> Result<(), Error> {
    let (mut bare, mut rest) = (String::new(), lark);
    while let Some(char) = rest.chars().next() {
        let (quoted, kept) = match char {
            '"' | '/' if !rest.starts_with("//") => (quoted(rest), false),
            '/' | '#' => (rest.find('\n').unwrap_or(rest.len()), false),
            _ => (char.len_utf8(), true),
        };
        bare.push_str(if kept { &rest[..quoted] } else { "" });
        rest = &rest[quoted..];
    }
    let meet = bare.chars().filter(|char| "&~".contains(*char)).count();
    // Which expressions meet is not looked into.
    check(if meet == 0 { 0.0 } else { (meet + 1) as f64 * ways(lark).ln() })
        .map_err(|message| Error { place: String::new(), message })?;
    within(lark).try_for_each(|(schema, _)| check_schema(&schema))
}

/// The schemas within a grammar in Lark, and the bytes of each.
pub(super) fn within(lark: &str) -> impl Iterator<Item = (Value, usize)> {
    lark.match_indices("%json").filter_map(|(at, mark)| {
        let mut values = Deserializer::from_str(&lark[at + mark.len()..]).into_iter();
        let schema = values.next()?.ok()?;
        Some((schema, values.byte_offset()))
    })
}

/// The bytes of a literal or an expression, quotes included.
fn quoted(text: &str) -> usize {
    let quote = text.as_bytes()[0];
    let (mut escaped, mut at) = (false, 1);
    for &byte in &text.as_bytes()[1..] {
        at += 1;
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            byte if byte == quote => return at,
            // Neither goes on in another line: it was no quote.
            b'\n' => return at,
            _ => {}
        }
    }
    text.len()
}

fn check(weight: f64) -> Result<(), String> {
    match weight.exp() {
        ways if ways <= MOST => Ok(()),
        ways => Err(format!(
            "too many expressions must match at once: they can go on in {ways:.0e} ways, and {MOST:.0e} are supported"
        )),
    }
}

/// In how many ways an expression can go on, at most.
fn ways(expression: &str) -> f64 {
    1.0 + expression.bytes().filter(|byte| b"|?*+{".contains(byte)).count() as f64
}

/// The logarithm of the ways of what stands in a schema itself.
fn own(schema: &Value) -> f64 {
    let pattern = schema.get("pattern").and_then(Value::as_str).map_or(1.0, ways);
    let has = |key: &str, ways: f64| if schema.get(key).is_some() { ways } else { 1.0 };
    (pattern * has("format", FORMAT) * has("minLength", LENGTH) * has("maxLength", LENGTH)).ln()
}

/// Logarithms of the ways of schemas, all that meets in them included.
struct Weights<'s> {
    schema: &'s Value,
    /// Of all expressions together.
    all: f64,
    /// By reference; zero while its own parts are weighed, as what leads back to itself adds nothing.
    of: HashMap<&'s str, f64>,
}

impl<'s> Weights<'s> {
    fn weigh(&mut self, schema: &'s Value) -> f64 {
        let listed = |key: &str| schema.get(key).and_then(Value::as_array).into_iter().flatten();
        let mut weight = own(schema);
        weight += listed("allOf").map(|part| self.weigh(part)).sum::<f64>();
        for key in ["anyOf", "oneOf"] {
            weight += listed(key).map(|part| self.weigh(part)).fold(0.0, f64::max);
        }
        // Of names of properties each pair is looked at.
        let names = schema.get("patternProperties").and_then(Value::as_object).into_iter().flatten();
        let mut names: Vec<f64> = names.map(|(name, _)| ways(name).ln()).collect();
        names.sort_unstable_by(f64::total_cmp);
        weight += names.iter().rev().take(2).sum::<f64>();
        weight + schema.get("$ref").and_then(Value::as_str).map_or(0.0, |to| self.refer(to))
    }

    fn refer(&mut self, to: &'s str) -> f64 {
        if let Some(weight) = self.of.get(to) {
            return *weight;
        }
        let Some(target) = to.strip_prefix('#').and_then(|pointer| self.schema.pointer(pointer)) else {
            return self.all;
        };
        self.of.insert(to, 0.0);
        let weight = self.weigh(target);
        self.of.insert(to, weight);
        weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn patterns_that_meet_are_counted() {
        let many = |count: usize| -> Vec<Value> {
            (0..count).map(|n| json!({"type": "string", "pattern": format!(".*a{n}.*")})).collect()
        };
        let check = |schema: Value, place: Option<&str>| {
            let refused = check_schema(&schema).err();
            assert_eq!(refused.as_ref().map(|error| &*error.place), place, "{schema}: {refused:?}");
        };
        check(json!({"allOf": many(9)}), None);
        check(json!({"properties": {"a": {"allOf": many(60)}}}), Some(".properties.a"));
        check(json!({"anyOf": many(60)}), None);
        check(json!({"prefixItems": many(60)}), None);
        // One in the other, beside a choice, and through references.
        let nested = (0..60).fold(json!({}), |inner, n| json!({"pattern": format!(".*a{n}.*"), "anyOf": [inner]}));
        check(nested, Some(""));
        let chain: serde_json::Map<String, Value> = (0..60)
            .map(|n| (format!("d{n}"), json!({"pattern": format!(".*a{n}.*"), "$ref": format!("#/$defs/d{}", n + 1)})))
            .collect();
        check(json!({"$defs": chain, "$ref": "#/$defs/d50"}), Some(""));
        check(json!({"$defs": {"a": {"$ref": "#/$defs/a", "pattern": "a*"}}, "$ref": "#/$defs/a"}), None);
        check(json!({"$defs": {"a": {"anyOf": many(60)}}, "$ref": "other.json"}), Some(""));
        check(json!({"patternProperties": {"^a*": {}, "^b*": {}, "^c*": {}}}), None);
    }

    #[test]
    fn expressions_of_a_grammar_that_meet_are_counted() {
        let check = |lark: &str, fits: bool| assert_eq!(check_lark(lark).is_ok(), fits, "{lark}");
        let all = |operator: &str| {
            let parts: Vec<String> = (0..60).map(|n| format!("/(.*a{n}.*)/")).collect();
            format!("start: A\nA: {}\n", parts.join(operator))
        };
        check(&all(" | "), true);
        check(&all(" & "), false);
        check(&all(" & ~"), false);
        check("start: A\nA: /[a-z]*/ & ~/.*x.*/\n", true);
        check("start: \"a&b&c&d&e&f&g&h\" /[&~]+&&&&&&&&&&&&&\\/&&&/ # && ~~ && ~~ && ~~ && ~~ &&\n", true);
        let schema = json!({"allOf": (0..60).map(|n| json!({"pattern": format!(".*a{n}.*")})).collect::<Vec<_>>()});
        check(&format!("start: b\nb: %json {schema}\n"), false);
    }
}

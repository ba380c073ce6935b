//! Calls that are written as Python: `f(x=1, y=["a", None])`.

use super::call::Call;
use serde_json::{Map, Number, Value};

/// Deeper values are no arguments.
const MAX_DEPTH: usize = 32;

/// Reads one or several calls, in a list or one after the other, of which each may be printed; nothing where the text is
/// something else.
pub(super) fn read(text: &str) -> Option<Vec<Call>> {
    let mut reader = Reader { text, at: 0 };
    let listed = reader.eat("[");
    let mut calls = Vec::new();
    loop {
        if listed && reader.eat("]") {
            break;
        }
        calls.push(reader.call()?);
        let separated = reader.eat(",") || reader.eat(";");
        if reader.rest().is_empty() || listed && !separated && !reader.rest().starts_with(']') {
            break;
        }
    }
    (reader.rest().is_empty() && !calls.is_empty()).then_some(calls)
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn rest(&mut self) -> &'t str {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        rest
    }

    fn eat(&mut self, expected: &str) -> bool {
        let found = self.rest().starts_with(expected);
        self.at += if found { expected.len() } else { 0 };
        found
    }

    fn name(&mut self) -> Option<&'t str> {
        let rest = self.rest();
        let len = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(byte)).count();
        self.at += len;
        Some(&rest[..len]).filter(|name| !name.is_empty())
    }

    fn call(&mut self) -> Option<Call> {
        let name = self.name()?;
        if !self.eat("(") {
            return None;
        }
        if name == "print" {
            let call = self.call()?;
            return self.eat(")").then_some(call);
        }
        let mut arguments = Map::new();
        while !self.eat(")") {
            let name = self.name()?;
            if !self.eat("=") {
                return None;
            }
            arguments.insert(name.into(), self.value(0)?);
            if !self.eat(",") && !self.rest().starts_with(')') {
                return None;
            }
        }
        // Llama's own tools are called by a method.
        let name = name.strip_suffix(".call").unwrap_or(name).into();
        Some(Call { name, arguments: Value::Object(arguments).to_string() })
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.rest().chars().next()? {
            '\'' | '"' => self.string().map(Value::String),
            '[' => self.items("[", "]", depth).map(Value::Array),
            '(' => self.items("(", ")", depth).map(Value::Array),
            '{' => {
                self.eat("{");
                let mut fields = Map::new();
                while !self.eat("}") {
                    let key = self.string()?;
                    if !self.eat(":") {
                        return None;
                    }
                    fields.insert(key, self.value(depth + 1)?);
                    if !self.eat(",") && !self.rest().starts_with('}') {
                        return None;
                    }
                }
                Some(Value::Object(fields))
            }
            _ => self.word(),
        }
    }

    fn items(&mut self, open: &str, close: &str, depth: usize) -> Option<Vec<Value>> {
        self.eat(open);
        let mut items = Vec::new();
        while !self.eat(close) {
            items.push(self.value(depth + 1)?);
            if !self.eat(",") && !self.rest().starts_with(close) {
                return None;
            }
        }
        Some(items)
    }

    fn word(&mut self) -> Option<Value> {
        let rest = self.rest();
        let len = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(byte)).count();
        self.at += len;
        match &rest[..len] {
            "True" | "true" => Some(true.into()),
            "False" | "false" => Some(false.into()),
            "None" | "null" => Some(Value::Null),
            word => {
                let word = word.replace('_', "");
                let number = || word.parse().ok().and_then(Number::from_f64);
                word.parse::<i64>().map(Number::from).ok().or_else(number).map(Value::Number)
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        let quote = self.rest().chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
        let mut string = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, char)) = chars.next() {
            match char {
                char if char == quote => {
                    self.at += at + 1;
                    return Some(string);
                }
                '\\' => match chars.next()?.1 {
                    'n' => string.push('\n'),
                    't' => string.push('\t'),
                    'r' => string.push('\r'),
                    char @ ('\\' | '\'' | '"') => string.push(char),
                    char => string.extend(['\\', char]),
                },
                char => string.push(char),
            }
        }
        None
    }
}

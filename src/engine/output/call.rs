//! One call, in the JSON that models write.

use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// The longest beginning of a call up to its arguments.
const LONGEST_HEAD: usize = 4096;

/// The keys of a call.
const KEYS: [&str; 6] = ["name", "arguments", "parameters", "type", "id", "function"];

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) name: String,
    /// A JSON object, as the model wrote it.
    pub(super) arguments: String,
}

/// Reads a whole call; nothing where it is none.
pub(super) fn read(json: &str) -> Option<Call> {
    let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(json).ok()?;
    if let Some(function) = fields.get("function").filter(|function| function.get().starts_with('{')) {
        return read(function.get());
    }
    let name = fields.get("name").or_else(|| fields.get("function"))?;
    let name = serde_json::from_str(name.get()).ok()?;
    let arguments = match fields.get("arguments").or_else(|| fields.get("parameters")).map(|raw| raw.get()) {
        None | Some("null") => "{}".to_string(),
        // Some write them as OpenAI does.
        Some(text) if text.starts_with('"') => serde_json::from_str::<String>(text).ok()?,
        Some(object) => object.to_string(),
    };
    let is_object = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(&arguments).is_ok();
    is_object.then_some(Call { name, arguments })
}

/// Reads a list of calls, or one.
pub(super) fn read_all(json: &str) -> Option<Vec<Call>> {
    match serde_json::from_str::<Vec<Box<RawValue>>>(json) {
        Ok(calls) if !calls.is_empty() => calls.iter().map(|call| read(call.get())).collect(),
        Ok(_) => None,
        Err(_) => read(json).map(|call| vec![call]),
    }
}

/// What is known of a call from its beginning.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Too little.
    Open,
    /// That it is none.
    None,
    /// That only the whole tells.
    Whole,
    /// Its name, and where its arguments begin.
    Arguments(String, usize),
}

/// Reads the beginning of a call.
pub(super) fn head(text: &str) -> Head {
    match (Reader { text, at: 0 }).head() {
        Some(head) => head,
        None if text.len() > LONGEST_HEAD => Head::None,
        None => Head::Open,
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl Reader<'_> {
    /// None where the text ends too early.
    fn head(mut self) -> Option<Head> {
        let mut name = None;
        if !self.eat('{')? {
            return Some(Head::None);
        }
        loop {
            self.peek()?;
            let rest = &self.text[self.at..];
            // At once, so that an answer which is other JSON flows.
            if !KEYS.iter().any(|key| {
                let key = format!("\"{key}\"");
                key.starts_with(rest) || rest.starts_with(&key)
            }) {
                return Some(Head::None);
            }
            let key = self.string()?;
            if !self.eat(':')? {
                return Some(Head::None);
            }
            match (key.as_deref(), self.peek()?) {
                (Some("arguments" | "parameters"), '{') => {
                    return Some(name.map_or(Head::Whole, |name| Head::Arguments(name, self.at)));
                }
                (Some("name" | "function"), '"') => name = self.string()?,
                (Some("type" | "id"), '"') => drop(self.string()?),
                _ => return Some(Head::Whole),
            }
            if !self.eat(',')? {
                // It ends without arguments, or is broken.
                return Some(Head::Whole);
            }
        }
    }

    fn peek(&mut self) -> Option<char> {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        rest.chars().next()
    }

    fn eat(&mut self, expected: char) -> Option<bool> {
        let found = self.peek()? == expected;
        self.at += if found { 1 } else { 0 };
        Some(found)
    }

    /// A string, which inside may be none.
    fn string(&mut self) -> Option<Option<String>> {
        self.peek()?;
        let mut scan = Scan::at(self.at);
        let end = scan.string_end(self.text)?;
        let string = serde_json::from_str(&self.text[self.at..end]).ok();
        self.at = end;
        Some(string)
    }
}

/// Finds where a bracketed value ends, in a text that grows.
#[derive(Debug, Default)]
pub(super) struct Scan {
    at: usize,
    depth: usize,
    quote: Option<u8>,
    escaped: bool,
}

impl Scan {
    /// From a place on.
    pub(super) fn at(at: usize) -> Self {
        Self { at, ..Self::default() }
    }

    /// The end of the value, once it is there. Python quotes with either quote.
    pub(super) fn end(&mut self, text: &str, python: bool) -> Option<usize> {
        while let Some(byte) = text.as_bytes().get(self.at) {
            self.at += 1;
            match (self.quote, byte) {
                (Some(_), _) => self.quoted(*byte),
                (None, b'"') => self.quote = Some(b'"'),
                (None, b'\'') if python => self.quote = Some(b'\''),
                (None, b'{' | b'[' | b'(') => self.depth += 1,
                (None, b'}' | b']' | b')') => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(self.at);
                    }
                }
                _ => {}
            }
        }
        None
    }

    fn string_end(&mut self, text: &str) -> Option<usize> {
        while let Some(byte) = text.as_bytes().get(self.at) {
            self.at += 1;
            match self.quote {
                None => self.quote = Some(b'"'),
                Some(_) => {
                    self.quoted(*byte);
                    if self.quote.is_none() {
                        return Some(self.at);
                    }
                }
            }
        }
        None
    }

    fn quoted(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            byte if Some(byte) == self.quote => self.quote = None,
            _ => {}
        }
    }
}

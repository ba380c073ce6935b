//! The grammars of answers that must be a call, and of calls that a model has begun.

use super::{Calls, Format, Opening, THINK, control};
use crate::engine::grammar::{Source, unanchored, with_options};
use crate::engine::tokenizer::{Token, Tokenizer};
use serde_json::{Value, json};
use std::fmt::Write;

/// What the grammar of an answer has to know of it.
#[derive(Debug, Clone, Copy)]
pub struct Constrained<'a> {
    /// The model's marks.
    pub format: Format,
    /// How the answer begins.
    pub opening: Opening,
    /// The model's tokens.
    pub tokenizer: &'a Tokenizer,
}

impl Constrained<'_> {
    /// An answer that calls one of `tools`, which are in OpenAI's shape, or several of them.
    pub fn calls(&self, tools: &[&Value], several: bool) -> Source {
        let mut lark = self.rules(tools);
        let more = |separated: &str| if several { format!("({separated})*") } else { String::new() };
        let start = match self.format.calls {
            Calls::Hermes => {
                let (open, close) = (self.mark("<tool_call>"), self.mark("</tool_call>"));
                let _ = writeln!(lark, "marked: {open} \"\\n\" call \"\\n\" {close}");
                format!("marked {}", more("\"\\n\" marked"))
            }
            Calls::Mistral => format!("{} \"[\" call {} \"]\"", self.mark("[TOOL_CALLS]"), more("\", \" call")),
            Calls::MistralNamed => {
                let _ = writeln!(lark, "marked: {} call", self.mark("[TOOL_CALLS]"));
                format!("marked {}", more("marked"))
            }
            // These call one at a time.
            Calls::Llama | Calls::Json => "call".into(),
        };
        Source::Lark(self.after_thought(&start, &lark))
    }

    /// The token by which a model begins a call of its own accord, and what follows it up to the call's end; none where it is
    /// no token, so that nothing tells a call from text before it is over.
    pub fn opened(&self, tools: &[&Value], several: bool) -> Option<(Token, Source)> {
        let (mark, start) = match self.format.calls {
            Calls::Hermes => ("<tool_call>", format!("LINE? call LINE? {}", self.mark("</tool_call>"))),
            Calls::Mistral if several => ("[TOOL_CALLS]", "\"[\" call (\", \" call)* \"]\"".into()),
            Calls::Mistral => ("[TOOL_CALLS]", "\"[\" call \"]\"".into()),
            Calls::MistralNamed => ("[TOOL_CALLS]", "call".into()),
            Calls::Llama | Calls::Json => return None,
        };
        let token = self.tokenizer.token(mark)?;
        Some((token, Source::Lark(format!("start: {start}\nLINE: \"\\n\"\n{}", self.rules(tools)))))
    }

    /// The rule `call`: one of `tools` with its arguments, as the family writes it.
    fn rules(&self, tools: &[&Value]) -> String {
        let key = match self.format.calls {
            Calls::Hermes | Calls::Mistral | Calls::MistralNamed => "arguments",
            Calls::Llama | Calls::Json => "parameters",
        };
        let mut lark = String::new();
        for (at, tool) in tools.iter().enumerate() {
            let name = tool.pointer("/function/name").and_then(Value::as_str).unwrap_or_default();
            let arguments = with_options(&parameters(tool));
            let _ = match self.format.calls {
                Calls::MistralNamed => {
                    let (name, mark) = (literal(name), self.mark("[ARGS]"));
                    writeln!(lark, "call_{at}: {name} {mark} %json {arguments}")
                }
                _ => {
                    let head = literal(&format!("{{\"name\": {}, \"{key}\": ", json!(name)));
                    writeln!(lark, "call_{at}: {head} %json {arguments} \"}}\"")
                }
            };
        }
        let choices: Vec<String> = (0..tools.len()).map(|at| format!("call_{at}")).collect();
        let _ = writeln!(lark, "call: {}", choices.join(" | "));
        lark
    }

    /// An answer that `source` describes, behind what the model thinks before it.
    pub fn behind_thought(&self, source: Source) -> Source {
        match (self.opening, source) {
            (Opening::Plain, source) => source,
            (_, Source::Schema(schema)) => {
                Source::Lark(self.after_thought("content", &format!("content: %json {}\n", with_options(&schema))))
            }
            (_, Source::Regex(regex)) => {
                let regex = unanchored(&regex).replace('/', "\\/").replace('\n', "\\n");
                Source::Lark(self.after_thought("content", &format!("content: /{regex}/\n")))
            }
            // Whoever writes a grammar writes all of it.
            (_, grammar) => grammar,
        }
    }

    fn after_thought(&self, start: &str, rules: &str) -> String {
        let [open, close] = THINK.map(|mark| self.mark(mark));
        // Text does not reach control tokens, so that it may go as far as it can.
        let reasoned = match control(self.tokenizer, THINK[1]) {
            Some(_) => format!("/(?s:.*)/ {close}"),
            None => "reasoned".to_string(),
        };
        let thought = format!("thought: {reasoned} LINES?\nLINES: /\\n{{1,4}}/\nreasoned[lazy]: /(?s:.*)<\\/think>/\n");
        match self.opening {
            Opening::Plain => format!("start: {start}\n{rules}"),
            Opening::MayReason => format!("start: ({open} thought)? {start}\n{thought}{rules}"),
            Opening::Reasoning => format!("start: thought {start}\n{thought}{rules}"),
        }
    }

    /// A mark as Lark writes it: text, or the token that it is.
    fn mark(&self, mark: &str) -> String {
        match control(self.tokenizer, mark) {
            Some(token) => format!("<[{token}]>"),
            None => literal(mark),
        }
    }
}

/// The schema of a tool's arguments, which are an object whatever it says.
fn parameters(tool: &Value) -> Value {
    let mut schema =
        tool.pointer("/function/parameters").filter(|schema| schema.is_object()).cloned().unwrap_or(json!({}));
    if let Value::Object(fields) = &mut schema
        && !fields.contains_key("type")
        && !fields.contains_key("$ref")
    {
        fields.insert("type".into(), "object".into());
    }
    schema
}

/// Text as Lark writes it.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

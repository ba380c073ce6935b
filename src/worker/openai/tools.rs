use super::Error;
use super::fields::{Fields, kind};
use serde_json::Value;

/// The most tools of a request, as OpenAI has it.
const MAX_TOOLS: usize = 128;

/// The tools that a model may call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tools {
    /// What it is told of, in OpenAI's shape.
    pub offered: Vec<Value>,
    /// Whether it calls one.
    pub choice: ToolChoice,
    /// Whether it may call several at once.
    pub parallel: bool,
}

/// Whether a model calls a tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it likes.
    #[default]
    Auto,
    /// It must call one.
    Required,
    /// It must call this one.
    Named(String),
}

impl Tools {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`. Of tools that may not be called the model is not told.
    ///
    /// # Errors
    /// The first field that is wrong, by its path.
    pub(super) fn read(fields: &Fields) -> Result<Self, Error> {
        let mut offered = fields.list("tools")?.cloned().unwrap_or_default();
        if offered.len() > MAX_TOOLS {
            let message = format!("a request may have up to {MAX_TOOLS} tools, not {}", offered.len());
            return Err(Error::invalid("tools", message));
        }
        offered.iter().enumerate().try_for_each(|(at, tool)| check(&format!("tools[{at}]"), tool))?;
        let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true);
        let choice = match fields.get("tool_choice") {
            None => ToolChoice::Auto,
            Some(Value::String(choice)) if choice == "none" => {
                offered.clear();
                ToolChoice::Auto
            }
            Some(Value::String(choice)) => word("tool_choice", choice)?,
            Some(choice) => match choice.get("type").and_then(Value::as_str) {
                Some("function") => {
                    let name = choice.pointer("/function/name").and_then(Value::as_str);
                    ToolChoice::Named(name.ok_or_else(|| wrong("tool_choice.function.name", "a name"))?.into())
                }
                Some("allowed_tools") => {
                    let path = "tool_choice.allowed_tools";
                    let allowed = choice.get("allowed_tools").ok_or_else(|| wrong(path, "an object"))?;
                    let list = allowed.get("tools").and_then(Value::as_array);
                    let list = list.ok_or_else(|| wrong(&format!("{path}.tools"), "an array of tools"))?;
                    let names: Vec<&str> = list.iter().filter_map(name).collect();
                    offered.retain(|tool| name(tool).is_some_and(|name| names.contains(&name)));
                    word(&format!("{path}.mode"), allowed.get("mode").and_then(Value::as_str).unwrap_or("auto"))?
                }
                _ => return Err(wrong("tool_choice", "none, auto, required, or an object that names a function")),
            },
        };
        let tools = Self { offered, choice, parallel };
        match &tools.choice {
            ToolChoice::Required if tools.offered.is_empty() => {
                Err(Error::invalid("tool_choice", "tool_choice requires a tool, but there is none"))
            }
            ToolChoice::Named(name) if !tools.names().contains(name) => {
                let message = format!("tool_choice names {name:?}, which is none of the tools");
                Err(Error::invalid("tool_choice.function.name", message))
            }
            _ => Ok(tools),
        }
    }

    /// What they are called.
    pub fn names(&self) -> Vec<String> {
        self.offered.iter().filter_map(name).map(str::to_string).collect()
    }

    /// Whether the arguments of one must be as its schema has them (OpenAI's `strict`); those of others are where that can be.
    pub fn is_strict(tool: &Value) -> bool {
        tool.pointer("/function/strict") == Some(&Value::Bool(true))
    }

    /// The same, of which only the strict ones have schemas.
    pub fn loosened(&self) -> Vec<Value> {
        let loosened = |tool: &Value| match (Self::is_strict(tool), tool.clone()) {
            (false, mut tool) => {
                if let Some(function) = tool.get_mut("function").and_then(Value::as_object_mut) {
                    function.remove("parameters");
                }
                tool
            }
            (true, tool) => tool,
        };
        self.offered.iter().map(loosened).collect()
    }

    /// Those of which one must be called.
    pub fn required(&self) -> Vec<&Value> {
        let required = |tool: &&Value| match &self.choice {
            ToolChoice::Auto => false,
            ToolChoice::Required => true,
            ToolChoice::Named(required) => name(tool) == Some(required),
        };
        self.offered.iter().filter(required).collect()
    }
}

fn name(tool: &Value) -> Option<&str> {
    tool.pointer("/function/name").and_then(Value::as_str)
}

fn word(path: &str, choice: &str) -> Result<ToolChoice, Error> {
    match choice {
        "auto" => Ok(ToolChoice::Auto),
        "required" => Ok(ToolChoice::Required),
        _ => Err(wrong(path, "none, auto, required, or an object that names a function")),
    }
}

fn check(path: &str, tool: &Value) -> Result<(), Error> {
    if name(tool).is_none_or(str::is_empty) {
        let message = format!("{path} must be an object with type \"function\" and function.name");
        return Err(Error::invalid(path, message));
    }
    match tool.pointer("/function/parameters") {
        None | Some(Value::Null | Value::Object(_)) => Ok(()),
        Some(other) => {
            let path = format!("{path}.function.parameters");
            Err(Error::invalid(&path, format!("{path} must be a schema, which is an object, not {}", kind(other))))
        }
    }
}

fn wrong(path: &str, expected: &str) -> Error {
    Error::invalid(path, format!("{path} must be {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOLS: &str = r#"[{"type": "function", "function": {"name": "f"}}, {"function": {"name": "g"}}]"#;

    fn read(choice: &str) -> Result<Tools, Error> {
        Tools::read(&Fields::parse(format!("{{\"tools\": {TOOLS}, \"tool_choice\": {choice}}}").as_bytes()).unwrap())
    }

    #[test]
    fn choices_are_openais() {
        let check = |choice: &str, offered: &[&str], required: usize| {
            let tools = read(choice).unwrap();
            assert_eq!(
                (tools.names(), tools.required().len()),
                (offered.iter().map(|f| f.to_string()).collect(), required)
            );
        };
        check("null", &["f", "g"], 0);
        check("\"auto\"", &["f", "g"], 0);
        check("\"none\"", &[], 0);
        check("\"required\"", &["f", "g"], 2);
        check(r#"{"type": "function", "function": {"name": "f"}}"#, &["f", "g"], 1);
        let allowed = r#"[{"type": "function", "function": {"name": "g"}}]"#;
        check(
            &format!(r#"{{"type": "allowed_tools", "allowed_tools": {{"mode": "required", "tools": {allowed}}}}}"#),
            &["g"],
            1,
        );
    }

    #[test]
    fn refuses_by_name() {
        let check = |read: Result<Tools, Error>, param: &str| {
            let error = read.unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{error}");
        };
        check(read("\"maybe\""), "tool_choice");
        check(read("5"), "tool_choice");
        check(read(r#"{"type": "function"}"#), "tool_choice.function.name");
        check(read(r#"{"type": "function", "function": {"name": "h"}}"#), "tool_choice.function.name");
        check(read(r#"{"type": "allowed_tools", "allowed_tools": {}}"#), "tool_choice.allowed_tools.tools");
        let body = |body: &str| Tools::read(&Fields::parse(body.as_bytes()).unwrap());
        check(body(r#"{"tools": [{"type": "function"}]}"#), "tools[0]");
        check(body(r#"{"tools": [{"function": {"name": "f", "parameters": []}}]}"#), "tools[0].function.parameters");
        check(body(r#"{"tools": {}}"#), "tools");
        check(body(r#"{"tool_choice": "required"}"#), "tool_choice");
        check(body(r#"{"parallel_tool_calls": 5}"#), "parallel_tool_calls");
    }
}

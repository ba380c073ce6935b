use super::Error;
use super::fields::{Fields, kind};
use serde_json::{Map, Value};

/// Reads `messages` into the shape that chat templates know: four roles, and content that is text.
///
/// # Errors
/// The first field that is wrong, by its path.
pub fn messages(fields: &Fields) -> Result<Vec<Value>, Error> {
    let messages = fields.list("messages")?.ok_or_else(|| Error::invalid("messages", "messages is missing"))?;
    if messages.is_empty() {
        return Err(Error::invalid("messages", "messages must have at least one message"));
    }
    messages.iter().enumerate().map(|(at, value)| message(&format!("messages[{at}]"), value)).collect()
}

fn message(path: &str, value: &Value) -> Result<Value, Error> {
    let Value::Object(fields) = value else {
        return Err(Error::invalid(path, format!("{path} must be an object, not {}", kind(value))));
    };
    let mut message = fields.clone();
    let role = role(path, fields)?;
    message.insert("role".into(), role.into());
    let text = match fields.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts_text(&format!("{path}.content"), parts)?,
        // An assistant that called tools may have said nothing.
        None | Some(Value::Null) if role == "assistant" => String::new(),
        other => {
            let path = format!("{path}.content");
            let found = other.map_or("missing", kind);
            return Err(Error::invalid(&path, format!("{path} must be a string or an array of parts, not {found}")));
        }
    };
    message.insert("content".into(), text.into());
    if let Some(calls) = fields.get("tool_calls").filter(|calls| !calls.is_null() && !calls.is_array()) {
        let path = format!("{path}.tool_calls");
        return Err(Error::invalid(&path, format!("{path} must be an array, not {}", kind(calls))));
    }
    Ok(Value::Object(message))
}

fn role(path: &str, fields: &Map<String, Value>) -> Result<&'static str, Error> {
    match fields.get("role").and_then(Value::as_str) {
        // `developer` is OpenAI's newer name for what local models know as `system`.
        Some("system" | "developer") => Ok("system"),
        Some("user") => Ok("user"),
        Some("assistant") => Ok("assistant"),
        Some("tool" | "function") => Ok("tool"),
        _ => {
            let path = format!("{path}.role");
            Err(Error::invalid(&path, format!("{path} must be one of system, developer, user, assistant and tool")))
        }
    }
}

fn parts_text(path: &str, parts: &[Value]) -> Result<String, Error> {
    let mut text = String::new();
    for (at, part) in parts.iter().enumerate() {
        let path = format!("{path}[{at}]");
        match (part.get("type").and_then(Value::as_str), part.get("text").and_then(Value::as_str)) {
            (Some("text"), Some(part)) => text.push_str(part),
            (Some("text"), None) => {
                let path = format!("{path}.text");
                return Err(Error::invalid(&path, format!("{path} must be a string")));
            }
            (Some(other), _) => {
                let message = format!("{path} is of type {other:?}, but this model reads text alone");
                return Err(Error::invalid(path, message).code("unsupported_value"));
            }
            (None, _) => return Err(Error::invalid(&path, format!("{path} must have a type, such as \"text\""))),
        }
    }
    Ok(text)
}

/// Reads `tools` and `tool_choice`. The tools are told to the model, nothing makes it use one.
///
/// # Errors
/// A field is wrong, or asks for what cannot be promised.
pub fn tools(fields: &Fields) -> Result<Vec<Value>, Error> {
    let tools = fields.list("tools")?.cloned().unwrap_or_default();
    for (at, tool) in tools.iter().enumerate() {
        if tool.pointer("/function/name").and_then(Value::as_str).is_none() {
            let path = format!("tools[{at}]");
            let message = format!("{path} must be an object with type \"function\" and function.name");
            return Err(Error::invalid(path, message));
        }
    }
    match fields.get("tool_choice") {
        None => Ok(tools),
        Some(Value::String(choice)) if choice == "auto" => Ok(tools),
        Some(Value::String(choice)) if choice == "none" => Ok(Vec::new()),
        Some(other) => {
            let message = format!("tool_choice {other} is not supported here: only \"auto\" and \"none\" are");
            Err(Error::invalid("tool_choice", message).code("unsupported_value"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: &str) -> Fields {
        Fields::parse(body.as_bytes()).unwrap()
    }

    #[test]
    fn messages_become_what_templates_know() {
        let check = |message: &str, expected: &str| {
            let read = messages(&fields(&format!("{{\"messages\": [{message}]}}"))).unwrap();
            let expected: Value = serde_json::from_str(expected).unwrap();
            assert_eq!(read, [expected], "{message}");
        };
        check(r#"{"role": "user", "content": "hi"}"#, r#"{"role": "user", "content": "hi"}"#);
        check(r#"{"role": "developer", "content": "be brief"}"#, r#"{"role": "system", "content": "be brief"}"#);
        check(
            r#"{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}"#,
            r#"{"role": "user", "content": "ab"}"#,
        );
        check(
            r#"{"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}"#,
            r#"{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}"#,
        );
        check(
            r#"{"role": "tool", "tool_call_id": "1", "content": "42"}"#,
            r#"{"role": "tool", "tool_call_id": "1", "content": "42"}"#,
        );
    }

    #[test]
    fn refuses_by_path() {
        let check = |body: &str, param: &str| {
            let error = messages(&fields(body)).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{body}: {error}");
        };
        check("{}", "messages");
        check(r#"{"messages": []}"#, "messages");
        check(r#"{"messages": "hi"}"#, "messages");
        check(r#"{"messages": ["hi"]}"#, "messages[0]");
        check(r#"{"messages": [{"content": "hi"}]}"#, "messages[0].role");
        check(r#"{"messages": [{"role": "wizard", "content": "hi"}]}"#, "messages[0].role");
        check(r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "user"}]}"#, "messages[1].content");
        check(r#"{"messages": [{"role": "user", "content": null}]}"#, "messages[0].content");
        check(r#"{"messages": [{"role": "user", "content": ["hi"]}]}"#, "messages[0].content[0]");
        check(r#"{"messages": [{"role": "user", "content": [{"type": "text"}]}]}"#, "messages[0].content[0].text");
        check(
            r#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}"#,
            "messages[0].content[0]",
        );
        check(r#"{"messages": [{"role": "assistant", "tool_calls": {}}]}"#, "messages[0].tool_calls");
    }

    #[test]
    fn tools_are_told_but_not_forced() {
        let tool = r#"[{"type": "function", "function": {"name": "f"}}]"#;
        let check = |choice: &str, told: Option<usize>| {
            let read = tools(&fields(&format!("{{\"tools\": {tool}, \"tool_choice\": {choice}}}")));
            assert_eq!(read.map(|tools| tools.len()).ok(), told, "{choice}");
        };
        check("null", Some(1));
        check("\"auto\"", Some(1));
        check("\"none\"", Some(0));
        check("\"required\"", None);
        check(r#"{"type": "function", "function": {"name": "f"}}"#, None);
        let error = tools(&fields(r#"{"tools": [{"type": "function"}]}"#)).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("tools[0]"));
    }
}

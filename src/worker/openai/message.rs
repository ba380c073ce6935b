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
    if let Some(calls) = fields.get("tool_calls") {
        check_calls(&format!("{path}.tool_calls"), calls)?;
    }
    // Templates ask whether a field is there, and SDKs send all of them.
    message.retain(|_, value| !value.is_null() && *value != Value::Array(Vec::new()));
    // Templates know it by the older name.
    if let Some(reasoning) = message.get("reasoning").cloned() {
        message.entry("reasoning_content").or_insert(reasoning);
    }
    Ok(Value::Object(message))
}

fn check_calls(path: &str, calls: &Value) -> Result<(), Error> {
    let calls = match calls {
        Value::Null => return Ok(()),
        Value::Array(calls) => calls,
        other => return Err(Error::invalid(path, format!("{path} must be an array, not {}", kind(other)))),
    };
    for (at, call) in calls.iter().enumerate() {
        let path = format!("{path}[{at}].function");
        if call.pointer("/function/name").and_then(Value::as_str).is_none() {
            return Err(Error::invalid(&path, format!("{path} must be an object with a name")));
        }
        match call.pointer("/function/arguments") {
            None | Some(Value::String(_) | Value::Object(_)) => {}
            Some(other) => {
                let path = format!("{path}.arguments");
                return Err(Error::invalid(&path, format!("{path} must be JSON in a string, not {}", kind(other))));
            }
        }
    }
    Ok(())
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
            r#"{"role": "assistant", "content": null, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}"#,
            r#"{"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}"#,
        );
        check(
            r#"{"role": "assistant", "content": "a", "tool_calls": [], "refusal": null, "reasoning": "b"}"#,
            r#"{"role": "assistant", "content": "a", "reasoning": "b", "reasoning_content": "b"}"#,
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
        check(r#"{"messages": [{"role": "assistant", "tool_calls": [{}]}]}"#, "messages[0].tool_calls[0].function");
        check(
            r#"{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]}]}"#,
            "messages[0].tool_calls[0].function.arguments",
        );
    }
}

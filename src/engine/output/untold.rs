//! Tools for models whose template knows of none.

use serde_json::{Value, json};

/// Tells of `tools` in the conversation itself: what they are before the first question, as Google has it for Gemma,
/// and calls and results as text of their roles.
pub(super) fn tell(messages: &[Value], tools: &[Value]) -> Vec<Value> {
    let mut told: Vec<Value> = Vec::new();
    let mut instructed = tools.is_empty();
    for message in messages {
        let text = message.get("content").and_then(Value::as_str).unwrap_or_default();
        let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
        let (role, text) = match role {
            "user" if !instructed => {
                instructed = true;
                (role, format!("{}\n\n{text}", instruction(tools)))
            }
            "tool" => ("user", format!("```tool_output\n{text}\n```")),
            "assistant" => (role, with_calls(message, text)),
            role => (role, text.to_string()),
        };
        match told.last_mut() {
            // Several results are one turn.
            Some(last) if last["role"] == role && role == "user" => {
                let before = last["content"].as_str().unwrap_or_default();
                last["content"] = format!("{before}\n{text}").into();
            }
            _ => told.push(json!({ "role": role, "content": text })),
        }
    }
    told
}

fn instruction(tools: &[Value]) -> String {
    let functions: Vec<&Value> = tools.iter().map(|tool| tool.get("function").unwrap_or(tool)).collect();
    let functions: Vec<String> = functions.iter().map(|function| function.to_string()).collect();
    format!(
        "You have access to functions. If you decide to invoke one, answer with nothing but a JSON object in the format \
         {{\"name\": function name, \"parameters\": dictionary of argument name and its value}}. Do not use \
         variables.\n\n[{}]",
        functions.join(",\n")
    )
}

/// What the model said, with the calls as it wrote them.
fn with_calls(message: &Value, text: &str) -> String {
    let calls = message.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
    let calls = calls.filter_map(|call| {
        let function = call.get("function")?;
        let arguments = match function.get("arguments") {
            Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into()),
            arguments => arguments.cloned().unwrap_or(json!({})),
        };
        Some(json!({ "name": function.get("name")?, "parameters": arguments }).to_string())
    });
    let said = Some(text.to_string()).filter(|text| !text.is_empty());
    said.into_iter().chain(calls).collect::<Vec<_>>().join("\n")
}

//! A chat template, over a chat with tools.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use sovereign_fuzz::engine::template::{Chat, Template};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static MESSAGES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": [1, 2.5]}"}});
    vec![
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": "Hi 'there' <b>"}),
        json!({"role": "assistant", "content": "", "tool_calls": [call]}),
        json!({"role": "tool", "content": "42", "tool_call_id": "1"}),
    ]
});
static TOOLS: LazyLock<Vec<Value>> =
    LazyLock::new(|| vec![json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}})]);

fuzz_target!(|source: &str| {
    let begun = Instant::now();
    let template = Template::new(source, None, "<s>".into(), "</s>".into());
    let chat = Chat { messages: &MESSAGES, tools: &TOOLS, add_generation_prompt: true, variables: None };
    let _ = template.render(&chat);
    // Sanitizers and two renderings take their time; what has no end takes more.
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
});

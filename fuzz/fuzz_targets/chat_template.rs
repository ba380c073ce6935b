//! A chat template, over a chat with tools.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use sovereign_fuzz::engine::template::{Chat, Template};
use std::sync::LazyLock;
use std::time::Duration;

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
    let begun = computed();
    let template = Template::new(source, None, "<s>".into(), "</s>".into());
    let chat = Chat { messages: &MESSAGES, tools: &TOOLS, add_generation_prompt: true, variables: None };
    let _ = template.render(&chat);
    // Sanitizers and two renderings take their time; what has no end takes more.
    let took = computed() - begun;
    assert!(took < Duration::from_secs(10), "it took {took:?}");
});

/// How long this thread has computed: on a busy machine a clock would tell how long it waited.
fn computed() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is written where there is room for it; the clock is there on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

use serde_json::Value;

/// What Mistral's templates insist on.
const LENGTH: usize = 9;

/// Makes the numbers of calls in a message nine letters and digits, the same ones for the same number.
pub(super) fn shorten(message: &mut Value) {
    let Value::Object(message) = message else { return };
    if let Some(id) = message.get_mut("tool_call_id") {
        shorten_id(id);
    }
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten();
    calls.filter_map(|call| call.get_mut("id")).for_each(shorten_id);
}

fn shorten_id(id: &mut Value) {
    let Some(text) = id.as_str() else { return };
    if text.len() == LENGTH && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return;
    }
    // Fowler, Noll and Vo's hash.
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    *id = format!("{hash:016x}")[..LENGTH].into();
}

use super::*;
use crate::engine::output::{Calls, Format, Opening};
use crate::engine::sequence::Candidate;
use serde_json::{Value, json};
use tokio::sync::mpsc::unbounded_channel;

fn text(text: &str) -> Event {
    Event::Text { text: text.into(), tokens: Vec::new() }
}

fn finished(reason: Finish, completion: usize) -> Event {
    Event::Finished { reason, counts: Counts { prompt: 5, cached: 2, completion } }
}

/// An answer of two choices, whose events lie ready.
fn answer(dialect: Dialect, events: Vec<(usize, Event)>) -> Answer {
    let (sender, receiver) = unbounded_channel();
    for event in events {
        sender.send(event).unwrap();
    }
    let echo = vec![String::new(); 2];
    let model = "m".into();
    Answer {
        dialect,
        model,
        choices: 2,
        echo,
        logprobs: false,
        include_usage: true,
        parsers: Vec::new(),
        events: receiver,
    }
}

fn two() -> Vec<(usize, Event)> {
    vec![
        (0, text("a")),
        (1, text("x")),
        (1, finished(Finish::Length, 1)),
        (0, text("b")),
        (0, finished(Finish::Stop, 2)),
    ]
}

async fn whole(answer: Answer) -> Value {
    let body = axum::body::to_bytes(answer.whole().await.unwrap().into_body(), usize::MAX).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

/// What a stream sends, without what is the same in each piece.
async fn pieces(answer: Answer) -> Vec<Value> {
    let mut pieces = Pieces::new(answer);
    let mut sent = Vec::new();
    while let Some(piece) = pieces.next().await {
        let Ok(mut piece) = serde_json::from_str::<Value>(&piece) else {
            sent.push(piece.into());
            continue;
        };
        if let Some(piece) = piece.as_object_mut() {
            for same in ["id", "object", "created", "model"] {
                piece.remove(same);
            }
        }
        sent.push(piece);
    }
    sent
}

const USAGE: &str = r#"{"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8,
                        "prompt_tokens_details": {"cached_tokens": 2}}"#;

#[tokio::test]
async fn a_whole_chat() {
    let answer = whole(answer(Dialect::Chat, two())).await;
    let choice = |index: usize, content: &str, reason: &str| {
        let message = json!({"role": "assistant", "content": content, "refusal": null});
        json!({"index": index, "message": message, "logprobs": null, "finish_reason": reason})
    };
    assert_eq!(answer["choices"], json!([choice(0, "ab", "stop"), choice(1, "x", "length")]));
    assert_eq!(answer["usage"], serde_json::from_str::<Value>(USAGE).unwrap());
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("m")));
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-") && answer["created"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_streamed_chat() {
    let sent = pieces(answer(Dialect::Chat, two())).await;
    let piece = |index: usize, delta: Value, reason: Option<&str>| {
        let choice = json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": reason});
        json!({"choices": [choice], "usage": null})
    };
    let opening = json!({"role": "assistant", "content": ""});
    let expected = [
        piece(0, opening.clone(), None),
        piece(1, opening, None),
        piece(0, json!({"content": "a"}), None),
        piece(1, json!({"content": "x"}), None),
        piece(1, json!({}), Some("length")),
        piece(0, json!({"content": "b"}), None),
        piece(0, json!({}), Some("stop")),
        json!({"choices": [], "usage": serde_json::from_str::<Value>(USAGE).unwrap()}),
        json!("[DONE]"),
    ];
    assert_eq!(sent, expected);
}

/// A chat whose first choice thinks, then calls; the second only talks.
fn calling() -> Answer {
    let format = Format { calls: Calls::Hermes, reasons: true, tells_tools: true };
    let parser = || Parser::new(format, Opening::MayReason, vec!["add".into()], true);
    let events = vec![
        (0, text("<think>Hm</think>")),
        (1, text("Hi")),
        (0, text("<tool_call>{\"name\": \"add\", \"arguments\": {\"a\"")),
        (0, text(": 1}}</tool_call>")),
        (1, finished(Finish::Stop, 1)),
        (0, finished(Finish::Stop, 9)),
    ];
    Answer { parsers: vec![parser(), parser()], ..answer(Dialect::Chat, events) }
}

#[tokio::test]
async fn a_whole_chat_with_a_call() {
    let answer = whole(calling()).await;
    let mut choice = answer["choices"][0].clone();
    let id = choice["message"]["tool_calls"][0]["id"].take();
    assert!(id.as_str().unwrap().starts_with("call_"));
    let function = json!({"name": "add", "arguments": "{\"a\": 1}"});
    let message = json!({"role": "assistant", "content": null, "refusal": null, "reasoning": "Hm",
        "reasoning_content": "Hm", "tool_calls": [{"id": null, "type": "function", "function": function}]});
    assert_eq!(choice["message"], message);
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(answer["choices"][1]["message"]["content"], "Hi");
    assert_eq!(answer["choices"][1]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_streamed_chat_with_a_call() {
    let mut deltas = Vec::new();
    let mut reason = Value::Null;
    for piece in pieces(calling()).await {
        let Some(choice) = piece["choices"].get(0).filter(|choice| choice["index"] == 0) else { continue };
        let mut delta = choice["delta"].clone();
        if let Some(id) = delta.pointer_mut("/tool_calls/0/id") {
            *id = json!(id.as_str().unwrap().starts_with("call_"));
        }
        deltas.push(delta);
        reason = choice["finish_reason"].clone();
    }
    let more = |arguments: &str| json!({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]});
    let function = json!({"name": "add", "arguments": ""});
    let expected = [
        json!({"role": "assistant", "content": ""}),
        json!({"reasoning": "Hm", "reasoning_content": "Hm"}),
        json!({"tool_calls": [{"index": 0, "id": true, "type": "function", "function": function}]}),
        more("{\"a\""),
        more(": 1}"),
        json!({}),
    ];
    assert_eq!(deltas, expected);
    assert_eq!(reason, "tool_calls");
}

#[tokio::test]
async fn a_completion_begins_with_its_echo() {
    let echoing = || Answer { echo: vec!["> ".into(), "> ".into()], ..answer(Dialect::Completion, two()) };
    let answer = whole(echoing()).await;
    assert_eq!(answer["choices"][0]["text"], "> ab");
    assert_eq!(answer["object"], "text_completion");
    let sent = pieces(echoing()).await;
    let texts: Vec<&Value> = sent.iter().map(|piece| &piece["choices"][0]["text"]).collect();
    assert_eq!(texts[..4], ["> ", "> ", "a", "x"]);
}

#[tokio::test]
async fn log_probabilities_stand_beside_their_text() {
    let candidate = |bytes: &[u8]| Candidate { bytes: bytes.to_vec(), logprob: -0.5 };
    let tokens = vec![Scored { chosen: candidate(b"ab"), top: vec![candidate(b"\xFF")] }];
    let events = || {
        let text = |tokens: &Vec<Scored>| Event::Text { text: "ab".into(), tokens: tokens.clone() };
        vec![(0, text(&tokens)), (0, text(&tokens)), (0, finished(Finish::Stop, 2)), (1, finished(Finish::Stop, 0))]
    };
    let answer = |dialect| Answer { logprobs: true, ..answer(dialect, events()) };
    let alternative = json!({"token": "\u{FFFD}", "logprob": -0.5, "bytes": [255]});
    let token = json!({"token": "ab", "logprob": -0.5, "bytes": [97, 98], "top_logprobs": [alternative]});
    let chat = whole(answer(Dialect::Chat)).await;
    assert_eq!(chat["choices"][0]["logprobs"], json!({"content": [token, token], "refusal": null}));
    let completion = whole(answer(Dialect::Completion)).await;
    assert_eq!(completion["choices"][0]["logprobs"]["text_offset"], json!([0, 2]));
    let sent = pieces(answer(Dialect::Completion)).await;
    assert_eq!(sent[1]["choices"][0]["logprobs"]["text_offset"], json!([2]));
}

#[tokio::test]
async fn failures_are_told_in_either_form() {
    let failing = || answer(Dialect::Chat, vec![(0, text("a")), (1, Event::Failed("no memory".into()))]);
    let error = failing().whole().await.unwrap_err();
    assert_eq!((error.status.as_u16(), error.message.as_str()), (500, "no memory"));
    let sent = pieces(failing()).await;
    assert_eq!(sent.last().unwrap()["error"]["message"], "no memory");
    // The engine's end is noticed by the silence.
    let sent = pieces(answer(Dialect::Chat, vec![(0, text("a"))])).await;
    assert_eq!(sent.last().unwrap()["error"]["type"], "server_error");
}

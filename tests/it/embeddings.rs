//! Embeddings of a real model, as sentence-transformers computes them: frozen by `tests/parity/minilm.py`.

use crate::worker::{Worker, model};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use half::f16;
use serde::Deserialize;
use serde_json::{Value, json};
use sovereign::engine::gguf::Gguf;
use sovereign::engine::tokenizer::{Special, Token, Tokenizer};
use std::sync::{Arc, LazyLock};

static MINILM: LazyLock<Worker> = LazyLock::new(|| Worker::start(&model("all-minilm-l6-v2"), &["--ctx", "512"]));

/// A text and its tokens; of some, their vectors, as halves in base64.
#[derive(Deserialize)]
struct Frozen {
    text: String,
    tokens: Vec<Token>,
    vector: Option<String>,
}

fn frozen() -> Vec<Frozen> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/parity/minilm.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The floats of an answer's vectors.
fn vectors(answer: &Value) -> Vec<Vec<f64>> {
    let rows = answer["data"].as_array().unwrap().iter().enumerate();
    rows.map(|(at, row)| {
        assert_eq!((&row["index"], &row["object"]), (&json!(at), &json!("embedding")));
        row["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    })
    .collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn tokens_are_those_of_the_tokenizers_library() {
    let tokenizer = Tokenizer::from_gguf(&Gguf::open(&model("all-minilm-l6-v2")).unwrap()).unwrap();
    for Frozen { text, tokens, .. } in frozen() {
        assert_eq!(tokenizer.encode(&text, Special::Parse, true), tokens, "{text:?}");
    }
}

#[tokio::test]
async fn vectors_are_those_of_sentence_transformers() {
    let (texts, expected): (Vec<String>, Vec<String>) =
        frozen().into_iter().filter_map(|row| Some((row.text, row.vector?))).unzip();
    let answer = MINILM.ask("/v1/embeddings", json!({"model": "m", "input": texts})).await;
    let found = vectors(&answer);
    assert_eq!((found.len(), expected.len()), (40, 40));
    for ((text, found), expected) in texts.iter().zip(&found).zip(expected) {
        let bytes = BASE64_STANDARD.decode(expected).unwrap();
        let expected: Vec<f64> = bytes.as_chunks::<2>().0.iter().map(|x| f16::from_le_bytes(*x).to_f64()).collect();
        let cosine = cosine(found, &expected);
        assert!(cosine > 0.9999, "{text:?}: {cosine}");
        assert!((found.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
    }
    let tokens: usize = frozen().iter().filter(|row| row.vector.is_some()).map(|row| row.tokens.len()).sum();
    assert_eq!(answer["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("all-minilm-l6-v2-f32")));
}

#[tokio::test]
async fn vectors_are_written_as_asked() {
    let ask = async |more: Value| {
        let mut body = json!({"input": ["What is the capital of France?"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        MINILM.ask("/v1/embeddings", body).await
    };
    let whole = vectors(&ask(json!({})).await).remove(0);
    let base64 = ask(json!({"encoding_format": "base64"})).await;
    let bytes = BASE64_STANDARD.decode(base64["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let floats: Vec<f64> = bytes.as_chunks::<4>().0.iter().map(|x| f64::from(f32::from_le_bytes(*x))).collect();
    assert!(cosine(&whole, &floats) > 1.0 - 1e-9 && floats.len() == 384);
    let short = vectors(&ask(json!({"dimensions": 100})).await).remove(0);
    assert!(cosine(&short, &whole[..100]) > 1.0 - 1e-9 && short.len() == 100);
    assert!((short.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
    // The same text as tokens.
    let tokens = MINILM.ask("/tokenize", json!({"content": "What is the capital of France?", "add_special": true}));
    let answer = MINILM.ask("/v1/embeddings", json!({"input": tokens.await["tokens"]})).await;
    assert_eq!(vectors(&answer), [whole]);
}

#[tokio::test]
async fn what_is_cut_is_told() {
    let long = "word ".repeat(600);
    let texts = json!([long, "short", long]);
    let response = MINILM.post("/v1/embeddings", &json!({"input": texts})).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-sovereign-truncated"]),
        (200, &"2".parse().unwrap())
    );
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["usage"]["prompt_tokens"], 512 + 3 + 512);
    let response = MINILM.post("/v1/embeddings", &json!({"input": texts, "truncate": false})).await;
    assert_eq!(response.status(), 400);
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["code"], "context_length_exceeded");
    assert!(
        error["error"]["message"].as_str().unwrap().starts_with("input[0] has 602 tokens, and the model takes 512")
    );
    assert!(
        !MINILM.post("/v1/embeddings", &json!({"input": "a"})).await.headers().contains_key("x-sovereign-truncated")
    );
}

#[tokio::test]
async fn what_cannot_be_embedded_is_told() {
    let check = async |path: &str, body: Value, param: &str, words: &str| {
        let response = MINILM.post(path, &body).await;
        assert_eq!(response.status(), 400, "{body}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"], param, "{error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(words), "{error}");
    };
    check("/v1/embeddings", json!({"input": [[1], [30522]]}), "input[1]", "30522 is not a token").await;
    check("/v1/embeddings", json!({"input": [[1], []]}), "input[1]", "is empty").await;
    check("/v1/embeddings", json!({"input": "a", "dimensions": 385}), "dimensions", "from 1 to 384").await;
    let messages = json!([{"role": "user", "content": "a"}]);
    check("/v1/chat/completions", json!({"messages": messages}), "model", "/v1/embeddings").await;
    check("/v1/completions", json!({"prompt": "a"}), "model", "/v1/embeddings").await;
}

#[tokio::test]
async fn a_short_request_does_not_wait_for_a_long_one() {
    let worker = Arc::new(Worker::start(&model("all-minilm-l6-v2"), &[]));
    let body = json!({"input": vec!["many words in a text that takes a while ".repeat(40); 60]});
    let long = tokio::spawn({
        let worker = worker.clone();
        async move { worker.post("/v1/embeddings", &body).await.status() }
    });
    // Some of it is done.
    while worker.metric("sovereign_worker_prompt_tokens_total").await == 0.0 {}
    let short = worker.post("/v1/embeddings", &json!({"input": "short"})).await;
    assert_eq!((short.status().as_u16(), long.is_finished()), (200, false));
    assert_eq!(long.await.unwrap(), 200);
}

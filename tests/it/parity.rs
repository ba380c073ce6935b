//! Agreement with llama.cpp, frozen by `tests/parity/freeze.py`: the tokens of texts, and the log-probabilities of
//! answers with the weights as floats. `make parity` compares afresh, through the worker.

use serde::Deserialize;
use sovereign::engine::gguf::Gguf;
use sovereign::engine::model::{Batch, Model, Options};
use sovereign::engine::sampler::logprobs;
use sovereign::engine::tokenizer::{Special, Token, Tokenizer};
use std::path::PathBuf;
use std::sync::Arc;
use unicode_normalization::UnicodeNormalization;

/// How far ours may be from the same weights as floats, in units of llama.cpp's own distance: all log-probabilities
/// (root of the mean square), that of a token that is likely to be drawn, and by how much a choice may be less probable than
/// the best. Both engines round activations to 8 bits, and no two round alike.
const RMS: f32 = 1.15;
const MOST: f32 = 6.0;
/// Where a small difference grows large, llama.cpp's does too: a token may be so many times as far off as there.
const THERE: f32 = 2.0;
const MARGIN: f32 = 4.0;

/// The log-probability of 5%.
const LIKELY: f32 = -3.0;

#[derive(Deserialize)]
struct Frozen {
    texts: Vec<Text>,
    /// How far llama.cpp's log-probabilities are from those of the same weights as floats (root of the mean square).
    noise: f32,
    answers: Vec<Answer>,
}

/// A text and its tokens; those with control tokens parsed only where they differ.
#[derive(Deserialize)]
struct Text {
    text: String,
    plain: Vec<Token>,
    special: Option<Vec<Token>>,
}

/// A prompt, its tokens, and at each step of the greedy answer the best tokens with their log-probabilities, by the floats
/// and by llama.cpp's quantised run.
#[derive(Deserialize)]
struct Answer {
    prompt: String,
    tokens: Vec<Token>,
    steps: Vec<Vec<(Token, f32, f32)>>,
}

fn frozen(name: &str) -> Frozen {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/parity/{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A model that `make models` fetched.
fn open(file: &str) -> Gguf {
    let folder = std::env::var_os("SOVEREIGN_TEST_MODELS").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/sovereign/test-models");
    let path = folder.unwrap_or_else(home).join(file);
    Gguf::open(&path).unwrap_or_else(|error| panic!("{error}; `make models` fetches it"))
}

#[track_caller]
fn check_texts(name: &str, file: &str) {
    let tokenizer = Tokenizer::from_gguf(&open(file)).unwrap();
    for Text { text, plain, special } in frozen(name).texts {
        let encode = |special| tokenizer.encode(&text, special, false);
        assert_eq!(encode(Special::Plain), plain, "{text:?} as plain text");
        assert_eq!(encode(Special::Parse), special.unwrap_or_else(|| plain.clone()), "{text:?} with control tokens");
        // SentencePiece's own spelling of a space comes back as a space.
        if !text.contains('\u{2581}') {
            let composed = if name == "qwen" { text.nfc().collect() } else { text };
            assert_eq!(tokenizer.decode(&plain), composed);
        }
    }
}

#[track_caller]
fn check_answers(name: &str, file: &str) {
    let Frozen { noise, answers, .. } = frozen(name);
    let gguf = Arc::new(open(file));
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let model = Model::load(gguf, Options::default()).unwrap();
    let mut failures = Vec::new();
    let mut errors = Vec::new();
    for Answer { prompt, tokens, steps } in answers {
        assert_eq!(tokenizer.encode(&prompt, Special::Parse, true), tokens, "{prompt:?}");
        // Teacher-forced: every step follows the choices of the floats, so that one that differs does not spoil the rest.
        let answer = steps.iter().map(|step| step[0].0);
        let (prompt_len, len) = (tokens.len(), tokens.len() + steps.len() - 1);
        let mut batch = Batch::new();
        for (position, token) in tokens.into_iter().chain(answer).take(len).enumerate() {
            batch.push(token, 0, position, position + 1 >= prompt_len);
        }
        let mut cache = model.cache(1, len).unwrap();
        let logits = model.forward(&mut cache, &batch).unwrap();
        for (at, step) in steps.iter().enumerate() {
            let ours = logprobs(logits.row(at), step[0].0, 64).unwrap().top;
            let theirs = |token| step.iter().find(|best| best.0 == token).map_or(f32::NEG_INFINITY, |best| best.1);
            let margin = step[0].1 - theirs(ours[0].0);
            if margin > MARGIN * noise {
                failures.push(format!("{prompt:?}, step {at}: {} instead of {}, by {margin}", ours[0].0, step[0].0));
            }
            for &(token, logprob, there) in step {
                let ours = ours.iter().find(|best| best.0 == token).map_or(f32::NEG_INFINITY, |best| best.1);
                let error = (ours - logprob).abs();
                errors.push(error);
                let most = (MOST * noise).max(THERE * (there - logprob).abs());
                if logprob > LIKELY && error > most {
                    failures.push(format!("{prompt:?}, step {at}: token {token} has {ours} instead of {logprob}"));
                }
            }
        }
    }
    let rms = (errors.iter().map(|error| error * error).sum::<f32>() / errors.len() as f32).sqrt();
    let most = errors.iter().copied().fold(0.0, f32::max);
    println!("{name}: {} log-probabilities differ by {rms} (rms), {most} at most", errors.len());
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(rms <= RMS * noise, "log-probabilities differ by {rms} (rms), at most {} was expected", RMS * noise);
}

#[test]
fn gemma_texts_have_llama_cpps_tokens() {
    check_texts("gemma", "gemma-3-270m-q4_k_m.gguf");
}

#[test]
fn qwen_texts_have_llama_cpps_tokens() {
    check_texts("qwen", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf");
}

#[test]
fn gemma_answers_as_llama_cpp_does() {
    check_answers("gemma", "gemma-3-270m-q4_k_m.gguf");
}

#[test]
fn qwen_answers_as_llama_cpp_does() {
    check_answers("qwen", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf");
}

//! What a worker's cache and queue hold, and what does not fit.

use super::*;

#[tokio::test]
async fn too_long_a_prompt_is_told_as_sdks_expect() {
    let response = GEMMA.post("/v1/completions", &json!({"prompt": "word ".repeat(600)})).await;
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["code"], "context_length_exceeded", "{error}");
}

#[tokio::test]
async fn too_long_a_prompt_is_shortened_where_that_is_asked_for() {
    let ask = async |path: &str, mut body: Value| {
        body["truncation"] = "auto".into();
        body["temperature"] = 0.into();
        let response = GEMMA.post(path, &body).await;
        let told = response.headers().get("x-sovereign-truncated").map(|told| told.to_str().unwrap().to_owned());
        let answer: Value = response.json().await.unwrap();
        (answer, told.map(|told| told.parse::<u64>().unwrap()))
    };
    let long = "word ".repeat(600) + PROMPT;
    let (answer, told) = ask("/v1/completions", json!({"prompt": long, "max_tokens": 8})).await;
    assert!(text(&answer).contains("Rome"), "{answer}");
    assert_eq!(answer["usage"]["prompt_tokens"], 512 - 8);
    assert!(told.is_some_and(|told| told > 90), "{told:?}");
    let (_, told) = ask("/v1/completions", json!({"prompt": PROMPT, "max_tokens": 1})).await;
    assert_eq!(told, None);
    assert_eq!(GEMMA.post("/v1/completions", &json!({"prompt": "a", "truncation": "middle"})).await.status(), 400);
}

#[tokio::test]
async fn who_finds_the_queue_full_is_told_when_to_come_back() {
    let worker = Worker::start(&model("gemma-3-270m"), &["--slots", "1", "--queue", "1", "--ctx", "2048"]);
    let body = json!({"prompt": "Once", "max_tokens": 2000, "logit_bias": {"1": -100, "106": -100}, "stream": true});
    let mut runs = worker.post("/v1/completions", &body).await;
    runs.chunk().await.unwrap();
    let waits = worker.post("/v1/completions", &body).await;
    let refused = worker.post("/v1/completions", &body).await;
    assert_eq!((waits.status().as_u16(), refused.status().as_u16()), (200, 429));
    assert!(refused.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() < 120);
    assert_eq!(refused.json::<Value>().await.unwrap()["error"]["type"], "rate_limit_error");
    // More than ever fits is refused as well, and takes nobody's place.
    let many = json!({"prompt": ["a", "b", "c"], "max_tokens": 1});
    assert_eq!(worker.post("/v1/completions", &many).await.status(), 429);
    // What the worker tells is 0 until its first step has ended, too: only what was seen full can be seen empty.
    worker.until("sovereign_worker_queue", 1.0).await;
    drop((runs, waits));
    worker.until("sovereign_worker_queue", 0.0).await;
    worker.until("sovereign_worker_slots_busy", 0.0).await;
    assert_eq!(worker.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1})).await.status(), 200);
}

#[tokio::test]
async fn a_restart_finds_a_prompt_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("prefixes");
    let arguments = ["--ctx", "512", "--prefix-cache", folder.to_str().unwrap(), "--prefix-cache-size", "64MiB"];
    let system = format!("{} {PROMPT}", "Paris is in France, Rome is in Italy, Berlin is in Germany.".repeat(10));
    let (mut answers, mut computed) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let mut worker = Worker::start(&model("gemma-3-270m"), &arguments);
        answers.push(worker.complete(&system, json!({})).await);
        computed.push(worker.metric("sovereign_worker_prompt_tokens_total").await as u64);
        let pid = rustix::process::Pid::from_child(&worker.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(worker.wait().success());
    }
    assert_eq!(text(&answers[0]), text(&answers[1]));
    let usage =
        |at: usize, field: &str| answers[at].pointer(&format!("/usage/{field}")).and_then(Value::as_u64).unwrap();
    let (prompt, cached) = (usage(0, "prompt_tokens"), usage(1, "prompt_tokens_details/cached_tokens"));
    assert!(prompt > 128 && cached + 32 >= prompt && cached < prompt, "{cached} of {prompt}");
    assert_eq!(computed, [prompt, prompt - cached]);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_told_once() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml/prefixes");
    let mut worker =
        Worker::start(&model("gemma-3-270m"), &["--ctx", "256", "--prefix-cache", folder.to_str().unwrap()]);
    let long = format!("{} {PROMPT}", "Rome is in Italy. ".repeat(20));
    for _ in 0..2 {
        assert!(text(&worker.complete(&long, json!({})).await).contains("Rome"));
    }
    worker.stdin = None;
    assert!(worker.wait().success());
    let mut words = String::new();
    worker.child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert!(words.lines().count() == 1 && words.contains("Cargo.toml/prefixes"), "{words:?}");
}

#[tokio::test]
async fn keys_and_values_in_fewer_bits_answer_alike() {
    for kind in ["fp8", "q4"] {
        let worker = Worker::start(&model("gemma-3-270m"), &["--kv", kind, "--ctx", "256"]);
        assert!(text(&worker.complete(PROMPT, json!({})).await).contains("Rome"), "{kind}");
    }
}

#[tokio::test]
async fn conversations_share_a_small_cache() {
    // Room for one whole conversation and a half, for four at once.
    let arguments = ["--slots", "4", "--ctx", "256", "--kv-tokens", "384"];
    let worker = Worker::start(&model("gemma-3-270m"), &arguments);
    assert_eq!(worker.metric("sovereign_worker_kv_tokens_capacity").await, 384.0);
    // Any two that meet, however late the machine lets them, need more than there is.
    let body = json!({"max_tokens": 200, "logit_bias": {"1": -100, "106": -100}});
    let prompts = [PROMPT, "One, two, three,", "Once upon a time", "def main():"];
    let together = futures_util::future::join_all(prompts.map(|prompt| worker.complete(prompt, body.clone()))).await;
    assert!(worker.metric("sovereign_worker_preempted_total").await > 0.0);
    for (prompt, answer) in prompts.iter().zip(together) {
        assert_eq!(answer["usage"]["completion_tokens"], 200);
        assert_eq!(text(&worker.complete(prompt, body.clone()).await), text(&answer));
    }
}

#[tokio::test]
async fn guesses_change_no_answer() {
    let code = "fn area(width: f64, height: f64) -> f64 {\n    let area = width * height;\n    area\n}\n\n".repeat(3);
    let answers = async |when: &str| {
        let worker = Worker::start(&model("gemma-3-270m"), &["--speculate", when, "--ctx", "512"]);
        let mut said = Vec::new();
        for (temperature, seed) in [(0.0, 1), (0.7, 1), (1.0, 2)] {
            let more = json!({"temperature": temperature, "seed": seed, "max_tokens": 100});
            said.push(text(&worker.complete(&code, more).await).to_owned());
        }
        (said, worker.metric("sovereign_worker_guessed_right_tokens_total").await)
    };
    let ((guessing, right), (plain, none)) = (answers("auto").await, answers("off").await);
    assert_eq!(guessing, plain);
    assert!(right > 30.0 && none == 0.0, "{right} of 300");
}

#[tokio::test]
async fn a_smaller_model_s_guesses_change_no_answer() {
    let file = model("gemma-3-270m");
    let answers = async |arguments: &[&str]| {
        let worker = Worker::start(&file, &[arguments, &["--ctx", "512"]].concat());
        let mut said = Vec::new();
        for (temperature, seed) in [(0.0, 1), (0.7, 1), (1.0, 2)] {
            let more = json!({"temperature": temperature, "seed": seed, "max_tokens": 60});
            said.push(text(&worker.complete(PROMPT, more).await).to_owned());
        }
        (said, worker.metric("sovereign_worker_guessed_right_tokens_total").await)
    };
    // It is no smaller here, and so it costs as much; it is tried nevertheless.
    let drafts = ["--speculate", "draft", "--draft", file.to_str().unwrap()];
    let ((guessing, right), (plain, _)) = (answers(&drafts).await, answers(&["--speculate", "off"]).await);
    assert_eq!(guessing, plain);
    assert!(right > 0.0);
}

#[test]
fn a_draft_of_another_vocabulary_is_refused_by_the_token() {
    let output = command(&model("qwen2.5-coder-1.5b-instruct"), "tcp:127.0.0.1:0")
        .args(["--draft", model("gemma-3-270m").to_str().unwrap()])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("the draft model has another vocabulary: 262144 tokens"), "{stderr}");
}

#[tokio::test]
async fn a_model_that_cannot_fill_in_says_so() {
    let response = GEMMA.post("/v1/completions", &json!({"prompt": "a", "suffix": "b"})).await;
    assert_eq!(response.status(), 400);
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["param"], "suffix", "{error}");
}

#[tokio::test]
async fn whoever_leaves_frees_the_slot() {
    let worker = Worker::start(&model("gemma-3-270m"), &["--slots", "1", "--ctx", "4096"]);
    // The bias keeps it from ending early.
    let body = json!({"prompt": "Once", "max_tokens": 4000, "logit_bias": {"1": -100, "106": -100}, "stream": true});
    let mut stream = worker.post("/v1/completions", &body).await;
    stream.chunk().await.unwrap();
    let second = json!({"prompt": "a", "max_tokens": 4000});
    let mut waiting = Box::pin(worker.post("/v1/completions", &second));
    tokio::select! {
        _ = &mut waiting => panic!("there is one slot"),
        () = worker.until("sovereign_worker_queue", 1.0) => {}
    }
    assert_eq!(worker.metric("sovereign_worker_slots_busy").await, 1.0);
    drop(waiting);
    worker.until("sovereign_worker_queue", 0.0).await;
    drop(stream);
    worker.until("sovereign_worker_slots_busy", 0.0).await;
    assert!(worker.metric("sovereign_worker_generated_tokens_total").await < 4000.0);
    let answer = worker.complete(PROMPT, json!({})).await;
    assert!(text(&answer).contains("Rome"), "{answer}");
    // What was read once is not read again.
    let again = worker.complete(PROMPT, json!({})).await;
    let cached = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert_eq!(Some(cached + 1), again["usage"]["prompt_tokens"].as_u64());
    assert_eq!(text(&again), text(&answer));
}

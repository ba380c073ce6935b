//! The worker as a process, over real models.

mod life;
mod serving;
mod structured;

use serde_json::{Value, json};
use sovereign::egress::{self, Address, Client, Response};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The base model that most tests ask: it is small.
static GEMMA: LazyLock<Worker> = LazyLock::new(|| Worker::start(&model("gemma-3-270m"), &["--ctx", "512"]));

const SOON: Duration = Duration::from_secs(20);

pub fn model(name: &str) -> PathBuf {
    let folder = std::env::var_os("SOVEREIGN_TEST_MODELS").map(PathBuf::from);
    let folder =
        folder.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/sovereign/test-models"));
    let file =
        folder.join(if name.contains("minilm") { format!("{name}-f32.gguf") } else { format!("{name}-q4_k_m.gguf") });
    assert!(file.exists(), "{} is missing: run `make models`", file.display());
    file
}

pub fn command(file: &Path, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sovereign"));
    command.args(["worker", "--device", "cpu", "--listen", listen, "--model"]).arg(file);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A worker that can answer. It is tied to this process, so that those in statics end with it.
pub struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    address: Address,
}

impl Worker {
    pub fn start(file: &Path, arguments: &[&str]) -> Self {
        Self::start_at(file, "tcp:127.0.0.1:0", arguments)
    }

    fn start_at(file: &Path, listen: &str, arguments: &[&str]) -> Self {
        let mut child = command(file, listen).arg("--tied").args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(address) = line.trim_end().strip_prefix("ready ") else {
            let mut words = String::new();
            child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
            panic!("the worker did not say that it is ready, but {line:?} and {words:?}");
        };
        Self { stdin: child.stdin.take(), address: address.parse().unwrap(), child }
    }

    fn client(&self) -> Client {
        egress::internal(&self.address)
    }

    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.client().post(self.address.url(path)).body(body.to_string()).send().await.unwrap()
    }

    pub async fn ask(&self, path: &str, body: Value) -> Value {
        let response = self.post(path, &body).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, 200, "{path} {body}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// A completion that always chooses the likeliest token.
    async fn complete(&self, prompt: &str, more: Value) -> Value {
        let mut body = json!({"prompt": prompt, "temperature": 0, "max_tokens": 12});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.ask("/v1/completions", body).await
    }

    /// The data of a stream's events, the last of which says that it is done.
    async fn stream(&self, path: &str, mut body: Value) -> Vec<Value> {
        body["stream"] = true.into();
        let response = self.post(path, &body).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let text = response.text().await.unwrap();
        let mut data: Vec<&str> = text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"), "{text}");
        data.iter().map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    pub async fn get(&self, path: &str) -> Response {
        self.client().get(self.address.url(path)).send().await.unwrap()
    }

    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().unwrap()
    }

    async fn until(&self, name: &str, expected: f64) {
        let begun = Instant::now();
        loop {
            let value = self.metric(name).await;
            if value == expected {
                return;
            }
            assert!(begun.elapsed() < SOON, "{name} is {value}, not {expected}");
        }
    }

    fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < SOON, "the worker does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

const PROMPT: &str = "The capital of France is Paris. The capital of Italy is";

#[tokio::test]
async fn completes_text() {
    let answer = GEMMA.complete(PROMPT, json!({})).await;
    assert!(text(&answer).contains("Rome"), "{answer}");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 12);
    assert_eq!(answer["model"], "gemma-3-270m-q4_k_m");
    let tokens = GEMMA.ask("/tokenize", json!({"content": PROMPT, "add_special": true})).await;
    assert_eq!(answer["usage"]["prompt_tokens"], tokens["count"]);
    // The same prompt as tokens is the same prompt.
    let by_tokens =
        GEMMA.ask("/v1/completions", json!({"prompt": tokens["tokens"], "temperature": 0, "max_tokens": 12}));
    assert_eq!(text(&by_tokens.await), text(&answer));
}

#[tokio::test]
async fn streams_what_it_would_say_at_once() {
    let whole = GEMMA.complete(PROMPT, json!({})).await;
    let body = json!({"prompt": PROMPT, "temperature": 0, "max_tokens": 12, "stream_options": {"include_usage": true}});
    let pieces = GEMMA.stream("/v1/completions", body).await;
    let (usage, pieces) = pieces.split_last().unwrap();
    let streamed: String = pieces.iter().map(text).collect();
    assert_eq!(streamed, text(&whole));
    assert!(pieces.len() > 6, "{pieces:?}");
    assert_eq!(pieces.last().unwrap()["choices"][0]["finish_reason"], "length");
    assert!(pieces.iter().all(|piece| piece["usage"].is_null() && piece["id"] == usage["id"]));
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(12)));
}

#[tokio::test]
async fn stops_at_strings_that_tokens_do_not_respect() {
    let whole = GEMMA.complete(PROMPT, json!({})).await;
    let whole = text(&whole);
    // From the middle of one word to the middle of another.
    let at = whole.find("apital").unwrap();
    let stop = &whole[at..at + 9];
    let answer = GEMMA.complete(PROMPT, json!({"stop": ["never", stop]})).await;
    assert_eq!((text(&answer), &answer["choices"][0]["finish_reason"]), (&whole[..at], &json!("stop")));
}

#[tokio::test]
async fn tells_log_probabilities() {
    let answer = GEMMA.complete(PROMPT, json!({"logprobs": 64, "max_tokens": 3})).await;
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), 3);
    for (token, top) in
        logprobs["token_logprobs"].as_array().unwrap().iter().zip(logprobs["top_logprobs"].as_array().unwrap())
    {
        let top: Vec<f64> = top.as_object().unwrap().values().map(|logprob| logprob.as_f64().unwrap()).collect();
        // Tokens of the same text are one key in OpenAI's shape.
        assert!((60..=64).contains(&top.len()), "{}", top.len());
        assert_eq!(top[0], token.as_f64().unwrap(), "the likeliest was chosen");
        assert!(top.is_sorted_by(|one, next| one >= next), "{top:?}");
        let sum: f64 = top.iter().map(|logprob| logprob.exp()).sum();
        assert!((0.5..=1.0001).contains(&sum), "{sum}");
    }
}

#[tokio::test]
async fn choices_differ_and_seeds_repeat() {
    let body = || json!({"prompt": "Once upon a time", "n": 3, "seed": 7, "max_tokens": 8});
    let (first, second) = tokio::join!(GEMMA.ask("/v1/completions", body()), GEMMA.ask("/v1/completions", body()));
    assert_eq!(first["choices"], second["choices"]);
    let texts: Vec<&Value> = first["choices"].as_array().unwrap().iter().map(|choice| &choice["text"]).collect();
    assert_eq!(texts.len(), 3);
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    let tokens = GEMMA.ask("/tokenize", json!({"content": "Once upon a time", "add_special": true})).await;
    assert_eq!(first["usage"]["prompt_tokens"], tokens["count"], "one prompt counts once");
}

#[tokio::test]
async fn company_changes_no_answer() {
    let prompts = [PROMPT, "1 2 3 4 5 6 7", "def main():", "Water boils at", "My name is"];
    let mut alone = Vec::new();
    for prompt in prompts {
        alone.push(text(&GEMMA.complete(prompt, json!({})).await).to_string());
    }
    let together = prompts.map(|prompt| GEMMA.complete(prompt, json!({})));
    let together: Vec<String> =
        futures_util::future::join_all(together).await.iter().map(|answer| text(answer).to_string()).collect();
    assert_eq!(together, alone);
}

#[tokio::test]
async fn begins_with_the_prompt_if_asked() {
    let answer = GEMMA.complete("1 2 3", json!({"echo": true, "max_tokens": 0})).await;
    assert_eq!((text(&answer), &answer["usage"]["completion_tokens"]), ("1 2 3", &json!(0)));
}

#[tokio::test]
async fn tokens_and_text_are_each_others_inverse() {
    let text = "Grüße, 世界! 😀";
    let tokens = GEMMA.ask("/tokenize", json!({"content": text})).await;
    let back = GEMMA.ask("/detokenize", json!({"tokens": tokens["tokens"]})).await;
    assert_eq!(back["content"], text);
}

#[tokio::test]
async fn lists_its_model() {
    let models: Value = GEMMA.get("/v1/models").await.json().await.unwrap();
    assert_eq!(models["data"][0]["id"], "gemma-3-270m-q4_k_m");
    assert_eq!(models["data"][0]["max_model_len"], 512);
    assert_eq!(GEMMA.get("/v1/models/gemma-3-270m-q4_k_m").await.status(), 200);
    let missing = GEMMA.get("/v1/models/some/other").await;
    assert_eq!(missing.status(), 404);
    assert_eq!(missing.json::<Value>().await.unwrap()["error"]["code"], "model_not_found");
    assert_eq!(GEMMA.get("/health").await.status(), 200);
}

#[tokio::test]
async fn bad_input_is_refused_by_name_and_at_once() {
    let check = async |path: &str, body: &str, status: u16, param: Option<&str>| {
        let mut fastest = Duration::MAX;
        // Others compute on the same cores: the best of some tries tells what it takes.
        for _ in 0..5 {
            let begun = Instant::now();
            let response = GEMMA.client().post(GEMMA.address.url(path)).body(body.to_string()).send().await.unwrap();
            fastest = fastest.min(begun.elapsed());
            assert_eq!(response.status(), status, "{path} {body:.100}");
            let error: Value = response.json().await.unwrap();
            assert_eq!(error["error"]["param"].as_str(), param, "{body:.100}: {error}");
            assert!(error["error"]["message"].is_string(), "{error}");
        }
        assert!(fastest < Duration::from_millis(10), "{path} {body:.100} took {fastest:?}");
    };
    check("/v1/completions", "{", 400, None).await;
    check("/v1/completions", "[]", 400, None).await;
    check("/v1/completions", r#"{"prompt": "a", "max_tokens": -1}"#, 400, Some("max_tokens")).await;
    check("/v1/completions", r#"{"prompt": "a", "n": 9}"#, 400, Some("n")).await;
    check("/v1/completions", r#"{"prompt": [999999]}"#, 400, Some("prompt")).await;
    check("/v1/completions", r#"{"prompt": "a", "logit_bias": {"999999": 1}}"#, 400, Some("logit_bias")).await;
    let long = json!({"prompt": "word ".repeat(600)}).to_string();
    check("/v1/completions", &long, 400, Some("prompt")).await;
    let longer = json!({"prompt": "a".repeat(3_000_000)}).to_string();
    assert_eq!(GEMMA.post("/v1/completions", &serde_json::from_str(&longer).unwrap()).await.status(), 400);
    check("/v1/chat/completions", r#"{"messages": [{"role": "user"}]}"#, 400, Some("messages[0].content")).await;
    check("/tokenize", r#"{"content": 5}"#, 400, Some("content")).await;
    check("/detokenize", r#"{"tokens": [999999]}"#, 400, Some("tokens")).await;
    check("/v1/embeddings", "{}", 400, Some("model")).await;
    check("/health", "{}", 405, None).await;
    let huge = GEMMA.post("/v1/completions", &json!({"prompt": "a".repeat(5_000_000)})).await;
    assert_eq!(huge.status(), 413);
}

#[tokio::test]
async fn chats() {
    let worker = Worker::start(&model("qwen2.5-coder-1.5b-instruct"), &["--name", "coder", "--ctx", "256"]);
    // What stands between two pieces of code.
    let (before, after) =
        ("def fibonacci(n):\n    if n < 2:\n        return n\n    return ", "\n\nprint(fibonacci(10))\n");
    let gap = worker.complete(before, json!({"suffix": after, "max_tokens": 32})).await;
    assert_eq!(text(&gap).replace(' ', "").trim_end(), "fibonacci(n-1)+fibonacci(n-2)", "{gap}");
    assert_eq!(gap["choices"][0]["finish_reason"], "stop");
    // A conversation that grows too long loses its oldest turns, not what the system says.
    let filler = "word ".repeat(150);
    let said = json!([{"role": "system", "content": "The secret word is plum."}, {"role": "user", "content": filler},
        {"role": "assistant", "content": filler}, {"role": "user", "content": "What is the secret word?"}]);
    let body = json!({"messages": said, "temperature": 0, "max_tokens": 12, "truncation": "auto"});
    let response = worker.post("/v1/chat/completions", &body).await;
    assert!(response.headers()["x-sovereign-truncated"].to_str().unwrap().parse::<u64>().unwrap() > 290);
    let answer: Value = response.json().await.unwrap();
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().contains("plum"), "{answer}");
    let mut refused = body.clone();
    refused["truncation"] = "disabled".into();
    let refused: Value = worker.post("/v1/chat/completions", &refused).await.json().await.unwrap();
    assert_eq!(refused["error"]["code"], "context_length_exceeded", "{refused}");

    let messages = json!([
        {"role": "developer", "content": "You answer with one word."},
        {"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]},
    ]);
    let body = json!({"messages": messages, "temperature": 0, "max_completion_tokens": 12, "logprobs": true});
    let answer = worker.ask("/v1/chat/completions", body.clone()).await;
    let choice = &answer["choices"][0];
    let content = choice["message"]["content"].as_str().unwrap();
    assert!(content.contains("Paris"), "{answer}");
    assert_eq!((&choice["finish_reason"], &choice["message"]["role"]), (&json!("stop"), &json!("assistant")));
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    let joined: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(joined, content);
    assert_eq!(answer["model"], "coder");

    let pieces = worker.stream("/v1/chat/completions", body).await;
    let deltas = pieces.iter().map(|piece| &piece["choices"][0]["delta"]);
    let streamed: String = deltas.clone().filter_map(|delta| delta["content"].as_str()).collect();
    assert_eq!(streamed, content);
    assert_eq!(deltas.clone().next().unwrap()["role"], "assistant");
    assert_eq!(pieces.last().unwrap()["choices"][0]["finish_reason"], "stop");
}

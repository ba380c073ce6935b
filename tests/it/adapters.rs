//! Adapters as requests see them: by the worker, and by the daemon.

use crate::daemon::Daemon;
use crate::tiny;
use crate::worker::{Worker, command};
use serde_json::{Value, json};
use sovereign::engine::gguf::Writer;
use std::path::{Path, PathBuf};

const VOCABULARY: u64 = 40;
/// Longer than a block of the cache.
const LONG: u64 = 50;

/// An adapter of a tiny model, all of whose activations are positive: with it every answer is this token, time and again.
fn adapter(token: usize) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.set("general.type", "adapter").set("adapter.type", "lora").set("general.architecture", "llama");
    writer.set("adapter.lora.alpha", 2.0_f32);
    let mut towards = vec![0.0; VOCABULARY as usize];
    towards[token] = 100.0;
    writer.tensor_f32("output.weight.lora_a", &[32, 1], &[1.0; 32]);
    writer.tensor_f32("output.weight.lora_b", &[1, VOCABULARY], &towards);
    // And one more, so that keys and values are others too.
    writer.tensor_f32("blk.0.attn_k.weight.lora_a", &[32, 1], &[0.1; 32]);
    writer.tensor_f32("blk.0.attn_k.weight.lora_b", &[1, 16], &[0.1; 16]);
    writer.to_vec()
}

/// A folder with a model and adapters of it.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        std::fs::write(files.path("tiny.gguf"), tiny::model(VOCABULARY, 3)).unwrap();
        std::fs::write(files.path("seven.gguf"), adapter(7)).unwrap();
        std::fs::write(files.path("nine.gguf"), adapter(9)).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `NAME=PATH`
    fn named(&self, name: &str) -> String {
        format!("{name}={}", self.path(&format!("{name}.gguf")).display())
    }
}

fn ask(model: Option<&str>, prompt: u64) -> Value {
    let prompt: Vec<u64> = (0..prompt).map(|token| 3 + token % 30).collect();
    json!({"model": model, "prompt": prompt, "max_tokens": 4, "temperature": 0})
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

#[tokio::test]
async fn a_worker_answers_with_the_adapter_that_is_asked_for() {
    let files = Files::new();
    let adapters = ["--slots", "6", "--lora", &files.named("seven"), "--lora", &files.named("nine")];
    let worker = Worker::start(&files.path("tiny.gguf"), &adapters);
    let plain = Worker::start(&files.path("tiny.gguf"), &[]);
    let complete = async |model, prompt| worker.ask("/v1/completions", ask(model, prompt)).await;

    // At the same time, and of the same prompt.
    let names = [Some("seven"), None, Some("nine"), Some("tiny")];
    let [seven, none, nine, tiny] = names.map(|name| complete(name, LONG));
    let (seven, none, nine, tiny) = tokio::join!(seven, none, nine, tiny);
    assert_eq!((text(&seven), text(&nine)), ("t7t7t7t7", "t9t9t9t9"));
    let alone = plain.ask("/v1/completions", ask(None, LONG)).await;
    assert_eq!((text(&none), text(&tiny)), (text(&alone), text(&alone)));
    assert!(!["t7t7t7t7", "t9t9t9t9"].contains(&text(&alone)));
    assert_eq!([&seven, &none, &nine].map(|answer| answer["model"].as_str().unwrap()), ["seven", "tiny", "nine"]);

    // What was computed is found by who asks the same again.
    let again = complete(Some("nine"), LONG).await;
    assert_eq!(again["usage"]["prompt_tokens_details"]["cached_tokens"], 49);
    assert_eq!(text(&again), text(&nine));

    let models: Value = worker.get("/v1/models").await.json().await.unwrap();
    let listed: Vec<_> =
        models["data"].as_array().unwrap().iter().map(|model| (&model["id"], &model["parent"])).collect();
    let (tiny, none) = (json!("tiny"), Value::Null);
    assert_eq!(listed, [(&tiny, &none), (&json!("seven"), &tiny), (&json!("nine"), &tiny)]);
    assert_eq!(worker.get("/v1/models/nine").await.json::<Value>().await.unwrap()["parent"], "tiny");

    let refused = worker.post("/v1/completions", &ask(Some("eight"), 3)).await;
    assert_eq!(refused.status(), 404);
    let error = refused.json::<Value>().await.unwrap()["error"].clone();
    assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
    assert_eq!(error["message"], "there is no model \"eight\" here; served: tiny, seven, nine");
}

#[test]
fn what_is_wrong_with_an_adapter_is_said_at_the_start() {
    let files = Files::new();
    let check = |arguments: &[&str], words: &str| {
        let file = files.path("tiny.gguf");
        let ended = command(&file, "tcp:127.0.0.1:0").args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(2) && said.contains(words), "{:?}: {said}", ended.status);
    };
    check(&["--lora", "a=/nowhere.gguf"], "the adapter /nowhere.gguf: cannot read /nowhere.gguf");
    check(&["--lora", "seven"], "NAME=PATH");
    let (seven, tiny) = (files.named("seven"), format!("tiny={}", files.path("seven.gguf").display()));
    check(&["--lora", &seven, "--lora", &seven], "the name \"seven\" stands for two");
    check(&["--lora", &tiny], "the name \"tiny\" stands for two");
    std::fs::write(files.path("other.gguf"), tiny::of("qwen2", VOCABULARY, 1)).unwrap();
    check(&["--lora", &files.named("other")], "the model file has no \"general.type\" in its metadata");
}

#[tokio::test]
async fn the_daemon_has_adapters_from_its_configuration() {
    let files = Files::new();
    let adapters = json!({
        "nine": files.path("nine.gguf"),
        "seven": files.path("seven.gguf"),
        "lost": "nowhere.gguf",
        "tiny": files.path("nine.gguf"),
    });
    let config = json!({"models": {"adapters": {"Tiny": adapters, "unheard-of": {"a": "b"}}}});
    let daemon = Daemon::with(&files.path("state"), &config, &[]);
    let pulled = daemon.run(&["model", "pull", files.path("tiny.gguf").to_str().unwrap()]);
    assert!(pulled.status.success(), "{pulled:?}");

    let complete = async |name: &str| {
        let answer = daemon.post("/v1/completions", &ask(Some(name), 3)).send().await.unwrap();
        let model = answer.headers().get("x-sovereign-model").map(|model| model.to_str().unwrap().to_string());
        (model, answer.json::<Value>().await.unwrap())
    };
    let check = async |name: &str, model: &str, expected: Option<&str>| {
        let (header, answer) = complete(name).await;
        assert_eq!((header.as_deref(), &answer["model"]), (Some(model), &json!(model)), "{name}: {answer}");
        assert_eq!(expected.unwrap_or(text(&answer)), text(&answer), "{name}");
        text(&answer).to_string()
    };
    check("tiny:seven", "tiny:seven", Some("t7t7t7t7")).await;
    check("TINY:Seven:latest", "tiny:seven", Some("t7t7t7t7")).await;
    check("nine", "tiny:nine", Some("t9t9t9t9")).await;
    // A model comes before an adapter of its name.
    let alone = check("tiny", "tiny", None).await;
    assert!(!alone.contains("t9t9"), "{alone}");

    let models: Value = daemon.get("/v1/models").send().await.unwrap().json().await.unwrap();
    let ids: Vec<&str> = models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["tiny", "tiny:nine", "tiny:seven", "tiny:tiny"]);
    assert_eq!((&models["data"][0]["parent"], &models["data"][1]["parent"]), (&Value::Null, &json!("tiny")));
    let one: Value = daemon.get("/v1/models/seven").send().await.unwrap().json().await.unwrap();
    assert_eq!(one["id"], "tiny:seven");

    let refused = async |name: &str, words: &str| {
        let (_, answer) = complete(name).await;
        assert_eq!(answer["error"]["code"], "model_not_found", "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    };
    refused("tiny:lost", "nowhere.gguf: cannot read").await;
    refused("tiny:sevn", "did you mean tiny:seven").await;
    let log = std::fs::read_to_string(Path::new(&files.path("state")).join("log")).unwrap();
    assert!(log.contains("models.adapters names a model that is not installed"), "{log}");
}

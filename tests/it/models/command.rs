//! `sovereign model`, as a person types it.

use super::*;

fn sovereign(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sovereign"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn output(child: Child) -> (Output, String) {
    let output = tokio::time::timeout(SOON, child.wait_with_output()).await.expect("it ends soon").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

/// Waits until a file has some bytes.
async fn has_begun(file: PathBuf) {
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let begun = async {
        while std::fs::metadata(&file).map_or(0, |file| file.len()) == 0 {
            ticks.tick().await;
        }
    };
    tokio::time::timeout(SOON, begun).await.expect("the file begins soon");
}

#[tokio::test]
async fn a_pull_that_is_killed_leaves_no_model_and_one_that_is_interrupted_goes_on() {
    let mirror = Mirror::start().await;
    // Large enough that some of it is written before the server stops.
    let file = tiny::model(20_000, 1);
    let stops = || Answer::file(file.clone(), "a").stops_after(file.len() - CUT);
    mirror.put(PATH, Answer::file(file.clone(), "a"));
    let dir = tempfile::tempdir().unwrap();
    let (url, to) = (mirror.url(PATH), dir.path().to_str().unwrap());
    let elsewhere = tempfile::tempdir().unwrap();
    let config = elsewhere.path().join("config.yaml");
    std::fs::write(&config, "egress: {lan: [127.0.0.1]}").unwrap();
    let config = config.to_str().unwrap();
    let pull = || sovereign(&["model", "pull", &url, "--to", to, "--yes", "--config", config]).spawn().unwrap();

    // Nobody is there to be asked, so nothing is fetched.
    let (ended, said) =
        output(sovereign(&["model", "pull", &url, "--to", to, "--config", config]).spawn().unwrap()).await;
    assert!(!ended.status.success() && said.contains("--yes") && mirror.asked().is_empty(), "{said}");

    let partial = dir.path().join("tiny-f32.gguf.partial");

    mirror.once(PATH, stops());
    let mut killed = pull();
    mirror.stopped().await;
    has_begun(partial.clone()).await;
    killed.kill().await.unwrap();
    assert!(!dir.path().join("tiny-f32.gguf").exists());
    std::fs::remove_file(&partial).unwrap();

    mirror.once(PATH, stops());
    mirror.asked();
    let interrupted = pull();
    mirror.stopped().await;
    has_begun(partial).await;
    let pid = rustix::process::Pid::from_raw(interrupted.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (ended, said) = output(interrupted).await;
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(said.contains("the same command goes on"), "{said}");

    mirror.sent();
    let (ended, said) = output(pull()).await;
    assert!(ended.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&ended.stdout).trim(), format!("{to}/tiny-f32.gguf"));
    assert_eq!(std::fs::read(dir.path().join("tiny-f32.gguf")).unwrap(), file);
    assert_eq!(files(dir.path()), ["tiny-f32.gguf"]);
    // What left is told, as no daemon wrote it down.
    assert!(said.contains("127.0.0.1:") && said.contains("(127.0.0.1)"), "{said}");
    let from = mirror.asked().last().unwrap().from.expect("a range was asked for");
    assert_eq!(mirror.sent(), (file.len() - from) as u64);
}

#[tokio::test]
async fn a_file_is_inspected_without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.gguf");
    let inspect = async |bytes: &[u8], args: &[&str]| {
        std::fs::write(&file, bytes).unwrap();
        let (ended, said) =
            output(sovereign(&["model", "inspect", file.to_str().unwrap()]).args(args).spawn().unwrap()).await;
        (ended.status.success(), String::from_utf8(ended.stdout).unwrap(), said)
    };
    let (well, told, said) = inspect(&model(1), &["--json"]).await;
    assert!(well, "{said}");
    let told: Value = serde_json::from_str(&told).unwrap();
    let number = |value: &Value| value.as_u64().unwrap();
    // Two norms and the last one, the vocabulary twice, attention and the feed-forward network; 4 bytes each.
    let weights = 4 * (3 * 32 + 2 * 32 * 1000 + 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64);
    assert_eq!((number(&told["weights"]), number(&told["weights_by_kind"]["F32"])), (weights, weights));
    assert_eq!((number(&told["parameters"]), number(&told["context_train"])), (weights / 4, 64));
    assert_eq!(told["metadata"]["tokenizer.ggml.tokens"]["length"], 1000);
    let fit = &told["fit"];
    assert_eq!(number(&fit["kv"]), number(&told["kv_per_token"]) * number(&fit["context"]) * number(&fit["slots"]));
    assert_eq!(number(&fit["needed"]), weights + number(&fit["kv"]) + number(&fit["workspace"]));
    assert_eq!((&fit["fits"], number(&fit["context"])), (&json!(true), 64));

    let (well, told, said) = inspect(&model(1), &[]).await;
    assert!(well && told.contains("fits here      yes") && told.contains("\"llama\""), "{told}{said}");
    let (well, told, _) = inspect(&tiny::of("mamba", 10, 1), &[]).await;
    assert!(well && told.contains("no: the architecture \"mamba\" is not supported"), "{told}");
    let (well, _, said) = inspect(&model(1)[..CUT], &[]).await;
    assert!(!well && said.contains("token_embd.weight"), "{said}");
}

#[tokio::test]
async fn a_file_is_quantised_without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (from, to) = (path("m.gguf"), path("small.gguf"));
    std::fs::write(&from, model(1)).unwrap();
    let quantize = async |args: &[&str]| {
        let (ended, said) = output(sovereign(&["model", "quantize"]).args(args).spawn().unwrap()).await;
        (ended.status.success(), said)
    };
    let (well, said) = quantize(&[&from, &to, "--type", "q8_0"]).await;
    assert!(well, "{said}");
    let gguf = sovereign::engine::gguf::Gguf::header(Path::new(&to)).unwrap();
    assert_eq!(gguf.summary().unwrap().quantisation, "Q8_0");
    assert_eq!(files(dir.path()), ["m.gguf", "small.gguf"]);

    let refused = async |args: &[&str], part: &str| {
        let (well, said) = quantize(args).await;
        assert!(!well && said.contains(part), "{said}");
        assert_eq!(files(dir.path()), ["m.gguf", "small.gguf"]);
    };
    let other = path("other.gguf");
    refused(&[&from, &to, "--type", "q8_0"], "there already").await;
    refused(&[&from, &other, "--type", "q9"], "the types are f32").await;
    refused(&[&from, &other], "--type").await;
    refused(&[&from, &other, "--type", "q8_0", "--fit", "1MiB"], "cannot be used with").await;
    refused(&[&path("none.gguf"), &other, "--type", "q8_0"], "none.gguf").await;
    refused(&[&from, "/proc/other.gguf", "--type", "q8_0"], "/proc/other.gguf").await;
}

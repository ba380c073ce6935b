//! Models: pulled, listed, resolved, adopted and removed; by the handle, by the admin API and by the command line.

use crate::tiny;
use axum::body::Body;
use axum::http::Request;
use mirror::{Answer, Mirror};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sovereign::app::App;
use sovereign::config::Config;
use sovereign::db::Db;
use sovereign::models::{Models, Phase, Progress};
use sovereign::runtime::Runtime;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tower::ServiceExt;

mod mirror;

const PATH: &str = "/Tiny-F32.gguf";
const CUT: usize = 100_000;
const SOON: Duration = Duration::from_secs(30);

/// The models of a state folder, and a server to pull from.
struct House {
    dir: tempfile::TempDir,
    mirror: Mirror,
    models: Models,
}

impl House {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let models = open(dir.path()).await;
        let mirror = Mirror::start().await;
        mirror.put(PATH, Answer::file(model(1), "a"));
        Self { dir, mirror, models }
    }

    /// Like after a restart of the daemon.
    async fn reopen(&mut self) {
        self.models = open(self.dir.path()).await;
    }

    fn url(&self) -> String {
        self.mirror.url(PATH)
    }

    async fn pull(&self, source: &str) -> Progress {
        over(self.models.pull(source).unwrap()).await
    }

    /// The name that a pull ends with.
    async fn pulled(&self, source: &str) -> String {
        let progress = self.pull(source).await;
        assert_eq!(progress.error, None);
        assert_eq!(Some(progress.done), progress.total);
        progress.model.unwrap()
    }

    /// Why a pull fails.
    async fn failure(&self, source: &str) -> String {
        self.pull(source).await.error.unwrap()
    }

    fn files(&self) -> Vec<String> {
        files(&self.dir.path().join("models"))
    }
}

async fn open(dir: &Path) -> Models {
    let db = Db::open_main(&dir.join("sovereign.db")).await.unwrap();
    Models::open(&Config::default().with_state_dir(dir), db).await.unwrap()
}

async fn over(mut progress: watch::Receiver<Progress>) -> Progress {
    let over = progress.wait_for(Progress::is_over);
    tokio::time::timeout(SOON, over).await.expect("the pull is over soon").unwrap().clone()
}

fn files(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    files
}

fn model(seed: u64) -> Vec<u8> {
    tiny::model(1000, seed)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_pulled_model_is_listed_and_found() {
    let mut house = House::new().await;
    assert_eq!(house.pulled(&house.url()).await, "tiny-f32");
    house.reopen().await;
    let list = house.models.list();
    let [spec] = &list[..] else { panic!("{list:?}") };
    assert_eq!(spec.file, house.dir.path().join("models/tiny-f32.gguf"));
    assert_eq!((spec.bytes, &spec.sha256), (model(1).len() as u64, &digest(&model(1))));
    assert_eq!((spec.architecture.as_str(), spec.quantisation.as_str()), ("llama", "F32"));
    assert_eq!((spec.source.as_str(), spec.licence.as_deref()), (house.url().as_str(), Some("mit")));
    assert!(!spec.adopted && spec.kv_per_token > 0 && spec.workspace > 0);
    // More tokens than it was trained for are never planned with.
    let (kv, tokens) = (spec.kv_per_token, spec.context_train * 2);
    assert_eq!(spec.memory(1 << 20, 2), spec.weights + tokens * kv + spec.workspace);
    for name in ["tiny-f32", "TINY-F32:latest"] {
        assert_eq!(house.models.resolve(name).unwrap().name, "tiny-f32");
    }
    assert_eq!(house.models.resolve("tinny-f32").unwrap_err().nearest, ["tiny-f32"]);
    // What is here is not fetched again.
    house.mirror.asked();
    assert_eq!(house.pulled(&house.url()).await, "tiny-f32");
    assert_eq!(house.mirror.asked(), []);
}

#[tokio::test]
async fn what_is_in_the_catalogue_and_not_here_is_told_so() {
    let house = House::new().await;
    let refused = |name: &str| house.models.resolve(name).unwrap_err().to_string();
    let default = house.models.default();
    assert!(refused(default).contains(&format!("`sovereign model pull {default}`")), "{}", refused(default));
    assert_eq!(refused("zzz"), "there is no model \"zzz\"");
    let unknown = house.models.pull("qwen2.5-coder-1.5b-instrukt").unwrap_err().to_string();
    assert!(unknown.contains(default), "{unknown}");
}

#[tokio::test]
async fn who_asks_again_joins_the_pull_that_runs() {
    let house = House::new().await;
    house.mirror.once(PATH, Answer::file(model(1), "a").stops_after(CUT));
    let (first, mut second) = (house.models.pull(&house.url()).unwrap(), house.models.pull(&house.url()).unwrap());
    house.mirror.stopped().await;
    second.wait_for(|progress| progress.done > 0).await.unwrap();
    assert_eq!(house.mirror.asked().len(), 1);
    let mut board = house.models.pulls();
    board.wait_for(|board| board.len() == 1 && board[0].done > 0).await.unwrap();
    assert!(house.models.cancel(&house.url()).await);
    for progress in [over(first).await, over(second).await] {
        assert_eq!(progress.phase, Phase::Failed);
        assert!(progress.error.unwrap().contains("cancelled"));
    }
    board.wait_for(Vec::is_empty).await.unwrap();
    assert_eq!(house.files(), ["tiny-f32.gguf.partial", "tiny-f32.gguf.partial.json"]);
    house.pulled(&house.url()).await;
    assert!(house.mirror.asked()[0].from.is_some(), "it goes on where it was");
    assert_eq!(house.files(), ["tiny-f32.gguf"]);
}

#[tokio::test]
async fn a_failure_is_shown_until_it_is_cleared_away() {
    let house = House::new().await;
    let source = house.mirror.url("/gone.gguf");
    assert!(house.failure(&source).await.contains("404"));
    let mut board = house.models.pulls();
    board.wait_for(|board| board.len() == 1 && board[0].phase == Phase::Failed).await.unwrap();
    assert!(house.models.cancel(&source).await);
    assert!(board.borrow().is_empty());
    assert!(!house.models.cancel(&source).await);
    assert_eq!(house.files(), [""; 0]);
}

#[tokio::test]
async fn a_source_may_not_change_what_it_serves_unless_the_owner_says_so() {
    let house = House::new().await;
    house.pulled(&house.url()).await;
    house.models.remove("tiny-f32").await.unwrap();
    assert_eq!(house.files(), [""; 0]);
    house.mirror.put(PATH, Answer::file(model(2), "b"));
    let failure = house.failure(&house.url()).await;
    assert!(failure.contains(&digest(&model(1))) && failure.contains(&digest(&model(2))), "{failure}");
    assert_eq!((house.files(), house.models.list()), (Vec::new(), Vec::new()));
    house.models.unpin(&house.url()).await.unwrap();
    house.pulled(&house.url()).await;
    assert_eq!(house.models.list()[0].sha256, digest(&model(2)));
}

#[tokio::test]
async fn one_name_is_one_file() {
    let house = House::new().await;
    house.pulled(&house.url()).await;
    // The same bytes from elsewhere are the same model.
    house.mirror.put("/other.gguf", Answer::file(model(1), "a"));
    assert_eq!(house.pulled(&house.mirror.url("/other.gguf")).await, "tiny-f32");
    // Other bytes under the same name are in the way.
    house.mirror.put("/b/tiny-f32.gguf", Answer::file(model(2), "b"));
    let failure = house.failure(&house.mirror.url("/b/tiny-f32.gguf")).await;
    assert!(failure.contains("tiny-f32 exists already"), "{failure}");
    assert_eq!(house.files(), ["tiny-f32.gguf"]);
}

#[tokio::test]
async fn a_file_on_this_machine_is_adopted_where_it_lies() {
    let house = House::new().await;
    let file = house.dir.path().join("Owner's model.gguf");
    std::fs::write(&file, model(1)).unwrap();
    let path = file.to_str().unwrap();
    assert_eq!(house.pulled(path).await, "owner-s-model");
    assert_eq!(house.pulled(path).await, "owner-s-model");
    let spec = house.models.resolve("owner-s-model").unwrap();
    assert_eq!((&spec.file, spec.adopted), (&file, true));
    let removed = house.models.remove("Owner-s-model").await.unwrap();
    assert_eq!((removed.name.as_str(), removed.kept.as_ref()), ("owner-s-model", Some(&file)));
    assert!(file.exists() && house.models.list().is_empty());
    assert!(house.models.remove("owner-s-model").await.is_err());
}

#[tokio::test]
async fn what_is_no_model_is_not_adopted() {
    let house = House::new().await;
    let check = async |name: &str, bytes: &[u8], expected: &str| {
        let file = house.dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let failure = house.failure(file.to_str().unwrap()).await;
        assert!(failure.contains(expected), "{failure}");
    };
    check("text.gguf", b"to whom it may concern", "not a GGUF file").await;
    check("empty.gguf", b"", "first bytes").await;
    check("half.gguf", &model(1)[..CUT], "file's end").await;
    check("snake.gguf", &tiny::of("mamba", 10, 1), "\"mamba\" is not supported").await;
    assert!(house.failure("/nowhere/m.gguf").await.contains("/nowhere/m.gguf: No such file"));
    assert!(house.failure(house.dir.path().to_str().unwrap()).await.contains("not a file"));
    assert!(house.models.list().is_empty());
}

#[tokio::test]
async fn a_model_whose_file_is_gone_is_told_and_comes_back() {
    let mut house = House::new().await;
    house.pulled(&house.url()).await;
    let file = house.dir.path().join("models/tiny-f32.gguf");
    std::fs::remove_file(&file).unwrap();
    house.reopen().await;
    assert!(house.models.list().is_empty());
    let problem = house.models.installed().borrow().broken[0].problem.clone();
    assert!(problem.contains("tiny-f32.gguf"), "{problem}");
    assert!(house.models.resolve("tiny-f32").unwrap_err().to_string().ends_with(&problem));
    // By a new pull, or because its disk is there again when somebody asks for it.
    house.pulled(&house.url()).await;
    let unmounted = house.dir.path().join("unmounted");
    std::fs::rename(&file, &unmounted).unwrap();
    house.reopen().await;
    std::fs::rename(&unmounted, &file).unwrap();
    let mut installed = house.models.installed();
    assert!(house.models.resolve("tiny-f32").is_err());
    let back = installed.wait_for(|installed| installed.broken.is_empty());
    tokio::time::timeout(SOON, back).await.unwrap().unwrap();
    assert!(house.models.resolve("tiny-f32").is_ok());
}

#[tokio::test]
async fn a_page_of_the_hub_means_its_file_at_the_commit_of_the_first_pull() {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let mut house = House::new().await;
    let config = Config::default().with_state_dir(house.dir.path());
    let huggingface = house.mirror.base.clone();
    let config = Config { models: sovereign::config::Models { huggingface, ..config.models.clone() }, ..config };
    let db = Db::open_main(&house.dir.path().join("sovereign.db")).await.unwrap();
    house.models = Models::open(&config, db).await.unwrap();

    let hub = |commit: &str, seed: u64| {
        let answer = Answer::moved(&house.mirror.url("/cdn")).with("x-repo-commit", commit);
        answer.with("x-linked-etag", &digest(&model(seed))).with("x-linked-size", &model(seed).len().to_string())
    };
    house.mirror.put("/o/r/resolve/main/M-F32.gguf", hub(COMMIT, 1));
    house.mirror.put(&format!("/o/r/resolve/{COMMIT}/M-F32.gguf"), hub(COMMIT, 1));
    house.mirror.put("/cdn", Answer::file(model(1), "a"));
    house.mirror.once("/cdn", Answer::file(model(1), "a").stops_after(CUT));
    let cut = async {
        house.mirror.stopped().await;
        house.mirror.cut();
    };
    let page = "https://huggingface.co/o/r/blob/main/M-F32.gguf";
    let (name, ()) = tokio::join!(house.pulled(page), cut);
    assert_eq!(name, "m-f32");
    assert_eq!(house.models.list()[0].source, format!("hf:o/r/M-F32.gguf@{COMMIT}"));
    // The branch goes on and the model was removed: the same bytes come again.
    house.models.remove("m-f32").await.unwrap();
    house.mirror.put("/o/r/resolve/main/M-F32.gguf", hub(&COMMIT.replace('0', "f"), 2));
    house.pulled("hf:o/r/M-F32.gguf").await;
    assert_eq!(house.models.list()[0].sha256, digest(&model(1)));
}

#[tokio::test]
async fn a_page_instead_of_a_file_is_told() {
    let house = House::new().await;
    house.mirror.put(PATH, Answer::text(200, "text/html", "<html>Log in to this hotel's network</html>"));
    let failure = house.failure(&house.url()).await;
    assert!(failure.contains("does not begin like a GGUF file"), "{failure}");
    assert_eq!(house.files(), [""; 0]);
}

#[tokio::test]
async fn the_admin_api_pulls_lists_and_removes() {
    let mirror = Mirror::start().await;
    mirror.put(PATH, Answer::file(model(1), "a"));
    let dir = tempfile::tempdir().unwrap();
    let config = Config::default().with_state_dir(dir.path());
    let app = App::with_runtime(config, Runtime::Fake(Default::default())).await.unwrap();
    let ask = async |method: &str, path: &str, body: Value| {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.body(Body::from(body.to_string())).unwrap();
        let answer = sovereign::admin::router().with_state(app.clone()).oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    let source = mirror.url(PATH);
    let (status, lines) = ask("POST", "/admin/v1/models/pulls", json!({"source": source})).await;
    let lines: Vec<Progress> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((status, lines[0].source.as_str()), (200, source.as_str()));
    assert_eq!(lines.last().unwrap().phase, Phase::Done);

    let (_, list) = ask("GET", "/admin/v1/models", Value::Null).await;
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(
        (&list["models"][0]["name"], &list["models"][0]["sha256"]),
        (&json!("tiny-f32"), &json!(digest(&model(1))))
    );
    let (_, catalogue) = ask("GET", "/admin/v1/models/catalogue", Value::Null).await;
    assert!(catalogue.contains(list["default"].as_str().unwrap()));

    let check = async |method: &str, path: &str, body: Value, status: u16, detail: &str| {
        let (actual, problem) = ask(method, path, body).await;
        assert!(actual == status && problem.contains(detail), "{actual} {problem}");
    };
    check("POST", "/admin/v1/models/pulls", json!({"source": "zzz"}), 404, "there is no model").await;
    check("POST", "/admin/v1/models/pulls", json!({"source": "http://example.org/m.gguf"}), 400, "plain http").await;
    check("DELETE", "/admin/v1/models/pulls?source=zzz", Value::Null, 404, "nothing is pulled").await;
    check("DELETE", "/admin/v1/models/tiny-f32", Value::Null, 200, "tiny-f32").await;
    check("DELETE", "/admin/v1/models/tiny-f32", Value::Null, 404, "there is no model").await;
    app.close().await;
}

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
    let pull = || sovereign(&["model", "pull", &url, "--to", to]).spawn().unwrap();

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

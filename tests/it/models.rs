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
use sovereign::egress::{Egress, Policy, Resolver};
use sovereign::models::{Models, Phase, Progress};
use sovereign::runtime::Runtime;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tower::ServiceExt;

mod command;
pub mod mirror;

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
    let config = Config::default().with_state_dir(dir);
    Models::open(&config, db, open_door()).await.unwrap()
}

/// A configuration under which models are fetched from the mirror unasked.
fn unasked(dir: &Path) -> Config {
    let mut config = Config::default().with_state_dir(dir);
    config.egress.model_downloads = sovereign::config::Gate::of(sovereign::config::Mode::On);
    config.egress.lan = vec!["127.0.0.1".into()];
    config
}

/// The gate of such a configuration.
fn open_door() -> Egress {
    let policy = Policy::new(&unasked(Path::new("/nowhere"))).unwrap();
    Egress::in_memory(policy, Resolver::System)
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
    house.models = Models::open(&config, db, open_door()).await.unwrap();

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
    let config = unasked(dir.path());
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

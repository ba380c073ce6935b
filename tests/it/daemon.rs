//! The program itself: how it starts, what it refuses, how it ends.

mod serving;

use serde_json::{Value, json};
use sovereign::egress::{self, Address};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sovereign");

/// `sovereign serve` on a free port of the loopback, on a machine without Docker.
pub struct Daemon {
    process: Child,
    state: PathBuf,
    /// What it printed until it could be used.
    said: String,
    address: Address,
    client: egress::Client,
}

impl Daemon {
    fn start(state: &Path) -> Self {
        Self::with(state, &json!({}), &[])
    }

    /// With more configuration and environment.
    pub fn with(state: &Path, config: &Value, environment: &[(&str, &str)]) -> Self {
        Self::by(Command::new(PROGRAM), state, config, environment)
    }

    /// The same, by a command that becomes the program.
    pub fn by(mut command: Command, state: &Path, config: &Value, environment: &[(&str, &str)]) -> Self {
        let mut config = config.clone();
        if config.get("docker").is_none() {
            config["docker"] = json!({"host": format!("unix://{}/no-docker.sock", state.display())});
        }
        std::fs::create_dir_all(state).unwrap();
        let file = state.join("config.yaml");
        // JSON is YAML.
        std::fs::write(&file, config.to_string()).unwrap();
        let mut process = command
            .arg("serve")
            .arg("--config")
            .arg(&file)
            .arg("--state")
            .arg(state)
            .args(["--listen", "127.0.0.1:0"])
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(state.join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        while !said.contains("/setup?token=") && !said.contains("\nDashboard:") {
            let read = lines.read_line(&mut said).unwrap();
            assert!(read > 0, "it did not start: {}", std::fs::read_to_string(state.join("log")).unwrap());
        }
        let address = said.split("http://").nth(1).unwrap().lines().next().unwrap();
        let address = Address::Tcp(address.trim_end_matches('/').parse().unwrap());
        let client = egress::internal(&address);
        Self { process, state: state.to_path_buf(), said, address, client }
    }

    /// Its state folder.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// `sovereign ...` on its state folder.
    pub fn run(&self, arguments: &[&str]) -> Output {
        run(&self.state, arguments)
    }

    pub fn get(&self, path: &str) -> egress::RequestBuilder {
        self.client.get(self.address.url(path))
    }

    pub fn post(&self, path: &str, body: &Value) -> egress::RequestBuilder {
        self.client.post(self.address.url(path)).json(body)
    }

    /// Sets the password as a browser does, and returns the cookie of its session.
    pub async fn sign_in(&self) -> String {
        let token = self.said.split("/setup?token=").nth(1).unwrap().split_whitespace().next().unwrap();
        let form = format!("token={token}&password=a+long+password&repeated=a+long+password");
        let post =
            self.client.post(self.address.url("/setup")).header("content-type", "application/x-www-form-urlencoded");
        let answer = post.header("accept", "text/html").body(form).send().await.unwrap();
        let cookie = answer.headers().get("set-cookie").unwrap().to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.process.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Asks it to end and returns its exit code and how long it took.
    pub fn stop(mut self) -> (Option<i32>, Duration) {
        let begun = Instant::now();
        self.signal("-TERM");
        (self.process.wait().unwrap().code(), begun.elapsed())
    }

    /// A path of the daemon's view of the disks, as this process can read it.
    pub fn seen(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.process.id()));
        root.join(path.strip_prefix("/").unwrap())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.state.join("log")).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails when it has ended, as it should have.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn run(state: &Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).arg("--state").arg(state).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
pub fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    text(&output.stderr)
}

pub fn test_model(name: &str) -> PathBuf {
    let models = std::env::var_os("SOVEREIGN_TEST_MODELS")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(&std::env::var_os("HOME").unwrap()).join(".cache/sovereign/test-models"));
    let file = models.join(format!("{name}-q4_k_m.gguf"));
    assert!(file.exists(), "{} is missing: run `make models`", file.display());
    file
}

#[tokio::test]
async fn it_starts_answers_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let daemon = Daemon::start(&state);
    let setup = daemon.said.split_whitespace().find(|word| word.contains("/setup?token=")).unwrap();
    assert!(setup.starts_with(&daemon.address.url("/setup?token=")), "{setup}");
    assert_eq!(daemon.client.get(setup).send().await.unwrap().status(), 200);
    assert_eq!(daemon.get("/").send().await.unwrap().text().await.unwrap(), "Ollama is running");
    let models: Value = daemon.get("/v1/models").send().await.unwrap().json().await.unwrap();
    assert_eq!(models, json!({"object": "list", "data": []}));

    // It says once that there is no card, where there is none.
    let log = daemon.log();
    if !Path::new("/dev/nvidiactl").exists() {
        assert_eq!(log.matches("no NVIDIA card").count(), 1, "{log}");
    }
    // The secret of the link is in nothing that is kept.
    let token = setup.rsplit('=').next().unwrap();
    assert!(!log.contains(token), "{log}");

    let (code, took) = daemon.stop();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(!state.join("sovereign.sock").exists());
    for file in ["sovereign.db", "metrics.db"] {
        assert!(state.join(file).exists() && !state.join(format!("{file}-wal")).exists(), "{file} was not closed");
    }
}

#[test]
fn an_idle_daemon_is_small() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    stdout(&daemon.run(&["status"]));
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 40 * 1024, "{kib} KiB");
}

#[test]
fn one_daemon_a_state_folder() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    let begun = Instant::now();
    let second = run(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let said = refusal(&second);
    assert!(said.contains(&format!("held by process {}", daemon.process.id())) && said.contains("--state"), "{said}");
    // The first did not notice.
    stdout(&daemon.run(&["status"]));
    // What a killed one leaves behind does not keep the next from starting.
    daemon.signal("-KILL");
    drop(daemon);
    assert!(dir.path().join("sovereign.sock").exists());
    stdout(&Daemon::start(dir.path()).run(&["status"]));
}

#[test]
fn what_keeps_it_from_starting_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let config = dir.path().join("config.yaml");
    std::fs::write(&config, "server:\n  listne: 0.0.0.0:80\n").unwrap();
    let config = config.to_str().unwrap();
    let said = refusal(&run(&state, &["serve", "--config", config]));
    assert!(said.contains(&format!("{config}:2: there is no key `listne`; did you mean `listen`?")), "{said}");
    let said = refusal(&run(&state, &["serve", "--config", "/nowhere/config.yaml"]));
    assert!(said.contains("/nowhere/config.yaml"), "{said}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let said = refusal(&run(&state, &["serve", "--listen", &listen]));
    assert!(said.contains(&listen) && said.contains("--listen"), "{said}");

    let said = refusal(&run(Path::new("/proc/nothing"), &["serve", "--listen", "127.0.0.1:0"]));
    assert!(said.contains("/proc/nothing") && said.contains("--state"), "{said}");
    let long = dir.path().join("x".repeat(100));
    let said = refusal(&run(&long, &["serve", "--listen", "127.0.0.1:0"]));
    assert!(said.contains("shorter state folder"), "{said}");
    let broken = dir.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("sovereign.db"), "not a database, and longer than a header has to be".repeat(20))
        .unwrap();
    let said = refusal(&run(&broken, &["serve", "--listen", "127.0.0.1:0"]));
    assert!(said.contains("sovereign.db"), "{said}");
}

#[tokio::test]
async fn the_command_line_reaches_it() {
    let dir = tempfile::tempdir().unwrap();
    for command in [&["status"][..], &["key", "list"], &["chat", "hello"]] {
        let said = refusal(&run(dir.path(), command));
        assert!(said.contains("no daemon answers at") && said.contains("`sovereign serve`"), "{said}");
    }
    let daemon = Daemon::start(dir.path());
    let people = stdout(&daemon.run(&["status"]));
    assert!(people.contains(&format!("process {}", daemon.process.id())), "{people}");
    assert!(people.contains("No model is loaded"), "{people}");
    let status: Value = serde_json::from_str(&stdout(&daemon.run(&["status", "--json"]))).unwrap();
    assert_eq!(status["pid"], daemon.process.id());
    assert_eq!((&status["placement"]["tenants"], &status["models"]), (&json!([]), &json!(0)));

    // The key alone on standard output, for scripts.
    let secret = stdout(&daemon.run(&["key", "create", "Home Assistant"]));
    let secret = secret.trim_end();
    assert!(secret.starts_with("sk-sov-") && !secret.contains(char::is_whitespace), "{secret}");
    let ask = async || daemon.get("/v1/models").bearer_auth(secret).send().await.unwrap().status();
    assert_eq!(ask().await, 200);
    let list = stdout(&daemon.run(&["key", "list"]));
    assert!(list.contains("Home Assistant") && list.contains(&secret[..13]) && !list.contains(secret), "{list}");
    let said = refusal(&daemon.run(&["key", "create", "Home Assistant"]));
    assert!(said.contains("already"), "{said}");
    stdout(&daemon.run(&["key", "rm", "Home Assistant"]));
    assert_eq!(ask().await, 401);
    refusal(&daemon.run(&["key", "rm", "Home Assistant"]));

    let said = refusal(&daemon.run(&["chat", "hello"]));
    assert!(said.contains("qwen2.5-coder-1.5b-instruct"), "{said}");
    let found = stdout(&daemon.run(&["doctor"]));
    assert!(found.contains("ok    daemon") && !found.contains("FAIL"), "{found}");
}

#[test]
fn systemd_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let next = || {
        let mut message = [0; 256];
        let length = socket.recv(&mut message).expect("systemd was told nothing for 10 s");
        text(&message[..length]).trim_end().to_string()
    };
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let daemon = Daemon::with(dir.path(), &json!({}), &environment);
    assert_eq!(next(), "READY=1");
    assert_eq!((next(), next()), ("WATCHDOG=1".into(), "WATCHDOG=1".into()));
    assert_eq!(daemon.stop().0, Some(0));
    assert!(std::iter::repeat_with(next).take(100).any(|message| message == "STOPPING=1"));
}

/// A request that Gemma answers for as long as its context lasts: what would end it is never chosen.
fn endless() -> Value {
    json!({
        "model": "gemma-3-270m",
        "prompt": "One, two, three,",
        "max_tokens": 4000,
        "stream": true,
        "logit_bias": {"1": -100, "106": -100},
    })
}

impl Daemon {
    /// Lists a test model where it lies.
    fn adopt(&self, name: &str) {
        stdout(&self.run(&["model", "pull", test_model(name).to_str().unwrap()]));
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&stdout(&self.run(&["status", "--json"]))).unwrap()
    }

    /// The process of the only worker.
    fn worker(&self) -> u64 {
        self.status()["placement"]["tenants"][0]["who"]["process"].as_u64().unwrap()
    }
}

/// The error that ends a stream.
#[track_caller]
fn last_error(stream: &str) -> Value {
    let last = stream.trim_end().rsplit("data: ").next().unwrap();
    serde_json::from_str::<Value>(last).unwrap_or_else(|error| panic!("{last}: {error}"))["error"].clone()
}

#[tokio::test]
async fn answers_that_have_begun_get_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.adopt("gemma-3-270m");
    let short = json!({"model": "gemma-3-270m", "prompt": "One, two,", "max_tokens": 24, "stream": true});
    let mut answer = daemon.post("/v1/completions", &short).send().await.unwrap();
    answer.chunk().await.unwrap().unwrap();
    daemon.signal("-TERM");
    let rest = answer.text().await.unwrap();
    assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
    let mut daemon = daemon;
    assert_eq!(daemon.process.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn an_answer_without_end_gets_ten_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    daemon.adopt("gemma-3-270m");
    let mut answer = daemon.post("/v1/completions", &endless()).send().await.unwrap();
    answer.chunk().await.unwrap().unwrap();
    let begun = Instant::now();
    daemon.signal("-TERM");
    let rest = answer.text().await.unwrap();
    let took = begun.elapsed();
    let error = last_error(&rest);
    assert_eq!(error["code"], "stopping", "{error}");
    assert!(took > Duration::from_secs(9) && took < Duration::from_secs(15), "{took:?}");
    assert_eq!(daemon.process.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    daemon.adopt("gemma-3-270m");
    let mut answer = daemon.post("/v1/completions", &endless()).send().await.unwrap();
    answer.chunk().await.unwrap().unwrap();
    let worker = daemon.worker();
    let begun = Instant::now();
    daemon.signal("-TERM");
    // Until the first has been taken in, a second one is the same to the kernel.
    while daemon.get("/v1/models").send().await.is_ok() {}
    daemon.signal("-INT");
    assert_eq!(last_error(&answer.text().await.unwrap())["code"], "stopping");
    assert_eq!(daemon.process.wait().unwrap().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(!Path::new(&format!("/proc/{worker}")).exists());
}

#[tokio::test]
async fn a_worker_that_is_killed_takes_nothing_else_along() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.adopt("gemma-3-270m");
    let mut answer = daemon.post("/v1/completions", &endless()).send().await.unwrap();
    answer.chunk().await.unwrap().unwrap();
    let killed = daemon.worker();
    assert!(Command::new("kill").args(["-KILL", &killed.to_string()]).status().unwrap().success());
    let error = last_error(&answer.text().await.unwrap());
    assert_eq!(error["code"], "runtime_ended");
    assert!(error["message"].as_str().unwrap().contains("signal: 9"), "{error}");
    // The next request loads it again.
    let again = json!({"model": "gemma-3-270m", "prompt": "One, two,", "max_tokens": 2});
    assert_eq!(daemon.post("/v1/completions", &again).send().await.unwrap().status(), 200);
    let worker = daemon.worker();
    assert_ne!(worker, killed);

    // No worker outlives its daemon, however that one ends.
    daemon.signal("-KILL");
    drop(daemon);
    let begun = Instant::now();
    while Path::new(&format!("/proc/{worker}/exe")).exists() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the worker still runs");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn two_models_swap_in_room_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"placement": {"host_memory": "1250MiB"}, "engine": {"context": 512}});
    let daemon = Daemon::with(dir.path(), &config, &[]);
    daemon.adopt("gemma-3-270m");
    daemon.adopt("qwen2.5-coder-1.5b-instruct");
    let (daemon, models) = (&daemon, ["gemma-3-270m", "qwen2.5-coder-1.5b-instruct"]);
    let caller = async |first: usize| {
        for round in first..first + 4 {
            let model = models[round % 2];
            let body = json!({"model": model, "prompt": "fn main() {", "max_tokens": 2});
            let answer = daemon.post("/v1/completions", &body).send().await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["x-sovereign-model"]),
                (200, &model.parse().unwrap())
            );
            let answer: Value = answer.json().await.unwrap();
            assert_eq!((&answer["model"], &answer["usage"]["completion_tokens"]), (&json!(model), &json!(2)));
        }
    };
    tokio::join!(caller(0), caller(1), caller(0));
    let placement = daemon.status()["placement"].clone();
    assert_eq!(placement["tenants"].as_array().unwrap().len(), 1, "{placement}");
    assert!(placement["swaps"].as_array().unwrap().len() >= 2, "{placement}");
    assert!(placement["held"]["ram"].as_u64() <= placement["budget"]["ram"].as_u64(), "{placement}");
}

#[test]
fn a_person_talks_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"models": {"default": "qwen2.5-coder-1.5b-instruct"}, "engine": {"context": 512}});
    let daemon = Daemon::with(dir.path(), &config, &[]);
    daemon.adopt("qwen2.5-coder-1.5b-instruct");
    let said = stdout(&daemon.run(&["chat", "Answer with one word: what is the capital of France?"]));
    assert!(said.contains("Paris"), "{said}");
    let said = stdout(&daemon.run(&["chat", "qwen2.5-coder:1.5b", "Answer with one word: what is 2 + 2?"]));
    assert!(said.contains('4') || said.to_lowercase().contains("four"), "{said}");
    let people = stdout(&daemon.run(&["status"]));
    assert!(people.contains("qwen2.5-coder-1.5b-instruct  Q4_K_M"), "{people}");

    // What is piped in is the prompt.
    let mut chat = Command::new(PROGRAM)
        .args(["chat", "--state"])
        .arg(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    chat.stdin.take().unwrap().write_all(b"Answer with one word: what is the capital of Italy?\n").unwrap();
    let said = stdout(&chat.wait_with_output().unwrap());
    assert!(said.contains("Rome"), "{said}");
    let said = refusal(&daemon.run(&["chat"]));
    assert!(said.contains("nothing to ask"), "{said}");
}

//! The program itself: how it starts, what it refuses, how it ends.

use serde_json::{Value, json};
use sovereign::egress::{self, Address};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sovereign");

/// `sovereign serve` on a free port of the loopback, on a machine without Docker.
struct Daemon {
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
    fn with(state: &Path, config: &Value, environment: &[(&str, &str)]) -> Self {
        let mut config = config.clone();
        config["docker"] = json!({"host": format!("unix://{}/no-docker.sock", state.display())});
        std::fs::create_dir_all(state).unwrap();
        let file = state.join("config.yaml");
        // JSON is YAML.
        std::fs::write(&file, config.to_string()).unwrap();
        let mut process = Command::new(PROGRAM)
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

    /// `sovereign ...` on its state folder.
    fn run(&self, arguments: &[&str]) -> Output {
        run(&self.state, arguments)
    }

    fn get(&self, path: &str) -> egress::RequestBuilder {
        self.client.get(self.address.url(path))
    }

    fn post(&self, path: &str, body: &Value) -> egress::RequestBuilder {
        self.client.post(self.address.url(path)).json(body)
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.process.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Asks it to end and returns its exit code and how long it took.
    fn stop(mut self) -> (Option<i32>, Duration) {
        let begun = Instant::now();
        self.signal("-TERM");
        (self.process.wait().unwrap().code(), begun.elapsed())
    }

    fn log(&self) -> String {
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

fn run(state: &Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).arg("--state").arg(state).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    text(&output.stderr)
}

fn test_model(name: &str) -> PathBuf {
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

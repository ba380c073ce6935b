//! The native engine: one worker process a model, reached over a unix socket.
//!
//! A worker's memory comes back by its exit, and a bad model file kills only the worker. No worker outlives its
//! daemon: it ends when the pipe that is its stdin closes, or its parent ends.

use super::{Attribution, Claim, Control, Endpoint, Exit, ExitWatch, Grant, Running, Setting, StartError, Variant};
use crate::config::{Bytes, Config};
use crate::egress::Address;
use crate::models::{AdapterSpec, ModelSpec};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// The runtime's name, as responses disclose it.
pub fn name(setting: &Setting) -> &'static str {
    match setting.gpu {
        Some(_) => "native-cuda",
        None => "native-cpu",
    }
}

/// A worker that is not ready after this long hangs: the largest file that fits a NAS's memory is read in less.
const START_WITHIN: Duration = Duration::from_secs(300);
/// A worker that was asked to end is killed after this long. It has no request left, so it has nothing to finish.
const GRACE: Duration = Duration::from_secs(5);
/// Lines of a worker's stderr that are kept for its obituary.
const LAST_WORDS: usize = 5;
/// A longer line is broken, so that a worker gone mad cannot fill our memory.
const LINE: u64 = 4096;

/// How workers are started.
#[derive(Debug)]
pub struct Native {
    program: PathBuf,
    run_dir: PathBuf,
    context: usize,
    slots: usize,
    threads: Option<usize>,
    /// Where workers keep what they computed of prompts, and how many bytes of it.
    prefixes: Option<(PathBuf, u64)>,
    grace: Duration,
    started: AtomicU64,
}

impl Native {
    /// Workers as `config` asks for them, of the program that this process runs.
    pub fn new(config: &Config) -> Self {
        // Not `current_exe`: after an update the old path leads to another version, or nowhere.
        Self::with_program(config, Path::new("/proc/self/exe"))
    }

    /// Workers of another `sovereign`.
    pub fn with_program(config: &Config, program: &Path) -> Self {
        Self {
            program: program.to_path_buf(),
            run_dir: config.state_dir().join("run"),
            context: config.engine.context,
            slots: config.engine.slots,
            threads: config.engine.threads,
            prefixes: config.engine.prefix_cache.map(|Bytes(bytes)| (config.prefixes_dir(), bytes)),
            grace: GRACE,
            started: AtomicU64::new(0),
        }
    }
}

/// One worker, started or not.
#[derive(Debug, Clone)]
pub struct Worker {
    native: Arc<Native>,
    spec: Arc<ModelSpec>,
}

impl Worker {
    /// What would serve `spec`.
    pub fn new(native: Arc<Native>, spec: Arc<ModelSpec>) -> Self {
        Self { native, spec }
    }

    /// The model.
    pub fn spec(&self) -> &Arc<ModelSpec> {
        &self.spec
    }

    /// How it can run, and what it will occupy: weights, keys and values of all its slots, and what computing takes.
    pub fn variants(&self, _cards: &[&str]) -> Vec<Variant> {
        let claim = Claim {
            ram: self.spec.memory(self.native.context, self.native.slots),
            threads: self.native.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
            ..Claim::default()
        };
        let setting = Setting { gpu: None, context: self.context(), kv: None };
        vec![Variant { setting, claim, slots: self.native.slots, rests: Vec::new() }]
    }

    /// Tokens that one conversation may hold.
    fn context(&self) -> usize {
        self.spec.context(self.native.context)
    }

    /// Starts the worker; see [`super::Tenant::start`].
    ///
    /// # Errors
    /// What the worker said last.
    pub async fn start(
        &self,
        grant: &Grant,
        stop: &CancellationToken,
        told: &(dyn Fn(Attribution) + Send + Sync),
    ) -> Result<Running, StartError> {
        let failed = |what: &str, error: io::Error| StartError::Failed(format!("{what}: {error}"));
        let run_dir = &self.native.run_dir;
        std::fs::create_dir_all(run_dir)
            .map_err(|error| failed(&format!("cannot create {}", run_dir.display()), error))?;
        let socket = run_dir.join(format!("{}.sock", self.native.started.fetch_add(1, Ordering::Relaxed)));
        // A daemon that was killed leaves sockets behind.
        let _ = std::fs::remove_file(&socket);

        let mut child = self.command(&socket).spawn().map_err(|error| failed("cannot start a worker", error))?;
        let (Some(stdout), Some(stderr), Some(pid)) = (child.stdout.take(), child.stderr.take(), child.id()) else {
            return Err(StartError::Failed("cannot start a worker: it has no pipes".into()));
        };
        told(Attribution::Process(pid));
        let (exit, mut exits) = ExitWatch::channel();
        let (asked, killed) = (CancellationToken::new(), CancellationToken::new());
        // A start that is dropped half-way leaves nothing behind.
        let unless_ready = asked.clone().drop_guard();
        let attendant = Attendant {
            model: self.spec.name.clone(),
            socket: socket.clone(),
            grace: self.native.grace,
            asked: asked.clone(),
            killed: killed.clone(),
        };
        tokio::spawn(async move { exit.send_replace(Some(attendant.attend(child, stderr).await)) });

        let not_ready = tokio::select! {
            ready = said_ready(stdout) => if ready { None } else { Some(StartError::Failed(exits.wait().await.reason)) },
            exit = exits.wait() => Some(StartError::Failed(exit.reason)),
            () = stop.cancelled() => Some(StartError::Stopped),
            () = tokio::time::sleep(START_WITHIN) => {
                Some(StartError::Failed(format!("the worker was not ready within {} s", START_WITHIN.as_secs())))
            }
        };
        if let Some(error) = not_ready {
            asked.cancel();
            exits.wait().await;
            return Err(error);
        }
        unless_ready.disarm();
        let endpoint = Endpoint {
            address: Address::Unix(socket),
            model: self.spec.name.clone(),
            runtime: name(&grant.variant.setting),
            context: grant.variant.setting.context,
            quant: self.spec.quantisation.clone(),
        };
        Ok(Running::new(Attribution::Process(pid), exits, Some(endpoint), Control::None, asked, killed))
    }

    fn command(&self, socket: &Path) -> Command {
        let mut listen = OsString::from("unix:");
        listen.push(socket);
        let mut command = Command::new(&self.native.program);
        command
            .arg0("sovereign")
            .args(["worker", "--tied", "--device", "cpu", "--model"])
            .arg(&self.spec.file)
            .arg("--listen")
            .arg(listen)
            .args(["--name", &self.spec.name])
            .args(["--ctx", &self.context().to_string()])
            .args(["--slots", &self.native.slots.to_string()]);
        for AdapterSpec { name, path } in &self.spec.adapters {
            let mut adapter = OsString::from(format!("{name}="));
            adapter.push(path);
            command.arg("--lora").arg(adapter);
        }
        if let Some(draft) = &self.spec.draft {
            command.arg("--draft").arg(&draft.file);
        }
        if let Some(threads) = self.native.threads {
            command.args(["--threads", &threads.to_string()]);
        }
        if let Some((dir, bytes)) = &self.native.prefixes {
            command.arg("--prefix-cache").arg(dir).args(["--prefix-cache-size", &bytes.to_string()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }
}

/// Whether the worker says that it is ready before it closes its stdout.
async fn said_ready(stdout: impl AsyncRead + Unpin) -> bool {
    let mut line = String::new();
    let read = BufReader::new(stdout).take(LINE).read_line(&mut line).await;
    read.is_ok() && line.starts_with("ready ")
}

/// Owns a worker process to its end.
struct Attendant {
    model: String,
    socket: PathBuf,
    grace: Duration,
    asked: CancellationToken,
    killed: CancellationToken,
}

impl Attendant {
    /// Logs what the worker says, ends it when that is asked, and tells how it ended.
    async fn attend(self, mut child: Child, stderr: impl AsyncRead + Unpin + Send + 'static) -> Exit {
        let words = Arc::new(Mutex::new(VecDeque::new()));
        let mut listening = tokio::spawn(listen(stderr, self.model.clone(), words.clone()));
        // Our end of the pipe closes with this process, whatever ends this process, and the worker ends with it.
        let stdin = child.stdin.take();
        let status = tokio::select! {
            status = child.wait() => status,
            () = self.asked.cancelled() => {
                drop(stdin);
                terminate(&child);
                let in_time = tokio::select! {
                    status = child.wait() => Some(status),
                    () = tokio::time::sleep(self.grace) => None,
                    () = self.killed.cancelled() => None,
                };
                match in_time {
                    Some(status) => status,
                    None => {
                        tracing::warn!(model = self.model, "a worker did not end in time and is killed");
                        // Fails only when it has ended by now.
                        let _ = child.start_kill();
                        child.wait().await
                    }
                }
            }
            () = self.killed.cancelled() => {
                let _ = child.start_kill();
                child.wait().await
            }
        };
        // Whoever inherited its stderr may hold the pipe open; its own last words are in it already.
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut listening).await;
        listening.abort();
        let _ = std::fs::remove_file(&self.socket);
        let status =
            status.map_or_else(|error| format!("its end cannot be told: {error}"), |status| status.to_string());
        let words = words.lock().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let reason = match words.is_empty() {
            true => format!("the worker ended without a word ({status})"),
            false => format!("{} ({status})", words.join("\n")),
        };
        Exit { reason }
    }
}

fn terminate(child: &Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // Fails only when it has ended by now: `child` has not been waited for, so the number is not another's yet.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Logs what a worker says and keeps the last of it.
async fn listen(stderr: impl AsyncRead + Unpin, model: String, words: Arc<Mutex<VecDeque<String>>>) {
    let mut stderr = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match (&mut stderr).take(LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_string();
        if line.is_empty() {
            continue;
        }
        tracing::info!(target: "sovereign::worker", model, "{line}");
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.push_back(line);
        if words.len() > LAST_WORDS {
            words.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Workers of a program that stands in for `sovereign` and behaves as the model file's name says.
    fn worker(dir: &Path, file: &str) -> Worker {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/worker.sh");
        let config = Config::load(None, Some(dir)).unwrap();
        let native = Native { grace: Duration::from_millis(200), ..Native::with_program(&config, &program) };
        Worker::new(Arc::new(native), Arc::new(ModelSpec::for_tests(file)))
    }

    async fn start(worker: &Worker) -> Result<Running, StartError> {
        worker.start(&grant(), &CancellationToken::new(), &|_| ()).await
    }

    fn grant() -> Grant {
        let setting = Setting { gpu: None, context: 4096, kv: None };
        Grant { variant: Variant { setting, claim: Claim::default(), slots: 1, rests: Vec::new() } }
    }

    fn is_alive(running: &Running) -> bool {
        let Attribution::Process(pid) = running.who else { panic!("not a process") };
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[tokio::test]
    async fn starts_and_stops() {
        let dir = tempfile::tempdir().unwrap();
        let check = async |file: &str, ends: &[&str]| {
            let mut running = start(&worker(dir.path(), file)).await.unwrap();
            assert!(is_alive(&running));
            let exit = running.stop().await;
            assert!(!is_alive(&running));
            assert!(ends.iter().any(|end| exit.reason.contains(end)), "{}", exit.reason);
        };
        // The signal and the end of its stdin race.
        check("good", &["exit status: 0", "signal: 15"]).await;
        check("stubborn", &["signal: 9"]).await;
    }

    #[tokio::test]
    async fn a_failed_start_tells_the_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let check = async |file: &str, words: &str| {
            let error = start(&worker(dir.path(), file)).await.unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        };
        check("bad", "reading\ngeneral.architecture is missing (exit status: 2)").await;
        check("mute", "without a word (exit status: 1)").await;
    }

    #[tokio::test]
    async fn a_worker_that_is_killed_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut running = start(&worker(dir.path(), "good")).await.unwrap();
        let Attribution::Process(pid) = running.who else { panic!("not a process") };
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
        let exit = running.exits.wait().await;
        assert!(exit.reason.contains("signal: 9"), "{}", exit.reason);
    }

    #[tokio::test]
    async fn a_start_can_be_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let worker = worker(dir.path(), "hangs");
        let grant = grant();
        let (result, ()) = tokio::join!(worker.start(&grant, &stop, &|_| ()), async { stop.cancel() });
        assert_eq!(result.unwrap_err(), StartError::Stopped);
    }

    #[tokio::test]
    async fn a_program_that_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(None, Some(dir.path())).unwrap();
        let native = Native::with_program(&config, Path::new("/nowhere/sovereign"));
        let error = start(&Worker::new(Arc::new(native), Arc::new(ModelSpec::for_tests("good")))).await.unwrap_err();
        assert!(error.to_string().starts_with("cannot start a worker: "), "{error}");
    }
}

//! The native engine: one worker process a model, reached over a unix socket.
//!
//! A worker's memory comes back by its exit, and a bad model file kills only the worker. No worker outlives its
//! daemon: it ends when the pipe that is its stdin closes, or its parent ends.

use super::{
    Attribution, Card, Claim, Control, Endpoint, Exit, ExitWatch, Grant, Rest, Rung, Running, Setting, StartError,
    Variant,
};
use crate::config::{Bytes, Config, EngineDevice};
use crate::egress::{self, Address};
use crate::engine::footprint::Plan;
use crate::engine::kernels::{KvKind, cuda};
use crate::engine::kv_cache::Capacity;
use crate::models::{AdapterSpec, ModelSpec};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, VecDeque};
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
/// The exit code of a worker whose card failed.
const CARD_FAILED: i32 = 3;
/// The exit code of a worker that cannot serve its model: on a card that may be the card's fault.
const REFUSED: i32 = 2;
/// The shortest context that is offered where a longer one does not fit.
const SHORTEST: usize = 2048;
/// Bytes of the host's memory that a worker on a card occupies: measured are 0.2 GB, half of it the driver's. The file's pages are
/// the system's to take back.
const HOST: u64 = 256 << 20;

/// How workers are started.
#[derive(Debug)]
pub struct Native {
    program: PathBuf,
    run_dir: PathBuf,
    device: EngineDevice,
    /// Whether the program can compute on cards.
    kernels: bool,
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
        Self { kernels: cuda::built(), ..Self::with_program(config, Path::new("/proc/self/exe")) }
    }

    /// Workers of another `sovereign`, which has kernels for cards.
    pub fn with_program(config: &Config, program: &Path) -> Self {
        Self {
            program: program.to_path_buf(),
            run_dir: config.state_dir().join("run"),
            device: config.engine.device,
            kernels: true,
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
    pub fn variants(&self, cards: &[Card]) -> Vec<Variant> {
        let mut variants = self.on_cards(cards);
        if variants.is_empty() || self.native.device != EngineDevice::Cuda {
            variants.push(self.on_processor());
        }
        variants
    }

    /// On each card as it is wanted, then with fewer conversations at once, shorter numbers, shorter contexts. What makes
    /// vectors stays on the processor: it would drive out what answers.
    fn on_cards(&self, cards: &[Card]) -> Vec<Variant> {
        let Native { kernels, device, slots, .. } = *self.native;
        let Some(needs) = self.spec.on_card else { return Vec::new() };
        if !kernels || device == EngineDevice::Cpu || self.spec.embeds || !self.spec.adapters.is_empty() {
            return Vec::new();
        }
        let context = self.context();
        let mut sizes = vec![(context, slots, KvKind::F16)];
        if slots > 1 {
            sizes.push((context, 1, KvKind::F16));
        }
        sizes.push((context, 1, KvKind::Fp8));
        let shorter = std::iter::successors(Some(context / 2), |context| Some(context / 2));
        sizes.extend(shorter.take_while(|context| *context >= SHORTEST).map(|context| (context, 1, KvKind::Fp8)));
        let able = cards.iter().filter(|card| card.memory > 0 && card.capability.is_none_or(|found| found >= (8, 0)));
        let able: Vec<&Card> = able.collect();
        let variant = |card: &Card, (context, slots, kind): (usize, usize, KvKind)| {
            let of = cuda::need::Card {
                capability: card.capability.unwrap_or_default(),
                memory: card.memory,
                multiprocessors: None,
            };
            let plan = Plan::of_all(&[needs], &of, Capacity { kind, ..Capacity::whole(slots, context) });
            let on_card = |bytes| BTreeMap::from([(card.uuid.clone(), bytes)]);
            let claim = Claim { vram: on_card(plan.total()), ram: HOST, threads: 1 };
            let asleep =
                Claim { vram: on_card(plan.graphs + plan.context), ram: HOST + plan.weights + plan.kv, threads: 0 };
            let kv = (kind != KvKind::F16).then(|| kind.name().to_string());
            Variant {
                setting: Setting { gpu: Some(card.uuid.clone()), context, kv },
                claim,
                slots,
                rests: vec![Rest { rung: Rung::Sleep, residue: asleep }],
            }
        };
        sizes.iter().flat_map(|&size| able.iter().map(move |card| variant(card, size))).collect()
    }

    fn on_processor(&self) -> Variant {
        let claim = Claim {
            ram: self.spec.memory(self.native.context, self.native.slots),
            threads: self.native.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
            ..Claim::default()
        };
        let setting = Setting { gpu: None, context: self.context(), kv: None };
        Variant { setting, claim, slots: self.native.slots, rests: Vec::new() }
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

        let mut child =
            self.command(&socket, &grant.variant).spawn().map_err(|error| failed("cannot start a worker", error))?;
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
            on_card: grant.variant.setting.gpu.is_some(),
        };
        tokio::spawn(async move { exit.send_replace(Some(attendant.attend(child, stderr).await)) });

        let not_ready = tokio::select! {
            ready = said_ready(stdout) => if ready { None } else { Some(failure(exits.wait().await)) },
            exit = exits.wait() => Some(failure(exit)),
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
            address: Address::Unix(socket.clone()),
            model: self.spec.name.clone(),
            runtime: name(&grant.variant.setting),
            context: grant.variant.setting.context,
            quant: self.spec.quantisation.clone(),
        };
        let control = match grant.variant.setting.gpu {
            Some(_) => Control::Worker(Address::Unix(socket)),
            None => Control::None,
        };
        Ok(Running::new(Attribution::Process(pid), exits, Some(endpoint), control, asked, killed))
    }

    fn command(&self, socket: &Path, variant: &Variant) -> Command {
        let Variant { setting: Setting { gpu, context, kv }, claim, slots, .. } = variant;
        let mut listen = OsString::from("unix:");
        listen.push(socket);
        let device = gpu.as_ref().map_or_else(|| "cpu".into(), |gpu| format!("cuda:{gpu}"));
        let mut command = Command::new(&self.native.program);
        command
            .arg0("sovereign")
            .args(["worker", "--tied", "--device", &device, "--model"])
            .arg(&self.spec.file)
            .arg("--listen")
            .arg(listen)
            .args(["--name", &self.spec.name])
            .args(["--ctx", &context.to_string()])
            .args(["--slots", &slots.to_string()]);
        if let Some(kv) = kv {
            command.args(["--kv", kv]);
        }
        match gpu {
            Some(gpu) => {
                command.args(["--vram-limit", &claim.on(gpu).to_string()]);
            }
            None => self.on_processor_only(&mut command),
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// What cards do not do, and a model that guesses, which has no room there in the claim.
    fn on_processor_only(&self, command: &mut Command) {
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
    }
}

fn failure(exit: Exit) -> StartError {
    match exit.card_failed {
        true => StartError::CardFailed(exit.reason),
        false => StartError::Failed(exit.reason),
    }
}

/// Lets a worker on a card rest; see [`Running::take`].
///
/// # Errors
/// What the worker says, or that it cannot rest so.
pub(super) async fn take(address: &Address, rung: Rung) -> Result<(), String> {
    match rung {
        Rung::Sleep => ask(address, "/sleep").await,
        _ => Err("it cannot".into()),
    }
}

/// Wakes it.
///
/// # Errors
/// What the worker says.
pub(super) async fn wake(address: &Address) -> Result<(), String> {
    ask(address, "/wake_up").await
}

async fn ask(address: &Address, path: &str) -> Result<(), String> {
    let answer = egress::internal(address).post(address.url(path)).send().await.map_err(|error| error.to_string())?;
    match answer.status().is_success() {
        true => Ok(()),
        false => Err(answer.text().await.unwrap_or_else(|error| error.to_string())),
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
    on_card: bool,
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
        let card_failed = status.as_ref().is_ok_and(|status| match status.code() {
            Some(CARD_FAILED) => true,
            Some(REFUSED) => self.on_card,
            _ => false,
        });
        let status =
            status.map_or_else(|error| format!("its end cannot be told: {error}"), |status| status.to_string());
        let words = words.lock().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let reason = match words.is_empty() {
            true => format!("the worker ended without a word ({status})"),
            false => format!("{} ({status})", words.join("\n")),
        };
        Exit { reason, card_failed }
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
    use crate::engine::kernels::cuda::need::Needs;
    use crate::engine::quant::Format;
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::post;

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

    const GPU: &str = "GPU-0a1b2c3d-0e4f-5061-7283-94a5b6c7d8e9";

    fn cards() -> Vec<Card> {
        vec![Card { uuid: GPU.into(), memory: 8_188 << 20, capability: Some((12, 0)) }]
    }

    /// A model that a card can serve.
    fn able(dir: &Path, change: impl FnOnce(&mut Native, &mut ModelSpec)) -> Worker {
        let Worker { native, spec } = worker(dir, "good");
        let (mut native, mut spec) = (Arc::into_inner(native).unwrap(), Arc::into_inner(spec).unwrap());
        let mut needs =
            Needs { width: 256, queries: 256, keys: 64, hidden: 512, head: 64, layers: 2, ..Needs::default() };
        (needs.kv_heads, needs.vocabulary) = (1, 1000);
        needs.add_matrix(Format::Q4K, 1000, 256);
        spec.on_card = Some(needs);
        change(&mut native, &mut spec);
        Worker::new(Arc::new(native), Arc::new(spec))
    }

    #[test]
    fn cards_come_first_and_the_processor_is_always_there() {
        let dir = tempfile::tempdir().unwrap();
        let check = |worker: Worker, cards: &[Card], expected: &[(bool, usize, usize, Option<&str>)]| {
            let variants = worker.variants(cards);
            let found = variants.iter().map(|variant| {
                let Setting { gpu, context, kv } = &variant.setting;
                assert_eq!(gpu.is_some(), variant.claim.on(GPU) > 0);
                (gpu.is_some(), *context, variant.slots, kv.as_deref())
            });
            assert_eq!(found.collect::<Vec<_>>(), expected);
            // Later ones take no more.
            assert!(variants.is_sorted_by_key(|variant| std::cmp::Reverse(variant.claim.on(GPU))));
            for variant in variants.iter().filter(|variant| variant.setting.gpu.is_some()) {
                let [Rest { rung: Rung::Sleep, residue }] = &variant.rests[..] else { panic!("it cannot sleep") };
                assert!(residue.on(GPU) < variant.claim.on(GPU) && residue.ram > variant.claim.ram);
            }
        };
        let cpu = (false, 4096, 2, None);
        let all =
            [(true, 4096, 2, None), (true, 4096, 1, None), (true, 4096, 1, Some("fp8")), (true, 2048, 1, Some("fp8"))];
        let with_cpu = [&all[..], &[cpu]].concat();
        check(able(dir.path(), |_, _| ()), &cards(), &with_cpu);
        check(able(dir.path(), |_, _| ()), &[], &[cpu]);
        check(able(dir.path(), |native, _| native.device = EngineDevice::Cuda), &cards(), &all);
        check(able(dir.path(), |native, _| native.device = EngineDevice::Cuda), &[], &[cpu]);
        check(able(dir.path(), |native, _| native.device = EngineDevice::Cpu), &cards(), &[cpu]);
        check(able(dir.path(), |native, _| native.kernels = false), &cards(), &[cpu]);
        check(able(dir.path(), |_, spec| spec.on_card = None), &cards(), &[cpu]);
        check(able(dir.path(), |_, spec| spec.embeds = true), &cards(), &[cpu]);
        let adapter = AdapterSpec { name: "good:x".into(), path: "x".into() };
        check(able(dir.path(), |_, spec| spec.adapters.push(adapter)), &cards(), &[cpu]);
        let old = Card { capability: Some((7, 5)), ..cards().remove(0) };
        check(able(dir.path(), |_, _| ()), &[old], &[cpu]);
        let missing = Card { memory: 0, ..cards().remove(0) };
        check(able(dir.path(), |_, _| ()), &[missing], &[cpu]);
    }

    #[test]
    fn a_worker_is_told_its_card_and_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let worker = able(dir.path(), |native, _| native.threads = Some(3));
        let check = |at: usize, expected: &[&str], without: &str| {
            let variant = &worker.variants(&cards())[at];
            let command = worker.command(Path::new("/s"), variant);
            let words: Vec<&str> = command.as_std().get_args().filter_map(|word| word.to_str()).collect();
            let limit = variant.claim.on(GPU).to_string();
            for pair in expected.iter().map(|pair| pair.replace("LIMIT", &limit)) {
                let (name, value) = pair.split_once(' ').unwrap();
                assert!(words.windows(2).any(|words| words == [name, value]), "{pair} is not in {words:?}");
            }
            assert!(!words.contains(&without), "{words:?}");
        };
        let device = format!("--device cuda:{GPU}");
        check(0, &[&device, "--vram-limit LIMIT", "--ctx 4096", "--slots 2", "--listen unix:/s"], "--threads");
        check(3, &[&device, "--vram-limit LIMIT", "--ctx 2048", "--slots 1", "--kv fp8"], "--threads");
        check(4, &["--device cpu", "--ctx 4096", "--slots 2", "--threads 3"], "--vram-limit");
    }

    #[tokio::test]
    async fn a_card_that_failed_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let error = start(&worker(dir.path(), "cardless")).await.unwrap_err();
        assert_eq!(error, StartError::CardFailed("the card failed (exit status: 3)".into()));
    }

    #[tokio::test]
    async fn rests_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker.sock");
        let asleep = post(async || "");
        let full = post(async || (StatusCode::SERVICE_UNAVAILABLE, "the card is full"));
        let routes = Router::new().route("/sleep", asleep).route("/wake_up", full);
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let address = Address::Unix(path);
        assert_eq!(take(&address, Rung::Sleep).await, Ok(()));
        assert_eq!(take(&address, Rung::Park).await, Err("it cannot".into()));
        assert_eq!(wake(&address).await, Err("the card is full".into()));
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

//! The native engine: one worker process a model, reached over a unix socket.
//!
//! A worker's memory comes back by its exit, and a bad model file kills only the worker. No worker outlives its
//! daemon: it ends when the pipe that is its stdin closes, or its parent ends.

mod attendant;
mod parked;

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
use attendant::Attendant;
pub use parked::Parked;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// How a worker gives memory back when it holds more than it may.
pub(super) const RUNGS: &[Rung] = &[Rung::Shrink, Rung::Sleep, Rung::Park, Rung::Stop, Rung::Kill];

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

/// Bytes that a file in memory takes besides what is in it, generously.
const PAGES: u64 = 1 << 20;

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
    /// Bytes of host memory that models may hold while they rest.
    parked_memory: u64,
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
            parked_memory: config.placement.parked_memory.0,
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

    /// On each card as it is wanted, then with fewer conversations at once, shorter numbers, shorter contexts; each with a copy
    /// of its weights in the host's memory, so that it can rest, if it may, then without. What makes vectors stays on the
    /// processor: it would drive out what answers.
    fn on_cards(&self, cards: &[Card]) -> Vec<Variant> {
        let Native { kernels, device, slots, parked_memory, .. } = *self.native;
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
        let variants = |card: &Card, (context, slots, kind): (usize, usize, KvKind)| {
            let of = cuda::need::Card {
                capability: card.capability.unwrap_or_default(),
                memory: card.memory,
                multiprocessors: None,
            };
            let plan = Plan::of_all(&[needs], &of, Capacity { kind, ..Capacity::whole(slots, context) });
            let on_card = |bytes| BTreeMap::from([(card.uuid.clone(), bytes)]);
            let claim = |ram| Claim { vram: on_card(plan.total()), ram, threads: 1 };
            let ram = HOST + plan.weights;
            let asleep = Claim { vram: on_card(plan.graphs + plan.context), ram: ram + plan.kv, threads: 0 };
            let parked = Claim { ram: plan.weights + PAGES, ..Claim::default() };
            let kv = (kind != KvKind::F16).then(|| kind.name().to_string());
            let setting = Setting { gpu: Some(card.uuid.clone()), context, kv };
            let rests =
                vec![Rest { rung: Rung::Sleep, residue: asleep }, Rest { rung: Rung::Park, residue: parked.clone() }];
            let resting = Variant { setting: setting.clone(), claim: claim(ram), slots, rests };
            let resting = (parked.ram <= parked_memory).then_some(resting);
            resting.into_iter().chain([Variant { setting, claim: claim(HOST), slots, rests: Vec::new() }])
        };
        sizes.iter().flat_map(|&size| able.iter().flat_map(move |card| variants(card, size))).collect()
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
        parked: Option<Parked>,
    ) -> Result<Running, StartError> {
        let failed = |what: &str, error: io::Error| StartError::Failed(format!("{what}: {error}"));
        let run_dir = &self.native.run_dir;
        std::fs::create_dir_all(run_dir)
            .map_err(|error| failed(&format!("cannot create {}", run_dir.display()), error))?;
        let socket = run_dir.join(format!("{}.sock", self.native.started.fetch_add(1, Ordering::Relaxed)));
        // A daemon that was killed leaves sockets behind.
        let _ = std::fs::remove_file(&socket);

        let kept = match (parked, grant.variant.rests.is_empty()) {
            (None, false) => Some(Parked::new().map_err(|error| failed("there is no memory for weights", error))?),
            (parked, _) => parked,
        };
        let mut command = self.command(&socket, &grant.variant);
        if let Some(kept) = &kept {
            kept.pass_to(&mut command);
        }
        let mut child = command.spawn().map_err(|error| failed("cannot start a worker", error))?;
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
            Some(_) => Control::Worker(Address::Unix(socket), kept),
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
        Rung::Park => ask(address, "/park").await,
        Rung::Shrink => ask(address, "/shrink").await,
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

#[cfg(test)]
mod tests;

//! `sovereign doctor`.

use super::Global;
use super::client::{Client, block_on};
use crate::admin;
use crate::config::{Bytes, Config};
use crate::docker::{Docker, State};
use crate::engine::kernels::cpu::Isa;
use crate::engine::kernels::cuda;
use crate::gpu::{Probe, Snapshot};
use crate::placement;
use rustix::fs::Access;
use std::fmt;
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The smallest useful machine: the default model and what surrounds it.
const MEMORY: u64 = 4 << 30;
/// Room for a model of a useful size.
const DISK: u64 = 10 << 30;
/// How long the Docker engine may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Look for what keeps this machine from serving well.
///
/// Looks at the machine, the configuration and the daemon, says what it found and what to do about it. It changes
/// nothing. The exit code is 1 when something keeps the appliance from working.
#[derive(Debug, clap::Args)]
pub struct Doctor {}

impl Doctor {
    pub fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let config = match Config::load(global.config.as_deref(), global.state.as_deref()) {
            Ok(config) => config,
            Err(error) => {
                print!(
                    "{}",
                    Finding::fail("configuration", error, "correct the file; docs/config.yaml explains each key")
                );
                return Ok(ExitCode::FAILURE);
            }
        };
        let mut findings = vec![Finding::ok("configuration", "understood"), processor(), memory(&config)];
        findings.push(disk(&config.models_dir()));
        let daemon = block_on(async { Ok(Client::of(&config).get::<admin::Status>("/admin/v1/status").await) })?;
        match daemon {
            Ok(status) => findings.push(running(&status.version)),
            Err(error) => {
                findings.push(Finding::warn("daemon", error, "what follows says whether it could run"));
                findings.push(port(&config));
                findings.push(state(config.state_dir()));
            }
        }
        findings.push(block_on(async { Ok(docker(&config).await) })?);
        findings.push(card(&Probe::new(&config.gpu).read(), cuda::built()));
        findings.iter().for_each(|finding| print!("{finding}"));
        let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// It works, but not well, or not all of it.
    Warn,
    /// It does not work.
    Fail,
}

/// What one look found.
#[derive(Debug)]
struct Finding {
    verdict: Verdict,
    what: &'static str,
    found: String,
    advice: Option<String>,
}

impl Finding {
    fn ok(what: &'static str, found: impl ToString) -> Self {
        Self { verdict: Verdict::Ok, what, found: found.to_string(), advice: None }
    }

    fn warn(what: &'static str, found: impl ToString, advice: &str) -> Self {
        Self { verdict: Verdict::Warn, advice: Some(advice.into()), ..Self::ok(what, found) }
    }

    fn fail(what: &'static str, found: impl ToString, advice: &str) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(what, found, advice) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        writeln!(f, "{verdict:<5} {:<14} {}", self.what, self.found)?;
        match &self.advice {
            Some(advice) => writeln!(f, "{:20} -> {advice}", ""),
            None => Ok(()),
        }
    }
}

fn processor() -> Finding {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    match missing_features() {
        None => Finding::warn(
            "processor",
            format!("{threads} threads, neither x86-64 nor ARM64"),
            "the engine runs its plain code here, which is slow",
        ),
        Some(missing) if missing.is_empty() => {
            Finding::ok("processor", format!("{threads} threads, {}", Isa::detect().name().to_uppercase()))
        }
        Some(missing) => Finding::warn(
            "processor",
            format!("{threads} threads, without {}", missing.join(", ")),
            "the engine runs its plain code here, which is slow; in a virtual machine, pass the host's processor through",
        ),
    }
}

/// What the engine's fast code needs and this processor lacks; none where there is no such code.
#[cfg(target_arch = "x86_64")]
fn missing_features() -> Option<Vec<&'static str>> {
    let features = [
        ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
        ("FMA", std::arch::is_x86_feature_detected!("fma")),
        ("F16C", std::arch::is_x86_feature_detected!("f16c")),
    ];
    Some(features.into_iter().filter(|(_, has)| !has).map(|(name, _)| name).collect())
}

#[cfg(target_arch = "aarch64")]
fn missing_features() -> Option<Vec<&'static str>> {
    Some(Vec::new())
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn missing_features() -> Option<Vec<&'static str>> {
    None
}

fn memory(config: &Config) -> Finding {
    match placement::budget(config, &[]) {
        Ok(budget) => budget_of(budget.ram, config.placement.host_memory.is_some()),
        Err(error) => Finding::fail("memory", error, "set placement.host_memory in the configuration"),
    }
}

fn budget_of(budget: u64, configured: bool) -> Finding {
    let whose = if configured { "as configured" } else { "half of what there is" };
    let found = format!("{} for models ({whose})", Bytes(budget));
    match budget {
        budget if budget >= MEMORY / 2 => Finding::ok("memory", found),
        _ => Finding::warn("memory", found, "only small models fit; add memory, or raise placement.host_memory"),
    }
}

fn disk(folder: &Path) -> Finding {
    // The folder is made by the first pull.
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let advice = "free some space, or let models.dir name a folder on a larger disk";
    match rustix::fs::statvfs(existing) {
        Ok(disk) => free(disk.f_bavail.saturating_mul(disk.f_frsize), folder),
        Err(error) => Finding::fail("disk", format!("{}: {error}", existing.display()), advice),
    }
}

fn free(bytes: u64, folder: &Path) -> Finding {
    let found = format!("{} free for models in {}", Bytes(bytes), folder.display());
    let advice = "free some space, or let models.dir name a folder on a larger disk";
    match bytes {
        bytes if bytes >= DISK => Finding::ok("disk", found),
        bytes if bytes >= DISK / 10 => Finding::warn("disk", found, advice),
        _ => Finding::fail("disk", found, advice),
    }
}

fn running(version: &str) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    match version == own {
        true => Finding::ok("daemon", format!("runs, version {version}")),
        false => Finding::warn("daemon", format!("runs version {version}; this is {own}"), "restart the daemon"),
    }
}

/// Whether a daemon could listen; asked only while none does.
fn port(config: &Config) -> Finding {
    let listen = config.server.listen;
    match TcpListener::bind(listen) {
        Ok(_) => Finding::ok("port", format!("{listen} is free")),
        Err(error) => Finding::fail(
            "port",
            format!("{listen}: {error}"),
            "stop what listens there, or choose another port with --listen or server.listen",
        ),
    }
}

/// Whether a daemon of this user could keep its state.
fn state(folder: &Path) -> Finding {
    // The folder is made by the first start.
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let access = rustix::fs::access(existing, Access::WRITE_OK | Access::EXEC_OK);
    let problem = match access {
        Ok(()) if existing.is_dir() => return Finding::ok("state", folder.display()),
        Ok(()) => "it is not a folder".to_string(),
        Err(error) => error.to_string(),
    };
    let advice = "run as the user that owns it, or choose another folder with --state";
    Finding::fail("state", format!("{} cannot be written: {problem}", existing.display()), advice)
}

async fn docker(config: &Config) -> Finding {
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let mut state = Docker::start(&config.docker, stop).state();
    // The first state says that nothing is known yet; whatever follows it is an answer.
    state.mark_unchanged();
    let _ = tokio::time::timeout(PATIENCE, state.changed()).await;
    let state = state.borrow().clone();
    match state {
        State::Present(engine) => Finding::ok("containers", format!("{} (API {})", engine.version, engine.api)),
        State::Absent { reason } => {
            Finding::warn("containers", reason, "stacks need it; models and the dashboard do not")
        }
    }
}

fn card(cards: &[Snapshot], kernels: bool) -> Finding {
    if cards.is_empty() {
        let advice = "models run on the processor; with a card, install NVIDIA's driver, or let gpu.nvml_library name its \
                      library";
        return Finding::warn("card", "no NVIDIA card can be seen", advice);
    }
    let problem = cards.iter().find_map(|card| card.problem.clone());
    let name = |card: &Snapshot| match card.memory {
        Some(memory) => format!("{} ({})", card.name, Bytes(memory.total)),
        None => card.name.clone(),
    };
    let names = cards.iter().map(name).collect::<Vec<_>>().join(", ");
    match problem {
        None if !kernels => {
            let advice = "models run on the processor; run `make kernels` and build again";
            Finding::warn("card", format!("{names}: this build has no CUDA kernels"), advice)
        }
        None => Finding::ok("card", names),
        Some(problem) => Finding::warn("card", format!("{names}: {problem}"), "see what `nvidia-smi` says"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let check = |finding: Finding, verdict: Verdict, words: &str| {
            assert_eq!(finding.verdict, verdict, "{finding}");
            assert!(finding.to_string().contains(words), "{finding}");
            // What is not well comes with what to do.
            assert_eq!(finding.advice.is_none(), verdict == Verdict::Ok, "{finding}");
        };
        check(free(100 << 30, Path::new("/m")), Verdict::Ok, "100.0 GiB free for models in /m");
        check(free(2 << 30, Path::new("/m")), Verdict::Warn, "models.dir");
        check(free(1 << 20, Path::new("/m")), Verdict::Fail, "1 MiB free");
        check(budget_of(8 << 30, false), Verdict::Ok, "8.0 GiB for models (half of what there is)");
        check(budget_of(1 << 30, true), Verdict::Warn, "1.0 GiB for models (as configured)");
        check(running(env!("CARGO_PKG_VERSION")), Verdict::Ok, "runs");
        check(running("0.0.1"), Verdict::Warn, "restart");
        check(card(&[], true), Verdict::Warn, "no NVIDIA card");
        let good = Snapshot { name: "RTX 5060".into(), ..Snapshot::default() };
        check(card(std::slice::from_ref(&good), true), Verdict::Ok, "RTX 5060");
        check(card(std::slice::from_ref(&good), false), Verdict::Warn, "no CUDA kernels");
        check(card(&[Snapshot { problem: Some("lost".into()), ..good }], true), Verdict::Warn, "lost");
        check(state(Path::new("/tmp/not/there/yet")), Verdict::Ok, "/tmp/not/there/yet");
        let file = tempfile::NamedTempFile::new().unwrap();
        check(state(&file.path().join("state")), Verdict::Fail, "--state");
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::default();
        config.server.listen = taken.local_addr().unwrap();
        check(port(&config), Verdict::Fail, "--listen");
    }
}

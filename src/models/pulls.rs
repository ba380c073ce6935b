//! Pulls that run in the background: one a source, seen by everyone who asks.

use super::download::digest;
use super::download::report::Report;
use super::download::{Downloader, Order};
use super::registry::{New, Registry};
use super::source::Source;
use super::{Error, Phase, Progress, header};
use crate::config;
use crate::egress::{Class, Egress, Initiator};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Failed pulls that are remembered for who looks later.
const FAILURES: usize = 8;

/// The pulls of a daemon.
#[derive(Debug)]
pub(super) struct Pulls {
    running: Mutex<Vec<Running>>,
    /// How far each is, in the order of their beginnings, and those that failed.
    board: watch::Sender<Vec<Progress>>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

#[derive(Debug)]
struct Running {
    source: String,
    progress: watch::Receiver<Progress>,
    cancel: CancellationToken,
}

impl Pulls {
    pub(super) fn new() -> Self {
        Self {
            running: Mutex::default(),
            board: watch::Sender::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        }
    }

    pub(super) fn board(&self) -> watch::Receiver<Vec<Progress>> {
        self.board.subscribe()
    }

    /// Begins a pull, or joins the one of this source that runs.
    pub(super) fn start(
        self: &Arc<Self>,
        registry: &Arc<Registry>,
        config: &config::Models,
        egress: &Egress,
        source: Source,
    ) -> watch::Receiver<Progress> {
        let label = source.label();
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pull) = running.iter().find(|pull| pull.source == label) {
            return pull.progress.clone();
        }
        let (sender, progress) = watch::channel(Progress::new(&label));
        let cancel = self.closing.child_token();
        running.push(Running { source: label.clone(), progress: progress.clone(), cancel: cancel.clone() });
        self.board.send_modify(|board| {
            board.retain(|progress| progress.source != label);
            board.push(Progress::new(&label));
        });
        let (pulls, registry, config, egress) = (self.clone(), registry.clone(), config.clone(), egress.clone());
        let mut shown = progress.clone();
        self.tasks.spawn(async move {
            let pull = async {
                let report = Report::new(sender, cancel.clone());
                let result = run(&registry, &config, &egress, &source, &report).await;
                match &result {
                    Ok(()) => tracing::info!(source = label, "a model was pulled"),
                    Err(Error::Cancelled) => tracing::info!(source = label, "a pull was cancelled"),
                    Err(error) => tracing::warn!(source = label, %error, "a pull failed"),
                }
                // Whoever hears of the end may ask for the same again at once.
                let mut running = pulls.running.lock().unwrap_or_else(PoisonError::into_inner);
                running.retain(|pull| pull.source != label);
                report.end(result.as_ref().map(drop));
            };
            let show = async {
                while shown.changed().await.is_ok() {
                    let now = shown.borrow_and_update().clone();
                    pulls.show(now, cancel.is_cancelled());
                }
            };
            tokio::join!(pull, show);
        });
        progress
    }

    fn show(&self, now: Progress, cancelled: bool) {
        self.board.send_modify(|board| {
            let over = now.phase == Phase::Done || (now.phase == Phase::Failed && cancelled);
            if over {
                board.retain(|progress| progress.source != now.source);
            } else {
                match board.iter_mut().find(|progress| progress.source == now.source) {
                    Some(old) => *old = now,
                    None => board.push(now),
                }
            }
            let failed = |progress: &Progress| progress.phase == Phase::Failed;
            while board.iter().filter(|progress| failed(progress)).count() > FAILURES {
                let Some(oldest) = board.iter().position(failed) else { break };
                board.remove(oldest);
            }
        });
    }

    /// Ends the pull of a source, or clears the failure of one away. Returns, when it has ended, whether there was one.
    pub(super) async fn cancel(&self, label: &str) -> bool {
        let running = |pulls: &[Running]| {
            let pull = pulls.iter().find(|pull| pull.source == label)?;
            pull.cancel.cancel();
            Some(pull.progress.clone())
        };
        let pull = running(&self.running.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(mut progress) = pull {
            // Fails only when it is over as well.
            let _ = progress.wait_for(Progress::is_over).await;
            return true;
        }
        self.board.send_if_modified(|board| {
            let before = board.len();
            board.retain(|progress| progress.source != label);
            board.len() < before
        })
    }

    /// Ends all pulls and returns when what had arrived is noted.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// One pull, from its source to its row.
async fn run(
    registry: &Registry,
    config: &config::Models,
    egress: &Egress,
    source: &Source,
    report: &Report,
) -> Result<(), Error> {
    let spec = match (source, Order::new(source)?) {
        (_, Some(order)) => download(registry, config, egress, source, &order, report).await?,
        (Source::File(path), None) => adopt(registry, path, report).await?,
        (source, None) => {
            return Err(Error::Source { text: source.label(), reason: "nothing can be fetched from it".into() });
        }
    };
    report.model(&spec);
    Ok(())
}

async fn download(
    registry: &Registry,
    config: &config::Models,
    egress: &Egress,
    source: &Source,
    order: &Order,
    report: &Report,
) -> Result<String, Error> {
    report.model(&order.name);
    let pins = registry.pins().await?;
    let expected = order.expected(&pins);
    if let Some(there) = registry.find(&order.name, expected.as_deref()) {
        return match expected {
            Some(expected) if expected == there.sha256 => Ok(there.name.clone()),
            _ => Err(Error::Exists { what: format!("the model {}", there.name) }),
        };
    }
    let whole = registry.dir().join(&order.file);
    std::fs::create_dir_all(registry.dir()).map_err(Error::io(registry.dir()))?;
    let outside = egress.outside(Class::ModelDownload, Initiator::Owner, source.label());
    let fetched = Downloader::new(config, outside).fetch(order, &pins, &whole, report).await?;
    registry.pin(&fetched.labels, &fetched.sha256, fetched.bytes).await?;
    if let Some(there) = registry.find("", Some(&fetched.sha256)) {
        fetched.discard()?;
        return Ok(there.name.clone());
    }
    let (sha256, bytes, from) = (fetched.sha256.clone(), fetched.bytes, fetched.from.clone());
    fetched.keep(&whole).await?;
    let new = New { name: &order.name, file: &order.file, sha256: &sha256, bytes, source: &from };
    Ok(registry.add(new).await?.name.clone())
}

/// Lists a file where it lies.
async fn adopt(registry: &Registry, path: &Path, report: &Report) -> Result<String, Error> {
    report.phase(Phase::Verifying);
    let from = path.display().to_string();
    let refuse = |reason: &str| Error::Source { text: from.clone(), reason: reason.into() };
    let file = path.to_str().ok_or_else(|| refuse("its name is not UTF-8"))?;
    let there = std::fs::metadata(path).map_err(Error::io(path))?;
    if !there.is_file() {
        return Err(refuse("it is not a file"));
    }
    let name = super::name::from_file(&path.file_name().unwrap_or_default().to_string_lossy())?;
    header::check(path, &from).await?;
    let sha256 = digest::of(path, report).await?;
    if let Some(there) = registry.find("", Some(&sha256)) {
        return Ok(there.name.clone());
    }
    let new = New { name: &name, file, sha256: &sha256, bytes: there.len(), source: &from };
    Ok(registry.add(new).await?.name.clone())
}

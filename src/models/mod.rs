//! What can be served: the catalogue, the files that were pulled, and the pulls.
//!
//! A file that is pulled lies beside its final place as `.partial` until its digest and its header were checked; then it
//! is renamed and gets its row. A file that was on this machine before is adopted: listed where it lies, never deleted.

mod catalogue;
mod download;
mod error;
mod header;
mod inspect;
mod name;
mod progress;
mod pulls;
mod registry;
mod source;
mod spec;

pub use catalogue::{CatalogueEntry, HubFile, Mirror, Wheels};
pub use error::{Error, NotFound};
pub use inspect::{Fact, Inspection};
pub use progress::{Phase, Progress};
pub use registry::{Broken, Installed, Removed};
pub use spec::{AdapterSpec, DraftSpec, Memory, ModelSpec, Wanted};

use crate::config::{self, Config};
use crate::db::Db;
use crate::egress::{Class, Egress, Initiator};
use download::report::Report;
use download::{Downloader, Order, Pins};
use pulls::Pulls;
use registry::Registry;
use source::Source;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A handle on the models; cheap to clone.
#[derive(Debug, Clone)]
pub struct Models {
    config: Arc<config::Models>,
    registry: Arc<Registry>,
    pulls: Arc<Pulls>,
    egress: Egress,
}

impl Models {
    /// The models that `db` lists, in the folder that `config` names; others come through `egress`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open(config: &Config, db: Db, egress: Egress) -> Result<Self, Error> {
        let registry = Registry::open(config, db, catalogue::shipped()?).await?;
        Ok(Self {
            config: Arc::new(config.models.clone()),
            registry: Arc::new(registry),
            pulls: Arc::new(Pulls::new()),
            egress,
        })
    }

    /// What can be served, by name.
    pub fn list(&self) -> Vec<Arc<ModelSpec>> {
        self.registry.installed().borrow().models.clone()
    }

    /// What is installed, now and after every change.
    pub fn installed(&self) -> watch::Receiver<Arc<Installed>> {
        self.registry.installed()
    }

    /// The model that a request means by `name`: its name or an alias, in any case, with `:latest` or without.
    ///
    /// # Errors
    /// When none is meant; names the nearest.
    pub fn resolve(&self, name: &str) -> Result<Arc<ModelSpec>, NotFound> {
        self.looked_up(name, self.registry.resolve(name))
    }

    /// What a request means by `name`: a model as [`resolve`](Self::resolve) finds it, or one with an adapter.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn wanted(&self, name: &str) -> Result<Wanted, NotFound> {
        self.looked_up(name, self.registry.wanted(name))
    }

    fn looked_up<T>(&self, name: &str, found: Result<T, NotFound>) -> Result<T, NotFound> {
        if found.is_err() && self.registry.is_broken(name) {
            // Its disk may have been mounted since. Who asks again finds it.
            let registry = self.registry.clone();
            tokio::spawn(async move {
                if let Err(error) = registry.reload().await {
                    tracing::warn!(%error, "the list of models could not be read anew");
                }
            });
        }
        found
    }

    /// What can be pulled by its name.
    pub fn catalogue(&self) -> &[CatalogueEntry] {
        self.registry.catalogue()
    }

    /// The name of the model that answers when a request names none. It may not be installed.
    pub fn default(&self) -> &str {
        &self.config.default
    }

    /// The folder of model files.
    pub fn dir(&self) -> &Path {
        self.registry.dir()
    }

    /// Bytes that may still be written in the folder of model files; nothing where the system does not say.
    pub fn free_space(&self) -> Option<u64> {
        // The folder is made by the first pull.
        let dir = self.dir().ancestors().find(|dir| dir.exists())?;
        download::space::free(dir).ok()
    }

    /// Begins to pull what `source` means, in the background, or joins the pull of it that runs: a name in the
    /// catalogue, an address, `hf:owner/repository/file.gguf[@revision]`, or the path of a file on this machine.
    ///
    /// # Errors
    /// When it means nothing. Whatever goes wrong later is told by the progress.
    pub fn pull(&self, source: &str) -> Result<watch::Receiver<Progress>, Error> {
        let source = Source::parse(source, self.catalogue())?;
        Ok(self.pulls.start(&self.registry, &self.config, &self.egress, source))
    }

    /// How far the pulls are, now and after every change. Those that failed stay until they are cancelled or begun anew.
    pub fn pulls(&self) -> watch::Receiver<Vec<Progress>> {
        self.pulls.board()
    }

    /// Ends the pull of `source`; what had arrived is kept for the next one. Clears away one that failed. Returns, when
    /// it has ended, whether there was one.
    pub async fn cancel(&self, source: &str) -> bool {
        // Lists show a source by its label, which does not always say where it is.
        if self.pulls.cancel(source).await {
            return true;
        }
        match Source::parse(source, self.catalogue()) {
            Ok(source) => self.pulls.cancel(&source.label()).await,
            Err(_) => false,
        }
    }

    /// Forgets which bytes `source` served when it was first pulled, so that it may serve others.
    ///
    /// # Errors
    /// When it means nothing, or the database fails.
    pub async fn unpin(&self, source: &str) -> Result<(), Error> {
        let source = Source::parse(source, self.catalogue())?;
        match Order::new(&source)? {
            Some(order) => self.registry.unpin(order.labels()).await,
            None => Ok(()),
        }
    }

    /// Forgets a model. Its file is deleted if it was pulled, and stays where it was adopted.
    ///
    /// # Errors
    /// When there is none of that name, or its file cannot be deleted.
    pub async fn remove(&self, name: &str) -> Result<Removed, Error> {
        self.registry.remove(name).await
    }

    /// What a model file says of itself, whether it is listed or not.
    ///
    /// # Errors
    /// When it cannot be read, or is no sound GGUF file; names the field.
    pub fn inspect(path: &Path) -> Result<Inspection, Error> {
        Inspection::of(path)
    }

    /// Ends all pulls and returns when what had arrived is noted.
    pub async fn close(&self) {
        self.pulls.close().await;
    }
}

/// Fetches what `source` means into `folder` through `egress`, without a daemon and its list. Returns how far it is, and the work, which
/// ends with the file.
///
/// # Errors
/// When `source` means nothing that can be fetched.
pub fn fetch(
    config: &Config,
    egress: &Egress,
    source: &str,
    folder: &Path,
    cancel: CancellationToken,
) -> Result<(watch::Receiver<Progress>, impl Future<Output = Result<PathBuf, Error>> + use<>), Error> {
    let source = Source::parse(source, &catalogue::shipped()?)?;
    let Some(order) = Order::new(&source)? else {
        return Err(Error::Source { text: source.label(), reason: "it is on this machine already".into() });
    };
    let (sender, progress) = watch::channel(Progress::new(&source.label()));
    let outside = egress.outside(Class::ModelDownload, Initiator::Owner, source.label());
    let (config, folder, whole) = (config.models.clone(), folder.to_path_buf(), folder.join(&order.file));
    let work = async move {
        let report = Report::new(sender, cancel);
        report.model(&order.name);
        let fetching = async {
            std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
            let fetched = Downloader::new(&config, outside).fetch(&order, &Pins::new(), &whole, &report).await?;
            fetched.keep(&whole).await
        };
        let result = fetching.await;
        report.end(result.as_ref().copied());
        result.map(|()| whole)
    };
    Ok((progress, work))
}

/// Bytes as lower-case hex digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! The models that are installed: rows in the database, each with the header of its file.

use super::catalogue::CatalogueEntry;
use super::download::Pins;
use super::header::{self, Facts};
use super::spec::{AdapterSpec, DraftSpec, Memory, Wanted};
use super::{Error, ModelSpec, NotFound, name, spec};
use crate::config::{self, Config, Engine};
use crate::db::{self, Db};
use crate::engine::footprint::OnCard;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

/// What is installed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Installed {
    /// What can be served, by name.
    pub models: Vec<Arc<ModelSpec>>,
    /// What cannot, although it was pulled.
    pub broken: Vec<Broken>,
}

/// A model that was pulled and cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// Its name.
    pub name: String,
    /// Where its file should be.
    pub file: PathBuf,
    /// What is wrong, such as a disk that is not mounted.
    pub problem: String,
}

/// A model that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Its name.
    pub name: String,
    /// Its file, which was adopted where it lay and is there still.
    pub kept: Option<PathBuf>,
}

/// The owner of the tables `model` and `pin`.
#[derive(Debug)]
pub(super) struct Registry {
    dir: PathBuf,
    /// How much each model will have to hold.
    engine: Engine,
    config: config::Models,
    db: Db,
    catalogue: Vec<CatalogueEntry>,
    installed: watch::Sender<Arc<Installed>>,
    /// Held while the list is read, so that no older one is shown after a newer.
    reading: Mutex<()>,
}

#[derive(Debug, Clone, sqlx::FromRow)]
struct Row {
    name: String,
    file: String,
    sha256: String,
    bytes: i64,
    source: String,
    licence: Option<String>,
    pulled_at: i64,
}

/// A file that was verified, to be listed.
#[derive(Debug)]
pub(super) struct New<'a> {
    /// The name that its source suggests; bytes that are known under another name get that one.
    pub(super) name: &'a str,
    /// Relative to the models folder, or absolute where it was adopted.
    pub(super) file: &'a str,
    pub(super) sha256: &'a str,
    pub(super) bytes: u64,
    pub(super) source: &'a str,
}

impl Registry {
    pub(super) async fn open(config: &Config, db: Db, catalogue: Vec<CatalogueEntry>) -> Result<Self, Error> {
        let (dir, engine, config) = (config.models_dir(), config.engine.clone(), config.models.clone());
        let (installed, reading) = (watch::Sender::default(), Mutex::default());
        let registry = Self { dir, engine, config, db, catalogue, installed, reading };
        registry.reload().await?;
        for broken in &registry.installed.borrow().broken {
            tracing::warn!(model = broken.name, "a model cannot be served: {}", broken.problem);
        }
        for model in registry.config.adapters.keys().filter(|model| registry.resolve(model).is_err()) {
            tracing::warn!(model, "models.adapters names a model that is not installed");
        }
        for model in registry.config.drafts.keys().filter(|model| registry.resolve(model).is_err()) {
            tracing::warn!(model, "models.drafts names a model that is not installed");
        }
        Ok(registry)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn catalogue(&self) -> &[CatalogueEntry] {
        &self.catalogue
    }

    pub(super) fn installed(&self) -> watch::Receiver<Arc<Installed>> {
        self.installed.subscribe()
    }

    /// The model that a request means.
    pub(super) fn resolve(&self, wanted: &str) -> Result<Arc<ModelSpec>, NotFound> {
        let installed = self.installed.borrow().clone();
        let wanted_normal = name::normal(wanted);
        let is = |name: &str| name::normal(name) == wanted_normal;
        let models = &installed.models;
        let by_alias = || models.iter().find(|model| model.aliases.iter().any(|alias| is(alias)));
        if let Some(model) = models.iter().find(|model| is(&model.name)).or_else(by_alias) {
            return Ok(model.clone());
        }
        let broken = installed.broken.iter().find(|broken| is(&broken.name)).map(|broken| broken.problem.clone());
        let in_catalogue = || {
            let entry = self.catalogue.iter().find(|entry| entry.names().any(is))?;
            Some(format!("it is in the catalogue and not here yet; `sovereign model pull {}` fetches it", entry.name))
        };
        Err(NotFound {
            name: wanted.into(),
            nearest: name::nearest(wanted, models.iter().map(|model| model.name.as_str())),
            reason: broken.or_else(in_catalogue),
        })
    }

    /// The model that a request means, and whether with an adapter: as `model:adapter`, or by the adapter's name alone where
    /// that is one's only and no model's.
    pub(super) fn wanted(&self, wanted: &str) -> Result<Wanted, NotFound> {
        let not_found = match self.resolve(wanted) {
            Ok(spec) => return Ok(Wanted { name: spec.name.clone(), spec }),
            Err(not_found) => not_found,
        };
        let installed = self.installed.borrow().clone();
        let wanted_normal = name::normal(wanted);
        let mut found: Vec<Wanted> = Vec::new();
        for spec in &installed.models {
            let is = |adapter: &&AdapterSpec| {
                let own = adapter.name.strip_prefix(&spec.name).unwrap_or_default();
                let bases = std::iter::once(&spec.name).chain(&spec.aliases);
                let mut names =
                    bases.map(|base| format!("{base}{own}")).chain([own.trim_start_matches(':').to_owned()]);
                names.any(|name| name::normal(&name) == wanted_normal)
            };
            let of = |adapter: &AdapterSpec| Wanted { spec: spec.clone(), name: adapter.name.clone() };
            found.extend(spec.adapters.iter().filter(is).map(of));
        }
        match (found.pop(), found.is_empty()) {
            (Some(one), true) => Ok(one),
            (None, _) => {
                let names = installed.models.iter().flat_map(|spec| spec.names());
                Err(NotFound { nearest: name::nearest(wanted, names), ..not_found })
            }
            (Some(last), false) => {
                let nearest = found.into_iter().chain([last]).map(|wanted| wanted.name).collect();
                Err(NotFound { nearest, ..not_found })
            }
        }
    }

    /// Whether a request means a model that could not be served when it was last looked at.
    pub(super) fn is_broken(&self, wanted: &str) -> bool {
        let wanted = name::normal(wanted);
        self.installed.borrow().broken.iter().any(|broken| name::normal(&broken.name) == wanted)
    }

    /// The installed model of this name or of these bytes.
    pub(super) fn find(&self, name: &str, sha256: Option<&str>) -> Option<Arc<ModelSpec>> {
        let installed = self.installed.borrow();
        installed.models.iter().find(|model| model.name == name || Some(model.sha256.as_str()) == sha256).cloned()
    }

    /// Lists a file. Where a model has these bytes already, that one is returned, and its file made this one if its own
    /// is gone.
    pub(super) async fn add(&self, new: New<'_>) -> Result<Arc<ModelSpec>, Error> {
        let entry = self.catalogue.iter().find(|entry| entry.sha256.as_deref() == Some(new.sha256));
        let name = entry.map_or(new.name, |entry| &entry.name);
        let of_name = self.catalogue.iter().find(|entry| entry.name == name);
        let rows = self.rows().await?;
        let same = rows.iter().find(|row| row.sha256 == new.sha256);
        if same.is_none() && rows.iter().any(|row| row.name == name) {
            return Err(Error::Exists { what: format!("the model {name}") });
        }
        let name = same.map_or(name, |row| &row.name).to_owned();
        let listed = sqlx::query(
            "INSERT INTO model (name, file, sha256, bytes, source, licence, pulled_at) VALUES (?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (name) DO UPDATE SET file = excluded.file, source = excluded.source
             WHERE sha256 = excluded.sha256",
        )
        .bind(&name)
        .bind(new.file)
        .bind(new.sha256)
        .bind(new.bytes.cast_signed())
        .bind(new.source)
        .bind(of_name.map(|entry| &entry.licence))
        .bind(db::now())
        .execute(self.db.writer())
        .await?;
        if listed.rows_affected() == 0 {
            // Another pull was faster.
            return Err(Error::Exists { what: format!("the model {name}") });
        }
        self.reload().await?;
        self.find(&name, None).ok_or_else(|| {
            let broken = self.installed.borrow().broken.iter().find(|broken| broken.name == name).cloned();
            Error::Gguf { from: name, problem: broken.map(|broken| broken.problem).unwrap_or_default() }
        })
    }

    /// Forgets a model and deletes its file, if it is ours.
    pub(super) async fn remove(&self, wanted: &str) -> Result<Removed, Error> {
        let rows = self.rows().await?;
        let name = match self.resolve(wanted) {
            Ok(spec) => spec.name.clone(),
            Err(_) => name::normal(wanted),
        };
        let Some(row) = rows.iter().find(|row| row.name == name) else {
            let nearest = name::nearest(wanted, rows.iter().map(|row| row.name.as_str()));
            return Err(NotFound { name: wanted.into(), nearest, reason: None }.into());
        };
        // The row goes first: a file that is left behind is only space, a row without its file is a broken model.
        sqlx::query("DELETE FROM model WHERE name = ?").bind(&name).execute(self.db.writer()).await?;
        self.reload().await?;
        let file = self.dir.join(&row.file);
        if Path::new(&row.file).is_absolute() {
            return Ok(Removed { name, kept: Some(file) });
        }
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&file)(error)),
            _ => Ok(Removed { name, kept: None }),
        }
    }

    /// All pins.
    pub(super) async fn pins(&self) -> Result<Pins, Error> {
        let pins: Vec<(String, String)> =
            sqlx::query_as("SELECT source, sha256 FROM pin").fetch_all(self.db.reader()).await?;
        Ok(pins.into_iter().collect())
    }

    /// Remembers what sources served the first time.
    pub(super) async fn pin(&self, labels: &[String], sha256: &str, bytes: u64) -> Result<(), Error> {
        for label in labels {
            sqlx::query(
                "INSERT INTO pin (source, sha256, bytes, pinned_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            )
            .bind(label)
            .bind(sha256)
            .bind(bytes.cast_signed())
            .bind(db::now())
            .execute(self.db.writer())
            .await?;
        }
        Ok(())
    }

    /// Forgets what sources served.
    pub(super) async fn unpin(&self, labels: impl Iterator<Item = String>) -> Result<(), Error> {
        for label in labels {
            sqlx::query("DELETE FROM pin WHERE source = ?").bind(label).execute(self.db.writer()).await?;
        }
        Ok(())
    }

    async fn rows(&self) -> Result<Vec<Row>, Error> {
        let rows =
            sqlx::query_as("SELECT name, file, sha256, bytes, source, licence, pulled_at FROM model ORDER BY name");
        Ok(rows.fetch_all(self.db.reader()).await?)
    }

    /// Reads the list anew, and the header of every file in it.
    pub(super) async fn reload(&self) -> Result<(), Error> {
        let _alone = self.reading.lock().await;
        let rows: Vec<(Row, Vec<String>)> = self
            .rows()
            .await?
            .into_iter()
            .map(|row| {
                let entry = self.catalogue.iter().find(|entry| entry.name == row.name);
                let aliases = entry.map(|entry| entry.aliases.clone()).unwrap_or_default();
                (row, aliases)
            })
            .collect();
        let (dir, engine, config) = (self.dir.clone(), self.engine.clone(), self.config.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let mut installed = Installed::default();
            let drafts = drafts_of(&rows, &config.drafts, &dir);
            for ((row, aliases), draft) in rows.into_iter().zip(drafts) {
                let file = dir.join(&row.file);
                let name = row.name.clone();
                let adapters = adapters_of(&row, &aliases, &config.adapters, &dir);
                match spec_of(row, aliases, file.clone(), &engine, adapters, draft) {
                    Ok((spec, broken)) => {
                        installed.models.push(Arc::new(spec));
                        installed.broken.extend(broken);
                    }
                    Err(problem) => installed.broken.push(Broken { name, file, problem }),
                }
            }
            installed
        });
        let installed = reading.await.map_err(|gone| Error::io(&self.dir)(std::io::Error::other(gone)))?;
        self.installed.send_replace(Arc::new(installed));
        Ok(())
    }
}

fn is_called(row: &Row, aliases: &[String], wanted: &str) -> bool {
    name::normal(wanted) == name::normal(&row.name) || aliases.iter().any(|alias| alias == wanted)
}

/// The files of the models that are configured to guess for each.
fn drafts_of(rows: &[(Row, Vec<String>)], configured: &BTreeMap<String, PathBuf>, dir: &Path) -> Vec<Option<PathBuf>> {
    let file = |draft: &PathBuf| {
        let installed = rows.iter().find(|(row, aliases)| draft.to_str().is_some_and(|it| is_called(row, aliases, it)));
        dir.join(installed.map_or(draft.as_path(), |(row, _)| Path::new(&row.file)))
    };
    let of = |(row, aliases): &(Row, Vec<String>)| {
        configured.iter().find(|(model, _)| is_called(row, aliases, model)).map(|(_, draft)| file(draft))
    };
    rows.iter().map(of).collect()
}

/// The adapters that are configured for a model.
fn adapters_of(
    row: &Row,
    aliases: &[String],
    configured: &BTreeMap<String, BTreeMap<String, PathBuf>>,
    dir: &Path,
) -> Vec<AdapterSpec> {
    let of = configured.iter().filter(|(model, _)| is_called(row, aliases, model)).flat_map(|(_, adapters)| adapters);
    // Under an alias the same may be there again.
    let by_name: BTreeMap<&String, &PathBuf> = of.collect();
    let spec =
        |(name, path): (&String, &PathBuf)| AdapterSpec { name: format!("{}:{name}", row.name), path: dir.join(path) };
    by_name.into_iter().map(spec).collect()
}

/// What a row and the header of its file say together; and the adapters and what guesses, where they cannot be loaded with it.
fn spec_of(
    row: Row,
    aliases: Vec<String>,
    file: PathBuf,
    engine: &Engine,
    adapters: Vec<AdapterSpec>,
    draft: Option<PathBuf>,
) -> Result<(ModelSpec, Vec<Broken>), String> {
    let there =
        std::fs::metadata(&file).map_err(|error| format!("its file {} cannot be read: {error}", file.display()))?;
    let bytes = row.bytes.cast_unsigned();
    if there.len() != bytes {
        return Err(format!(
            "its file {} has {} bytes and had {bytes} when it was pulled",
            file.display(),
            there.len()
        ));
    }
    let paths: Vec<PathBuf> = adapters.iter().map(|adapter| adapter.path.clone()).collect();
    let read = header::read_adapted(&file, "its file", &paths).map_err(|error| error.to_string())?;
    let (Facts { summary, footprint }, problems) = read;
    let (mut fit, mut broken) = (Vec::new(), Vec::new());
    for (AdapterSpec { name, path }, problem) in adapters.into_iter().zip(problems) {
        let is_plain = name[row.name.len() + 1..].chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
        let unfit = (!is_plain).then(|| "its name may have letters, digits, dots, dashes and underscores".into());
        match problem.or(unfit) {
            Some(problem) => broken.push(Broken { name, file: path, problem }),
            None => fit.push(AdapterSpec { name, path }),
        }
    }
    let context = spec::context(summary.context_train, engine.context);
    let draft = draft.and_then(|file| match draft_of(&file, context, engine.slots) {
        Ok(memory) if !footprint.embeds => Some(DraftSpec { file, memory }),
        told => {
            let problem = told.err().unwrap_or_else(|| "there is nothing to guess: its model embeds".into());
            broken.push(Broken { name: format!("{} (draft)", row.name), file, problem });
            None
        }
    });
    let spec = ModelSpec {
        name: row.name,
        aliases,
        file,
        adopted: Path::new(&row.file).is_absolute(),
        sha256: row.sha256,
        bytes,
        source: row.source,
        licence: row.licence.or(summary.licence),
        pulled_at: row.pulled_at,
        architecture: summary.architecture,
        parameters: summary.parameters,
        quantisation: summary.quantisation,
        context_train: summary.context_train,
        embeds: footprint.embeds,
        weights: footprint.weights,
        kv_per_token: footprint.kv_per_token,
        on_card: match footprint.on_card {
            OnCard::Yes(needs) => Some(needs),
            OnCard::No(_) => None,
        },
        workspace: footprint.workspace(context, engine.slots),
        adapters: fit,
        draft,
    };
    Ok((spec, broken))
}

/// What a model takes that guesses in `slots` conversations of `context` tokens.
fn draft_of(file: &Path, context: usize, slots: usize) -> Result<Memory, String> {
    let Facts { summary, footprint } = header::read(file, "its file").map_err(|error| error.to_string())?;
    let context = spec::context(summary.context_train, context);
    match footprint.embeds {
        true => Err("it embeds, and cannot guess".into()),
        false => Ok(Memory {
            context_train: summary.context_train,
            weights: footprint.weights,
            kv_per_token: footprint.kv_per_token,
            workspace: footprint.workspace(context, slots),
        }),
    }
}

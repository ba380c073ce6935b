//! What a person may write to say which model they want.

use super::catalogue::{CatalogueEntry, HubFile};
use super::{Error, NotFound, name};
use crate::egress::Url;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Where a model is asked from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// The catalogue knows where.
    Catalogue(Box<CatalogueEntry>),
    /// `hf:owner/repo/file.gguf[@revision]`, or the page or download address of such a file.
    Hub(HubFile),
    /// Any other file on the web.
    Web(Url),
    /// A file on this machine.
    File(PathBuf),
}

impl Source {
    /// Reads what a person wrote.
    ///
    /// # Errors
    /// When it is none of these forms, or a name that the catalogue does not have.
    pub(super) fn parse(text: &str, catalogue: &[CatalogueEntry]) -> Result<Self, Error> {
        let text = text.trim();
        let refuse = |reason: &str| Err(Error::Source { text: redact(text), reason: reason.into() });
        if let Some(rest) = text.strip_prefix("hf:") {
            return match hub(rest) {
                Some(hub) => Ok(Self::Hub(single_file(hub)?)),
                None => refuse("write hf:owner/repository/file.gguf, and @revision after it if not main"),
            };
        }
        if text.contains("://") {
            let Ok(url) = text.parse::<Url>() else { return refuse("it is not an address") };
            if !url.username().is_empty() || url.password().is_some() {
                return refuse("an address must not hold a password");
            }
            // A file without a known digest is only as trustworthy as the way that it came.
            let here = url.host_str().is_some_and(|host| host == "127.0.0.1" || host == "[::1]");
            return match url.scheme() {
                "https" => match hub_page(&url) {
                    Some(hub) => Ok(Self::Hub(single_file(hub)?)),
                    None => Ok(Self::Web(url)),
                },
                "http" if here => Ok(Self::Web(url)),
                "http" => refuse("only https is fetched: what comes over plain http can be changed on its way"),
                _ => refuse("only https addresses are fetched"),
            };
        }
        if text.starts_with('/') {
            return Ok(Self::File(Path::new(text).to_path_buf()));
        }
        let wanted = name::normal(text);
        match catalogue.iter().find(|entry| entry.names().any(|name| name::normal(name) == wanted)) {
            Some(entry) => Ok(Self::Catalogue(Box::new(entry.clone()))),
            None => Err(Error::NotFound(NotFound {
                name: text.into(),
                nearest: name::nearest(text, catalogue.iter().map(|entry| entry.name.as_str())),
                reason: None,
            })),
        }
    }

    /// What the source is called in lists, logs and pins. Holds nothing secret, and tells different sources apart.
    pub(super) fn label(&self) -> String {
        match self {
            Self::Catalogue(entry) => entry.name.clone(),
            Self::Hub(hub) => hub.label(),
            Self::Web(url) => web_label(url),
            Self::File(path) => path.display().to_string(),
        }
    }
}

impl HubFile {
    /// `hf:owner/repo/file@revision`.
    pub(super) fn label(&self) -> String {
        format!("hf:{}/{}@{}", self.repo, self.file, self.revision)
    }
}

/// What an address is called.
pub(super) fn web_label(url: &Url) -> String {
    match url.query() {
        None => bare(url),
        // A query may be a signature. Its digest tells two of them apart without telling them.
        Some(query) => format!("{}?{}", bare(url), &super::hex(&Sha256::digest(query))[..8]),
    }
}

/// `url` without what may be a secret in it.
fn bare(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

fn redact(text: &str) -> String {
    text.parse::<Url>()
        .map_or_else(|_| text.to_owned(), |url| if url.has_host() { bare(&url) } else { text.to_owned() })
}

fn hub(text: &str) -> Option<HubFile> {
    let (path, revision) = text.rsplit_once('@').unwrap_or((text, "main"));
    let mut parts = path.splitn(3, '/');
    let (owner, repo, file) = (parts.next()?, parts.next()?, parts.next()?);
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    (plain(owner) && plain(repo) && file.split('/').all(plain) && !revision.is_empty()).then(|| HubFile {
        repo: format!("{owner}/{repo}"),
        revision: revision.into(),
        file: file.into(),
    })
}

/// The file behind `https://huggingface.co/owner/repo/{blob,resolve}/revision/file`.
fn hub_page(url: &Url) -> Option<HubFile> {
    if !matches!(url.host_str(), Some("huggingface.co" | "hf.co")) {
        return None;
    }
    let segments: Vec<&str> = url.path_segments()?.collect();
    match segments.as_slice() {
        [owner, repo, "blob" | "resolve", revision, file @ ..] if !file.is_empty() => {
            hub(&format!("{owner}/{repo}/{}@{}", file.join("/"), revision.replace("%2F", "/")))
        }
        _ => None,
    }
}

fn single_file(hub: HubFile) -> Result<HubFile, Error> {
    let file = hub.file.to_ascii_lowercase();
    let refuse = |reason: &str| Err(Error::Source { text: hub.label(), reason: reason.into() });
    if !file.ends_with(".gguf") {
        return refuse("it is not a .gguf file");
    }
    // `-00001-of-00003` before the ending.
    let stem = file.trim_end_matches(".gguf").as_bytes();
    if stem.len() > 9 && stem[stem.len() - 9..].starts_with(b"-of-") {
        return refuse("it is one part of a model that was split; take a quantisation that is a single file");
    }
    Ok(hub)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Source, Error> {
        Source::parse(text, &crate::models::catalogue::shipped().unwrap())
    }

    #[test]
    fn sources_are_told_apart() {
        let check = |text: &str, label: &str| assert_eq!(parse(text).unwrap().label(), label, "{text}");
        check("Gemma-3-270M:latest", "gemma-3-270m");
        check("qwen2.5-coder:1.5b", "qwen2.5-coder-1.5b-instruct");
        check("hf:o/r/m.gguf", "hf:o/r/m.gguf@main");
        check("hf:o/r/sub/m.gguf@refs/pr/1", "hf:o/r/sub/m.gguf@refs/pr/1");
        check("https://huggingface.co/o/r/blob/main/m.gguf", "hf:o/r/m.gguf@main");
        check("https://huggingface.co/o/r/resolve/refs%2Fpr%2F1/m.gguf?download=true", "hf:o/r/m.gguf@refs/pr/1");
        check("https://host/m.gguf", "https://host/m.gguf");
        check("http://127.0.0.1:80/m.gguf", "http://127.0.0.1/m.gguf");
        check("/tmp/m.gguf", "/tmp/m.gguf");
    }

    #[test]
    fn labels_hide_queries_but_tell_them_apart() {
        let label = |text: &str| parse(text).unwrap().label();
        let (a, b) = (label("https://host/m.gguf?sig=SECRET"), label("https://host/m.gguf?sig=OTHER"));
        assert!(a != b && !a.contains("SECRET"), "{a} {b}");
    }

    #[test]
    fn others_are_refused_with_a_reason() {
        let check = |text: &str, expected: &str| {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("SECRET"), "{text}: {error}");
        };
        check("gema-3-270m", "did you mean gemma-3-270m");
        check("hf:o/r", "hf:owner/repository/file.gguf");
        check("hf:o/../m.gguf", "hf:owner/repository/file.gguf");
        check("hf:o/r/m.safetensors", "not a .gguf");
        check("hf:o/r/m-00001-of-00003.gguf", "split");
        check("http://example.org/m.gguf", "plain http");
        check("https://user:SECRET@host/m.gguf", "password");
        check("ftp://host/m.gguf?SECRET", "only https");
        check("../m.gguf", "no model");
    }
}

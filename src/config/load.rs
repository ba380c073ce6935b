use super::Config;
use serde::{Deserialize, Deserializer};
use serde_yaml::Error as Yaml;
use std::path::{Path, PathBuf};

/// Reads one configuration file.
pub(super) fn file(path: &Path) -> Result<Config, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
    parse(&text, path)
}

/// Parses the text of `path`, which is only named in errors.
pub(super) fn parse(text: &str, path: &Path) -> Result<Config, Error> {
    // A file of comments alone is the defaults.
    if text.lines().all(|line| line.trim_start().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Config::default());
    }
    serde_yaml::from_str(text).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        let message = match error.without_snippet() {
            Yaml::SerdeUnknownField { field, expected, .. } => unknown_key(field, expected),
            other => other.to_string(),
        };
        Error::Parse { path: path.to_path_buf(), line, message }
    })
}

fn unknown_key(field: &str, expected: &[&'static str]) -> String {
    let nearest =
        expected.iter().max_by(|a, b| strsim::jaro_winkler(field, a).total_cmp(&strsim::jaro_winkler(field, b)));
    match nearest {
        Some(nearest) => {
            format!("there is no key `{field}`; did you mean `{nearest}`? Known here: {}", expected.join(", "))
        }
        None => format!("there is no key `{field}`, and none is known here"),
    }
}

/// A section whose keys are all commented out is null to YAML, and the defaults to its owner.
pub(super) fn section<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file says something that is not understood.
    #[error("{}:{line}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, from 1; 0 where the parser knows none.
        line: u64,
        /// What is wrong, and what would be right.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../docs/config.yaml");

    #[test]
    fn the_example_is_the_defaults() {
        assert_eq!(parse(EXAMPLE, Path::new("config.yaml")).unwrap(), Config::default());
    }

    #[test]
    fn the_example_with_every_key_set_is_understood() {
        let uncommented: String = EXAMPLE
            .lines()
            .map(|line| {
                // `  # key: value` is an unset key; prose in a comment has a space before any colon.
                let trimmed = line.trim_start();
                let key = trimmed.strip_prefix("# ").filter(|rest| {
                    rest.split_once(": ")
                        .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
                });
                key.map_or(line.to_string(), |key| format!("{}{key}", &line[..line.len() - trimmed.len()])) + "\n"
            })
            .collect();
        let config = parse(&uncommented, Path::new("config.yaml")).unwrap();
        assert!(config.models.python_index.is_some() && config.placement.host_memory.is_some());
        for section in ["server", "gpu", "docker", "models", "engine", "placement", "gateway", "egress"] {
            let error = parse(&format!("{section}:\n  zzz: 1\n"), Path::new("c")).unwrap_err().to_string();
            let known = error.split("Known here: ").nth(1).unwrap_or_else(|| panic!("{section}: {error}"));
            for key in known.split(", ") {
                assert!(uncommented.contains(&format!("  {key}:")), "docs/config.yaml lacks {section}.{key}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let check = |text: &str, expected: &str| {
            let error = parse(text, Path::new("/etc/c.yaml")).unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} should contain {expected:?}");
        };
        check("server:\n  listne: 1\n", "/etc/c.yaml:2: there is no key `listne`; did you mean `listen`?");
        check("sever:\n  listen: 1\n", "/etc/c.yaml:1: there is no key `sever`; did you mean `server`?");
        check("engine:\n  slots: many\n", "/etc/c.yaml:2: ");
        check("gpu:\n  reserve: 5 potatoes\n", "/etc/c.yaml:2: ");
        check("server:\n  listen: 8808\n", "/etc/c.yaml:2: ");
        check("engine: {slots: 1}\nengine: {slots: 2}\n", "/etc/c.yaml:2: ");
        check("a: [\n", "/etc/c.yaml:");
    }
}

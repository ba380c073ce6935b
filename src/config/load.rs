use super::Config;
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

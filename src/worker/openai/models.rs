use serde::{Deserialize, Serialize};

/// The header by which a gateway says which of a worker's models it means; the body may say that in other words.
pub const CHOSEN: &str = "x-sovereign-model";

/// The answer of `GET /v1/models`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Models {
    /// Always `list`.
    pub object: String,
    /// The models.
    pub data: Vec<Model>,
}

impl Models {
    /// A list of these.
    pub fn new(data: Vec<Model>) -> Self {
        Self { object: "list".into(), data }
    }
}

/// A model as `GET /v1/models` lists it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Model {
    /// What requests call it.
    pub id: String,
    /// Always `model`.
    pub object: String,
    /// When it came here, in seconds since 1970.
    pub created: u64,
    /// Who offers it.
    pub owned_by: String,
    /// Tokens that one conversation may hold (vLLM's field).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<u64>,
    /// Of an adapter, the model that it adds to (vLLM's field).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

impl Model {
    /// A model of this house.
    pub fn new(id: impl Into<String>, created: u64, context: Option<u64>) -> Self {
        let owned_by = "sovereign".into();
        Self { id: id.into(), object: "model".into(), created, owned_by, max_model_len: context, parent: None }
    }

    /// The same as an adapter of another.
    pub fn with_parent(self, parent: impl Into<String>) -> Self {
        Self { parent: Some(parent.into()), ..self }
    }
}

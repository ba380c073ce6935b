use serde::{Deserialize, Serialize};

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
}

impl Model {
    /// A model of this house.
    pub fn new(id: impl Into<String>, created: u64, context: Option<u64>) -> Self {
        Self { id: id.into(), object: "model".into(), created, owned_by: "sovereign".into(), max_model_len: context }
    }
}

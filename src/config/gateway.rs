use serde::Deserialize;

/// Who may ask.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Whether a request without an API key is answered to this machine itself (loopback). Others always need a key.
    pub anonymous_loopback: bool,
    /// Whether anybody may read `/metrics`. Otherwise it is as with questions: who has a key.
    pub open_metrics: bool,
}

impl Default for Gateway {
    fn default() -> Self {
        Self { anonymous_loopback: true, open_metrics: false }
    }
}

use super::Bytes;
use serde::Deserialize;

/// Where the native engine's workers compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineDevice {
    /// On a card where one can serve the model and has room, else on the processor.
    #[default]
    Auto,
    /// On the processor.
    Cpu,
    /// On a card, and on the processor only what no card can serve.
    Cuda,
}

/// The native engine's workers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// Where they compute.
    pub device: EngineDevice,
    /// Threads of a worker on the CPU; all physical cores unless said.
    pub threads: Option<usize>,
    /// Tokens that one conversation may hold, prompt and answer together; never more than the model was trained for.
    pub context: usize,
    /// Conversations that one worker answers at once.
    pub slots: usize,
    /// Bytes of what was computed of prompts that may be kept on disk, in the state folder; nothing unless said, as it is the
    /// contents of conversations.
    pub prefix_cache: Option<Bytes>,
}

impl Default for Engine {
    fn default() -> Self {
        Self { device: EngineDevice::Auto, threads: None, context: 4096, slots: 2, prefix_cache: None }
    }
}

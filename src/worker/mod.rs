//! The worker process: one model behind an OpenAI-compatible HTTP face.

pub mod openai;

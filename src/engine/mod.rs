//! Inference: from the bytes of a model file to tokens. Synchronous; knows nothing of the rest of the crate.
//!
//! The map, in the order in which a request passes:
//!
//! - [`gguf`]: the model file. Every figure in it is checked before it is believed; weights are read where they lie.
//!   [`safetensors`]: the same in Hugging Face's form. [`lora`]: adapters, which add to a model's matrices.
//! - [`footprint`]: what the model takes, and whether it can be served: from its header alone.
//! - [`template`]: messages to the text that the model was trained on. [`output`]: reasoning and calls in its answers.
//! - [`tokenizer`]: text to tokens and back.
//! - [`model`]: the forward passes, from tokens to logits. [`kv_cache`]: what they remember of conversations; [`blocks`]:
//!   where that lies, and who shares it; [`prefix_cache`]: what is kept of it on disk.
//! - [`quant`]: how weights are stored; [`quantise`]: a model in other formats. [`kernels`]: the operations that a device offers.
//! - [`grammar`]: what an answer may be. [`sampler`]: logits to a token. [`emitter`]: tokens to text that can be shown.
//! - [`eval`]: how well a model predicts a text.
//! - [`sequence`]: one answer on its way. [`batcher`]: which of them runs next, with [`speculation`]'s
//!   guesses or those of a smaller model, [`draft`]; [`pace`]: how much of each; [`passes`]: what they run on.

pub mod batcher;
pub mod blocks;
pub mod draft;
pub mod emitter;
pub mod eval;
pub mod footprint;
pub mod gguf;
pub mod grammar;
pub mod kernels;
pub mod kv_cache;
pub mod lora;
pub mod model;
pub mod output;
pub mod pace;
pub mod passes;
pub mod prefix_cache;
pub mod quant;
pub mod quantise;
pub mod safetensors;
pub mod sampler;
pub mod sequence;
pub mod speculation;
pub mod template;
pub mod tokenizer;

mod error;
mod load;
mod stack;

pub use error::Error;
pub use load::{load, load_adapted, load_kept};
